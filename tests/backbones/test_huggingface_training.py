"""A backbone of the transformers library in the whole model: trained, stored, and rebuilt without its files."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest
import tiny
import torch
import yaml
from cli.runs import error_line, fit_arguments
from families import config
from toy import make_data, make_module, make_trainer
from transformers import AutoConfig, AutoModelForCausalLM

from callbacks.ema import EMA
from unifluid.backbones import HuggingFaceBackbone, LoRA
from unifluid.checkpoints import export, read
from unifluid.cli.main import main
from unifluid.configs import ALLOWED, describe
from unifluid.heads.classification import ClassificationHead
from unifluid.modules.unifluid import UniFluid
from unifluid.optimization import AdamW

TINY = (*ALLOWED, "tiny")
SOFTCAP = 30.0  # Gemma 2's


def write(folder: Path, family: str = "gemma2") -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        settings = AutoConfig.for_model(**config(family, vocab_size=tiny.Letters.vocab_size))
        AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
    return folder


def make(folder: Path, optimization: AdamW | None = None, frozen: str | None = None, **options) -> UniFluid:
    module = make_module(frozen=frozen)
    module.backbone_factory = functools.partial(HuggingFaceBackbone, pretrained=str(folder), **options)
    module.parts["text_head"] = ClassificationHead(SOFTCAP)
    module.init_args |= {"text_head": module.parts["text_head"]}
    module.optimization = optimization or module.optimization
    return module


def fit(module: UniFluid, folder: Path, steps: int = 2, path: Path | None = None) -> Path:
    trainer = make_trainer(folder, EMA(decay=0.5), steps=steps)
    trainer.ckpt_path = path
    trainer.fit(module, make_data())
    trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
    return folder / "last.ckpt"


def hidden(module: UniFluid) -> torch.Tensor:
    batch = module.collator()(list(enumerate(tiny.examples()[1:3])))
    with torch.no_grad():
        return module.model.backbone(module.model.embed(batch), batch.layout)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_a_checkpoint_is_rebuilt_without_the_pretrained_folder(lora, tmp_path):
    module = make(write(tmp_path / "model"), lora=lora, checkpointing=True)
    path = fit(module, tmp_path)
    shutil.rmtree(tmp_path / "model")
    again = read(path, "raw").build(TINY)
    assert describe(again) == describe(module)
    assert again.state_dict().keys() == module.state_dict().keys()
    assert torch.equal(hidden(again), hidden(module.eval()))
    export(path, tmp_path / "out", "raw")
    assert torch.equal(hidden(read(tmp_path / "out").build(TINY)), hidden(again))


def test_a_fresh_run_reads_the_weights_once_and_a_resumed_one_never(tmp_path, monkeypatch):
    reads = []
    real = HuggingFaceBackbone.load_pretrained
    monkeypatch.setattr(HuggingFaceBackbone, "load_pretrained", lambda self: (reads.append(1), real(self)))
    folder = write(tmp_path / "model")
    path = fit(make(folder, AdamW(lr=0.0)), tmp_path)
    assert len(reads) == 1
    stored = AutoModelForCausalLM.from_pretrained(folder).get_input_embeddings().weight
    name = "model.backbone.decoder.embed_tokens.weight"
    assert torch.equal(torch.load(path, weights_only=True)["state_dict"][name], stored)
    fit(make(folder, AdamW(lr=0.0)), tmp_path, steps=3, path=path)
    read(path).build(TINY)
    assert len(reads) == 1


def test_going_on_with_another_architecture_names_it(tmp_path):
    path = fit(make(write(tmp_path / "model")), tmp_path)
    settings = config("gemma2", vocab_size=40, attn_logit_softcapping=7.0)
    with pytest.raises(ValueError, match=r"model\.backbone\.config\.attn_logit_softcapping is 7\.0 here but 2\.0"):
        fit(make(tmp_path / "model", config=settings), tmp_path, steps=3, path=path)


def test_lora_is_all_that_is_trained_of_a_backbone(tmp_path):
    module = make(write(tmp_path / "model"), lora=LoRA(rank=2))
    checkpoint = torch.load(fit(module, tmp_path), weights_only=True)
    trained = {f"model.{name}" for name, p in module.model.named_parameters() if p.requires_grad}
    assert checkpoint["ema"].keys() == trained
    assert all(".lora_" in name for name in trained if ".backbone." in name)
    groups = checkpoint["optimizer_states"][0]["param_groups"]
    assert sum(len(group["params"]) for group in groups) == len(trained)
    before = HuggingFaceBackbone(40, str(tmp_path / "model"), lora=LoRA(rank=2))
    before.load_pretrained()
    for name, tensor in before.named_parameters():
        changed = not torch.equal(tensor, module.model.backbone.get_parameter(name))
        assert changed == (".lora_" in name), name


def test_frozen_parts_are_outside_gradients_optimizer_and_average(tmp_path):
    module = make(write(tmp_path / "model"), frozen=r"^(backbone\.decoder\.layers\.0|image_encoder)")
    checkpoint = torch.load(fit(module, tmp_path), weights_only=True)
    frozen = [n for n, p in module.model.named_parameters() if n.startswith(("backbone.decoder.layers.0", "image_enc"))]
    assert len(frozen) > 15
    for name, p in module.model.named_parameters():
        learns = name not in frozen and not name.startswith("image_tokenizer")
        assert p.requires_grad == learns == (f"model.{name}" in checkpoint["ema"]) == (p.grad is not None), name
    assert describe(read(tmp_path / "last.ckpt").build(TINY)) == describe(module)
    with pytest.raises(ValueError, match="model.frozen 'bakbone' matches the name of no parameter"):
        make(tmp_path / "model", frozen="bakbone").configure_model()


@pytest.mark.parametrize("kept", [["generate", "edit"], ["caption", "answer"]])
def test_every_trained_parameter_has_a_gradient_whatever_the_tasks(kept, tmp_path):
    """DDP waits for each; Llama's output matrix is not its embedding."""
    module = make(write(tmp_path / "model", "llama"), frozen=r"mlp\.up_proj", checkpointing=True)
    module.configure_model()
    module.train()
    batch = module.collator()([(i, e) for i, e in enumerate(tiny.examples()) if e.task in kept])
    losses = module.token_losses(batch, "train")
    (losses.text.sum() + losses.image.sum()).backward()
    for name, p in module.model.named_parameters():
        assert (p.grad is not None) == p.requires_grad, name
    assert not module.model.backbone.decoder.layers[0].mlp.up_proj.weight.requires_grad


