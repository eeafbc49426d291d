"""Two processes find what one finds, however the model is spread over them, and read each other's checkpoints."""

from __future__ import annotations

import functools
import pickle
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import families
import pytest
import scale_runs
import tiny
import torch
from cards import Cards
from ranks import launch, read_json
from toy import make_data, make_module, make_trainer

from callbacks.ema import EMA, live_weights
from datamodules import Mixture, Stream
from unifluid import storage
from unifluid.backbones import HuggingFaceBackbone
from unifluid.backbones.huggingface import LoRA
from unifluid.checkpoints import export, read
from unifluid.configs import ALLOWED
from unifluid.heads import ClassificationHead
from unifluid.modules.contrastive import ContrastiveModule
from unifluid.optimization import AdamW
from unifluid.sharding import FSDP2, leave_group
from unifluid.storage import AtomicCheckpointIO, latest, previous

TINY = (*ALLOWED, "tiny")
SCRIPT = Path(scale_runs.__file__)


def assert_same(found: dict[str, Any], expected: dict[str, Any], steps: int, tolerance: float = 1e-5) -> None:
    assert len(found["losses"]) == steps and found["updates"] == expected["updates"]
    expected_losses = {str(step): loss for step, loss in expected["losses"].items()}
    for step, loss in found["losses"].items():
        assert loss == pytest.approx(expected_losses[str(step)], abs=tolerance)
    assert found["val"] == pytest.approx(expected["val"], abs=tolerance)


def test_two_processes_are_as_one(tmp_path):
    """The quick part of the next one: each rank has rows of one task only, FSDP2, then DDP from its checkpoint."""
    one = scale_runs.run(tmp_path, "one/apart")
    launch(SCRIPT, tmp_path, "fsdp2/apart", "ddp/from_fsdp2")
    assert_same(read_json(tmp_path / "fsdp2/apart/found.json"), one, 10)
    assert_same(read_json(tmp_path / "ddp/from_fsdp2/found.json"), one, 5)
    assert_same(scale_runs.run(tmp_path, "one/from_fsdp2"), one, 5)


@pytest.mark.slow
def test_every_strategy_and_every_checkpoint(tmp_path):
    cases = [*scale_runs.CASES, "muon", "bf16"]
    one = {case: scale_runs.run(tmp_path, f"one/{case}") for case in cases}
    sources = ("one", "ddp", "fsdp2", "fsdp2_file")
    fresh = [f"{strategy}/{case}" for case in cases for strategy in ("ddp", "fsdp2")] + ["fsdp2_file/apart"]
    resumed = [f"{target}/from_{source}" for target in ("ddp", "fsdp2") for source in sources]
    launch(SCRIPT, tmp_path, *fresh, *resumed, timeout=1500)
    for job in fresh:
        case = job.split("/")[1]
        assert_same(read_json(tmp_path / job / "found.json"), one[case], 10, 5e-3 if case == "bf16" else 1e-5)
    for job in resumed:
        assert_same(read_json(tmp_path / job / "found.json"), one["apart"], 5)
    expected = read(tmp_path / "one/apart/saved.ckpt").tensors
    for source in sources[1:]:
        assert_same(scale_runs.run(tmp_path, f"one/from_{source}"), one["apart"], 5)
        path = tmp_path / source / "apart/saved.ckpt"
        assert path.is_dir() == (source == "fsdp2")
        built = read(path).build(TINY).state_dict()
        # Adam makes a full step of a gradient that is nothing but rounding.
        assert all((built[name] - value).abs().max() < 5e-3 for name, value in expected.items())


# -- one process that shards as if there were more ------------------------------------------------------------------


@pytest.fixture(scope="module")
def group() -> Iterator[None]:
    yield
    leave_group()


@pytest.fixture(scope="module")
def sharded(tmp_path_factory, group) -> Iterator[tuple[Any, Path]]:
    """A sharded run of two steps: its trainer, and the folder with its checkpoints after both."""
    folder = tmp_path_factory.mktemp("sharded")
    trainer = make_trainer(folder, EMA(0.5), steps=2, devices=1, strategy=FSDP2(), use_distributed_sampler=False)
    trainer.fit(make_module(lam=0.3), make_data())
    for _ in range(2):
        trainer.save_checkpoint(folder / storage.LAST, weights_only=False)
    return trainer, folder


