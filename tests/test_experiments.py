"""Every YAML in experiments/ parses, and trains, validates, samples and scores in a shrunken run of one step."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import bpe
import datasets
import families
import gemma
import pytest
import timm
import tiny
import torch
import torchvision
import yaml
from datamodules_shards import shard
from judges import write_clip, write_mask2former
from safetensors.torch import save_file
from toy import make_trainer

from datamodules import Folder, Mixture, Stream
from datamodules.images import to_image
from unifluid.checkpoints import read
from unifluid.cli.main import main
from unifluid.encoders import Patches
from unifluid.modules.contrastive import ContrastiveModule
from unifluid.optimization import AdamW
from unifluid.sequence import TASKS

ROOT = Path(__file__).parents[1]
# Recipes of downstream tasks train and score in tests/datamodules/tasks, studies in tests/cli/test_study.py.
FILES = [f for f in sorted((ROOT / "experiments").rglob("*.yaml")) if f.parent.name != "transfer"]
EXPERIMENTS = [f for f in FILES if "claim" not in yaml.safe_load(f.read_text())]
GEMMAS = {"gemma-2b": "gemma", "gemma-2-2b": "gemma2", "gemma-3-1b-pt": "gemma3"}
PARTS = {  # arguments of large parts, which take the rest from their files in `models`
    "AutoencoderKL": {"image_size": 16},
    "SigLIP": {"image_size": gemma.SIZE, "options": gemma.VIT},
    "Decoder": {"mlp_width": 64},
    "FID": {"n": 4},  # recall looks at three neighbours
    "TimmEncoder": {"image_size": 32},
}
SIGLIPS = {
    "siglip-so400m-patch14-224": "vit_so400m_patch14_siglip_224",
    "siglip2-so400m-patch16-384": "vit_so400m_patch16_siglip_384",
}
PALIGEMMAS = {"paligemma-3b-pt-224": "gemma", "paligemma2-3b-pt-224": "gemma2"}
MEMBERS = {  # of the fixture's shards
    "generate": {"target": "png", "prompt": "txt"},
    "caption": {"image": "png", "caption": "txt"},
    "answer": {"image": "png", "question": "txt", "answers": "txt"},
}
SMALL = {  # at most
    "depth": 2,
    "heads": 4,
    "images_per_prompt": 1,
    "n": 2,
    "sample": 4,
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
    """An overlay, which says only what it changes, goes on top of the run it names, or else of the default one."""
    text = file.read_text()
    whole = "class_path" in yaml.safe_load(text).get("model", {})
    named = re.search(r"(?:on top of|overlay on) (\S+\.yaml(?: and \S+\.yaml)*)", text, re.IGNORECASE)
    names = (named[1] if named else "demo.yaml").split(" and ")
    bases = [next(f / name for f in (file.parent, ROOT / "experiments") if (f / name).exists()) for name in names]
    files = [file] if whole else [*bases, file]
    return ["fit", *(x for f in files for x in ("--config", str(f)))]


def files(data: Path) -> dict[str, dict[str, str]]:
    """Arguments of each class that name files -> those of the fixture."""
    coco = {"annotations": f"{data}/dataset_coco.json", "images": str(data), "split": "train"}
    tables = {"files": f"{data}/edits", "cache": str(data)}
    vqa = {name: f"{data}/{name}.json" for name in ("questions", "annotations")}
    return {
        "Folder": {"path": str(data)},
        "CocoCaptions": coco,
        "CocoPictures": coco,
        "VQA": {**vqa, "images": str(data), "file_name": "a.png"},
        "WebDataset": {"shards": f"{data}/0.tar"},
        "HQEdit": tables,
        "UltraEdit": tables,
        "CachedMoments": {"cache": "moments"},
        "EncoderFeatures": {"checkpoint": f"{data}/features/last.ckpt"},
        "EfficientNetLite0": {"image_size": 32},
        "Inception": {"weights": f"{data}/inception.pth", "sha256": sha256(Path(data, "inception.pth"))},
        "GenEvalPrompts": {"metadata": None},
    }


@functools.cache
def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def shrink(value: Any, data: Path) -> Any:
    """The same parts and settings, on few and small examples, without the checkpoints that other runs leave."""
    if isinstance(value, list):
        return [shrink(v, data) for v in value]
    if not isinstance(value, dict):
        return value
    small = {k: min(v, SMALL[k]) if k in SMALL and v is not None else shrink(v, data) for k, v in value.items()}
    for name in ("weights", "init_from"):
        if str(small.get(name)).endswith((".ckpt", ".safetensors")):
            small[name] = None
    name = str(small.get("class_path", "")).rpartition(".")[2]
    small |= {"init_args": small["init_args"] | PARTS[name]} if name in PARTS else {}
    if (named := files(data).get(name)) is not None:
        small["init_args"] |= named
    if name == "WebDataset" and small["init_args"]["fields"] is None:
        small["init_args"]["fields"] = MEMBERS[small["init_args"]["task"]]
    if name == "HuggingFaceBackbone" and small["init_args"]["pretrained"] is not None:
        small["init_args"]["config"] = None  # that of its files
    if name == "SentencePiece" and small["init_args"]["model_file"] is not None:
        small["init_args"]["vocab_size"] = None  # as many as the small model has
    if "streams" in small and small["rows"] is not None:
        small["rows"] = 8  # of all streams
    return small


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """One's own data: every task in every split, and features to judge it by."""
    path = tmp_path_factory.mktemp("data")
    to_image(tiny.image(0, size=48)).save(path / "a.png")
    fields = {"image": "a.png", "target": "a.png", "caption": "a cat", "prompt": "a cat", "question": "what is it?"}
    fields |= {"answers": ["a cat"], "instruction": "make it red", "meta": {"concept": "cat"}}
    rows = [{"task": task, **fields} for task in TASKS]
    for split in ("train", "val", "test", "extra"):
        (path / f"{split}.jsonl").write_text("\n".join(json.dumps(row) for row in rows * 3))
    features(path)
    distributed(path)
    inception = torchvision.models.inception_v3(num_classes=1008, aux_logits=False, init_weights=False)
    torch.save(inception.state_dict(), path / "inception.pth")
    return path