def test_rates_are_per_part(tmp_path):
    module = make(write(tmp_path / "model"), AdamW(lr=1.0, rates={r"backbone\.decoder\.embed": 0.0, "backbone": 0.1}))
    module.configure_model()
    rates = {
        id(p): group["lr"]
        for group in module.optimization.groups(module.model.named_parameters())
        for p in group["params"]
    }
    for name, p in module.model.named_parameters():
        if p.requires_grad:
            embedding = name == "backbone.decoder.embed_tokens.weight"
            assert rates[id(p)] == (0.0 if embedding else 0.1 if name.startswith("backbone") else 1.0)


def test_the_text_head_must_cap_logits_as_the_backbone_was_trained(tmp_path):
    module = make(write(tmp_path / "model"))
    module.parts["text_head"] = ClassificationHead()
    with pytest.raises(ValueError, match=r"capped to ± 30\.0, but the text head's softcap is None: give text_head"):
        module.configure_model()
    module = make(write(tmp_path / "other", "gemma"))  # one that says nothing of it leaves the choice
    module.configure_model()


def test_the_command_line_takes_it_from_yaml_and_says_what_is_wrong_in_one_line(tmp_path, capsys):
    folder = write(tmp_path / "model")
    backbone = {"pretrained": str(folder), "lora": {"rank": 2, "targets": ["q_proj"]}, "checkpointing": True}
    settings = {
        "backbone": {"class_path": "unifluid.backbones.HuggingFaceBackbone", "init_args": backbone},
        "text_head": {"class_path": "unifluid.heads.ClassificationHead", "init_args": {"softcap": SOFTCAP}},
        "frozen": "^image_encoder",
    }
    (tmp_path / "overlay.yaml").write_text(yaml.safe_dump({"model": {"init_args": settings}}))
    arguments = fit_arguments(tmp_path / "run", "--config", str(tmp_path / "overlay.yaml"), "--trainer.max_steps=1")
    assert main(arguments) == 0
    module = read(tmp_path / "run" / "last.ckpt").build(TINY)
    assert module.model.backbone.init_args["lora"].rank == 2
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    line = error_line(capsys, *arguments, "--resume=false")
    assert line.startswith(f"backbone.pretrained {folder}: model.safetensors is damaged")
    line = error_line(capsys, *arguments, "--resume=false", "--model.init_args.text_head.init_args.softcap=20")
    assert "softly capped to ± 30.0, but the text head's softcap is 20.0" in line
