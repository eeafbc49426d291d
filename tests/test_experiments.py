"""Every YAML in experiments/ parses, and trains, validates, samples and scores in a shrunken run of one step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from PIL import Image
from toy import make_trainer

from datamodules.folder import Folder
from datamodules.mixture import Mixture, Stream
from unifluid.cli.main import main
from unifluid.contrastive import ContrastiveModule
from unifluid.encoders import Patches
from unifluid.optimization import AdamW
from unifluid.sequence import TASKS

ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.yaml"))
BASES = {"emoji_gpu.yaml": "emoji.yaml"}
SMALL = {  # at most
    "depth": 2,
    "heads": 4,
    "images_per_prompt": 1,
    "n": 1,
    "rows": 2,
    "steps": 2,
    "tokenizer_texts": 2000,
    "validation_examples": 2,
    "width": 64,
    "workers": 0,
}
ONE_STEP = {
    "max_steps": 1,
    "limit_val_batches": 1,
    "val_check_interval": 1,
    "num_sanity_val_steps": 0,
    "accelerator": "cpu",
    "devices": 1,
    "strategy": "auto",
    "num_nodes": 1,
    "accumulate_grad_batches": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def arguments(file: Path) -> list[str]:
    """An overlay, which says only what it changes, goes on top of the default run, or the one it names."""
    whole = "class_path" in yaml.safe_load(file.read_text()).get("model", {})
    files = [file] if whole else [ROOT / "experiments" / BASES.get(file.name, "demo.yaml"), file]
    return ["fit", *(x for f in files for x in ("--config", str(f)))]


def shrink(value: Any, data: Path) -> Any:
    """The same parts and settings, on few and small examples, without files that other runs leave."""
    if isinstance(value, list):
        return [shrink(v, data) for v in value]
    if not isinstance(value, dict):
        return value
    small = {k: min(v, SMALL[k]) if k in SMALL and v is not None else shrink(v, data) for k, v in value.items()}
    for name in ("weights", "init_from"):
        if str(small.get(name)).endswith((".ckpt", ".safetensors")):
            small[name] = None
    if small.get("class_path", "").endswith("Folder"):
        small["init_args"]["path"] = str(data)
    if small.get("class_path", "").endswith("EncoderFeatures"):
        small["init_args"]["checkpoint"] = str(data / "features" / "last.ckpt")
    return small


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One's own data: every task in every split, and features to judge it by."""
    path = tmp_path_factory.mktemp("data")
    Image.fromarray(tiny.image(0, size=48).permute(1, 2, 0).numpy()).save(path / "a.png")
    fields = {"image": "a.png", "target": "a.png", "caption": "a cat", "prompt": "a cat", "question": "what is it?"}
    fields |= {"answers": ["a cat"], "instruction": "make it red", "meta": {"concept": "cat"}}
    rows = [{"task": task, **fields} for task in TASKS]
    for split in ("train", "val", "test"):
        (path / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows * 3))
    encoder = Patches(image_size=48, width=16, depth=0)
    trainer = make_trainer(path / "features", steps=1)
    trainer.fit(ContrastiveModule(encoder, AdamW()), Mixture({"edit": Stream(Folder(path, "edit"), rows=2)}))
    trainer.save_checkpoint(path / "features" / "last.ckpt", weights_only=False)
    return path


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: str(f.relative_to(ROOT / "experiments")))
def test_every_experiment_trains_a_step(file, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*arguments(file), "--print_config"]) == 0
    config = shrink(yaml.safe_load(capsys.readouterr().out), folder)
    config["trainer"] |= {**ONE_STEP, "default_root_dir": "run"}
    Path("small.yaml").write_text(yaml.safe_dump(config))
    assert main(["fit", "--config", "small.yaml"]) == 0
    assert Path("run", "last.ckpt").exists()


def test_experiments_are_short_and_commented():
    for file in EXPERIMENTS:
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# "), f"{file.name} says nothing of itself"
        assert len(lines) < 120