def features(path: Path) -> None:
    """A checkpoint of an encoder to judge the pictures by."""
    encoder = Patches(image_size=48, width=16, depth=0)
    trainer = make_trainer(path / "features", steps=1)
    trainer.fit(ContrastiveModule(encoder, AdamW()), Mixture({"edit": Stream(Folder(path, "edit"), rows=2)}))
    trainer.save_checkpoint(path / "features" / "last.ckpt", weights_only=False)


def distributed(path: Path) -> None:
    """The same picture in the forms that public data sets come in."""
    picture = (path / "a.png").read_bytes()
    shard(path / "0.tar", *(m for i in range(4) for m in ((f"{i}.png", picture), (f"{i}.txt", "a cat"))))
    sentences = [{"raw": "a cat"}, {"raw": "one cat"}]
    image = {"filepath": ".", "filename": "a.png", "split": "train", "sentences": sentences}
    (path / "dataset_coco.json").write_text(json.dumps({"images": [{**image, "cocoid": i} for i in range(4)]}))
    questions = [{"image_id": 1, "question": "what is it?", "question_id": i} for i in range(4)]
    answers = [{"question_id": i, "answers": [{"answer": "a cat"}] * 10} for i in range(4)]
    (path / "questions.json").write_text(json.dumps({"data_subtype": "train2014", "questions": questions}))
    (path / "annotations.json").write_text(json.dumps({"annotations": answers}))
    names = ("input_image", "output_image", "source_image", "edited_image")
    table = {name: [{"bytes": picture, "path": None}] * 4 for name in names}
    texts = {name: ["make it red"] * 4 for name in ("edit", "edit_prompt")}
    datasets.Dataset.from_dict(table | texts).save_to_disk(path / "edits")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """What the recipes expect in the folder `models`, tiny and random, as its own libraries write it."""
    from diffusers import AutoencoderKL
    from transformers import AutoConfig, AutoModelForCausalLM

    path = tmp_path_factory.mktemp("models")
    for name, family in GEMMAS.items():
        families.write(path / name, family)
    bpe.write(path / "smollm2-135m")
    settings = AutoConfig.for_model(**families.config("llama", vocab_size=320))
    AutoModelForCausalLM.from_config(settings).save_pretrained(path / "smollm2-135m")
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    AutoencoderKL(block_out_channels=[4, 8], norm_num_groups=2, **blocks).save_pretrained(path / "sd-vae")
    for name, model in SIGLIPS.items():
        (path / name).mkdir()
        vit = timm.create_model(model, img_size=gemma.SIZE, **gemma.VIT)
        save_file(vit.state_dict(), path / name / "model.safetensors")
    (path / "efficientnet-lite0").mkdir()
    save_file(timm.create_model("efficientnet_lite0").state_dict(), path / "efficientnet-lite0" / "model.safetensors")
    write_mask2former(path / "mask2former")
    write_clip(path / "clip-vit-large-patch14")
    for name, kind in PALIGEMMAS.items():
        (path / name).mkdir()
        pieces = gemma.write_tokenizer(path / name / "tokenizer.model").piece_size()
        gemma.write_paligemma(path / name, kind, pieces + 2)
    return path


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda f: str(f.relative_to(ROOT / "experiments")))
def test_every_experiment_trains_a_step(file, folder, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("models").symlink_to(models)
    cached = "CachedMoments" in file.read_text()
    pixels = ["--config", str(ROOT / "experiments" / "image_tokenizer" / "pixels.yaml")] * cached  # no random weights
    assert main([*arguments(file), *pixels, "--print_config"]) == 0
    config = shrink(yaml.safe_load(capsys.readouterr().out), folder)
    config["trainer"] |= {**ONE_STEP, "default_root_dir": "run"}
    if "class_path" not in yaml.safe_load(file.read_text()).get("model", {}) and "callbacks" not in file.read_text():
        config["trainer"]["callbacks"] = None  # an overlay's base samples and scores in a test of its own
    Path("small.yaml").write_text(yaml.safe_dump(config))
    if cached:
        assert main(["data", "cache", "--config", "small.yaml"]) == 0
    assert main(["fit", "--config", "small.yaml"]) == 0
    Path("models").unlink()
    assert read("run/last.ckpt").build() is not None  # a checkpoint needs none of the files it came from


def test_experiments_are_short_and_commented():
    for file in EXPERIMENTS:
        lines = file.read_text().splitlines()
        assert lines[0].startswith("# "), f"{file.name} says nothing of itself"
        assert len(lines) < 120