def test_a_whole_copy_stands_in_for_evaluation(sharded):
    trainer, folder = sharded
    module = trainer.lightning_module
    for weights in ("ema", "raw"):
        expected = read(folder / storage.LAST, weights).build(TINY).state_dict()
        with live_weights(trainer, module, weights) as live:
            found = module.state_dict()
            assert live == weights
            assert type(module.model).__name__ == "UniFluidModel"
            assert all(type(t) is torch.Tensor and torch.equal(t, expected[name]) for name, t in found.items())
    assert isinstance(module.model, torch.distributed.fsdp.FSDPModule)


def test_a_sharded_checkpoint_is_a_checkpoint(sharded, tmp_path):
    _, folder = sharded
    path = folder / storage.LAST
    stored = read(path)
    assert stored.weights == "ema" and path.is_dir()
    export(path, tmp_path / "out")
    exported = read(tmp_path / "out").tensors
    assert all(torch.equal(t, exported[name]) for name, t in stored.tensors.items())
    module = make_module(lam=9, init_from=str(path))
    make_trainer(tmp_path, steps=0).fit(module, make_data())
    assert all(torch.equal(t, stored.tensors[name]) for name, t in module.state_dict().items())
    with pytest.raises(ValueError, match=r"^model\.lam is 9 here but 0\.3"):
        go_on = make_trainer(tmp_path, EMA(), steps=3, plugins=[AtomicCheckpointIO()])
        go_on.fit(make_module(lam=9), make_data(), ckpt_path=path)


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damage_is_found_or_harmless(sharded, tmp_path, damage):
    path = shutil.copytree(sharded[1] / storage.LAST, tmp_path / "copy.ckpt")
    expected, file = read(path).tensors, next(path.glob("*.distcp"))
    data, draw, found = file.read_bytes(), random.Random(0), 0
    for _ in range(10):
        broken = bytearray(data)
        place = draw.randrange(len(data))
        if damage == "truncated":
            del broken[place:]
        else:
            broken[place] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        try:
            assert all(torch.equal(t, expected[name]) for name, t in read(path).tensors.items())
        except ValueError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            found += 1
    assert found == 10 if damage == "truncated" else found > 1  # the optimizer's part is not read here


@pytest.mark.filterwarnings("ignore:.*looking for the one before")
def test_a_broken_newest_gives_way_to_the_one_before(sharded, tmp_path):
    run = shutil.copytree(sharded[1], tmp_path / "run")
    newest = run / storage.LAST
    assert latest(run) == newest
    for file in (newest / "meta.pt", newest / ".metadata", next(newest.glob("*.distcp"))):
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2])
        assert latest(run) == previous(newest)
        file.unlink()
        assert latest(run) == previous(newest)
        file.write_bytes(data)


def test_stored_code_is_refused(sharded, tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("this ran",))

    path = shutil.copytree(sharded[1] / storage.LAST, tmp_path / "evil.ckpt")
    (path / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"refused: it names builtins\.print"):
        read(path)


def test_another_strategy_that_shards_is_refused(tmp_path, group):
    from lightning.pytorch.strategies import ModelParallelStrategy

    strategy = ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1)
    with pytest.raises(ValueError, match=r"unifluid\.sharding\.FSDP2"):
        make_trainer(tmp_path, steps=1, devices=1, strategy=strategy).fit(make_module(), make_data())


def test_a_module_that_does_not_shard_its_model_is_refused(tmp_path, group):
    torch.manual_seed(0)
    module = ContrastiveModule(tiny.Patches(), AdamW())
    trainer = make_trainer(tmp_path, steps=1, devices=1, strategy=FSDP2(), use_distributed_sampler=False)
    with pytest.raises(ValueError, match="ContrastiveModule is not made to be sharded, take ddp"):
        trainer.fit(module, Mixture({"edit": Stream(Cards("edit"), 8)}))


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_backbones_of_the_library_can_be_sharded(tmp_path, group, lora):
    """Tied embeddings, soft-capped text head, layers that are recomputed, a frozen encoder, adapters."""
    losses = []
    for strategy in ("auto", FSDP2()):
        module = make_module(text_head=ClassificationHead(softcap=30.0), frozen="^image_encoder")
        settings = families.config("gemma2", vocab_size=40, final_logit_softcapping=30.0)
        module.backbone_factory = functools.partial(HuggingFaceBackbone, config=settings, checkpointing=True, lora=lora)
        seen = scale_runs.Losses()
        make_trainer(
            tmp_path, EMA(0.5), seen, steps=2, devices=1, strategy=strategy, use_distributed_sampler=False
        ).fit(module, make_data())
        losses.append(seen.steps)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
