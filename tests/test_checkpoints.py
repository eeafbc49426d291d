"""A checkpoint rebuilds its model, whoever built it; weights can be taken over; differences are never silent."""

from __future__ import annotations

import copy
import functools
import inspect
import json
from pathlib import Path

import gemma
import lightning as L
import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from toy import make_data, make_module, make_trainer

from callbacks.ema import EMA
from unifluid import heads, storage
from unifluid.backbones import Decoder
from unifluid.checkpoints import export, read
from unifluid.configs import ALLOWED
from unifluid.heads import DiffusionMLP, FlowMLP
from unifluid.init_from import start_from
from unifluid.tokenizers import SentencePiece, SmallKL

TINY = (*ALLOWED, "tiny")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A module built in Python after two steps, and its checkpoint with an EMA."""
    folder = tmp_path_factory.mktemp("run")
    module = make_module(lam=0.3)
    trainer = make_trainer(folder, EMA(decay=0.5), steps=2)
    trainer.fit(module, make_data())
    trainer.save_checkpoint(folder / "last.ckpt", weights_only=False)
    return module, folder / "last.ckpt"


def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def rewrite(path, target, change) -> None:
    checkpoint = storage.load(path)
    change(checkpoint)
    storage.save(checkpoint, target)


def test_raw_weights_come_back_strictly(trained):
    module, path = trained
    again = read(path, "raw").build(TINY)
    assert not again.training
    assert same(again.state_dict(), module.state_dict())


def test_ema_is_the_default_and_another_set_of_weights(trained):
    module, path = trained
    ema = torch.load(path, weights_only=True)["ema"]
    stored = read(path)
    weights = stored.build(TINY).state_dict()
    assert stored.weights == "ema"
    assert all(torch.equal(weights[name], value) for name, value in ema.items())
    assert not same(weights, module.state_dict())


def test_asking_for_what_is_not_there_is_an_error(trained, tmp_path):
    _, path = trained
    rewrite(path, tmp_path / "raw.ckpt", lambda c: c.pop("ema"))
    assert read(tmp_path / "raw.ckpt").weights == "raw"
    with pytest.raises(ValueError, match=r"raw\.ckpt: holds raw weights only, but ema"):
        read(tmp_path / "raw.ckpt", "ema")


def test_foreign_and_changed_checkpoints_are_refused(trained, tmp_path):
    _, path = trained
    rewrite(path, tmp_path / "a.ckpt", lambda c: c.pop("config"))
    with pytest.raises(ValueError, match=r"a\.ckpt: not a checkpoint of unifluid"):
        read(tmp_path / "a.ckpt")
    torch.save(torch.zeros(2), tmp_path / "tensor.ckpt")
    with pytest.raises(ValueError, match=r"tensor\.ckpt: not a checkpoint of unifluid"):
        read(tmp_path / "tensor.ckpt")
    rewrite(path, tmp_path / "b.ckpt", lambda c: c["state_dict"].pop("model.boi"))
    with pytest.raises(ValueError, match=r"b\.ckpt: its weights do not fit its config: .*model\.boi"):
        read(tmp_path / "b.ckpt", "raw").build(TINY)
    rewrite(path, tmp_path / "c.ckpt", lambda c: c["config"].update(class_path="os.system"))
    with pytest.raises(ValueError, match=r"os\.system is outside"):
        read(tmp_path / "c.ckpt").build(TINY)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_export_loads_back_equal(trained, tmp_path, weights):
    _, path = trained
    export(path, tmp_path / "out", weights)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.model",
    ]
    stored = read(tmp_path / "out")
    assert stored.weights == weights
    assert same(stored.build(TINY).state_dict(), read(path, weights).build(TINY).state_dict())
    with pytest.raises(ValueError, match=f"holds {weights} weights only"):
        read(tmp_path / "out", "raw" if weights == "ema" else "ema")


def test_whoever_may_read_the_folder_may_read_its_weights(trained, tmp_path):
    export(trained[1], tmp_path / "out")
    assert len({file.stat().st_mode for file in (tmp_path / "out").iterdir()}) == 1


def test_an_export_knows_its_step(trained, tmp_path):
    export(trained[1], tmp_path / "out")
    assert read(tmp_path / "out").step == read(trained[1]).step == 2
    config = tmp_path / "out" / "config.json"
    config.write_text(config.read_text().replace('"step": 2', '"step": "two"'))
    with pytest.raises(ValueError, match="the exported model is damaged"):
        read(tmp_path / "out")


def test_an_export_in_half_precision_is_half_as_large(trained, tmp_path):
    _, path = trained
    export(path, tmp_path / "whole")
    export(path, tmp_path / "half", dtype=torch.float16)
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half")}
    assert 0.45 < sizes["half"] / sizes["whole"] < 0.6
    whole, half = (read(tmp_path / name).build(TINY) for name in ("whole", "half"))
    for name, parameter in half.named_parameters():
        assert parameter.dtype == torch.float32
        torch.testing.assert_close(parameter, whole.get_parameter(name), rtol=1e-3, atol=1e-4)


def test_an_exported_tokenizer_has_the_name_its_kind_goes_by(trained, tmp_path):
    _, path = trained
    out = tmp_path / "out"
    export(path, out)  # leaves tokenizer.model, which is then another's
    content = torch.frombuffer(bytearray(b'{"version": "1.0"}'), dtype=torch.uint8)
    rewrite(path, tmp_path / "json.ckpt", lambda c: c.update(tokenizer=content))
    export(tmp_path / "json.ckpt", out)
    assert sorted(p.name for p in out.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert read(out).tokenizer == b'{"version": "1.0"}'


def test_incomplete_and_damaged_exports_are_named(trained, tmp_path):
    _, path = trained
    out = tmp_path / "out"
    export(path, out)
    config = (out / "config.json").read_text()
    for name in ("config.json", "model.safetensors"):
        whole = (out / name).read_bytes()
        (out / name).unlink()
        with pytest.raises(ValueError, match=f"{name} is missing"):
            read(out)
        (out / name).write_bytes(whole[:-20])
        with pytest.raises(ValueError, match="damaged"):
            read(out)
        (out / name).write_bytes(whole)
    (out / "config.json").write_text(json.dumps({**json.loads(config), "config": 3}))
    with pytest.raises(ValueError, match="must name a class_path"):
        read(out).build()


# -- going on, and starting from ----------------------------------------------------------------------------------


def go_on(module, path, tmp_path, steps=3):
    trainer = make_trainer(tmp_path, EMA(decay=0.5), steps=steps)
    trainer.ckpt_path = path
    trainer.fit(module, make_data())
    return trainer


def test_going_on_with_another_setting_names_it(trained, tmp_path):
    _, path = trained
    with pytest.raises(ValueError, match=r"^model\.lam is 9 here but 0\.3 in the checkpoint"):
        go_on(make_module(lam=9), path, tmp_path)
    wider = make_module(lam=0.3)
    wider.backbone_factory = lambda vocabulary: Decoder(vocabulary, **tiny.BACKBONE | {"depth": 3})
    with pytest.raises(ValueError, match=r"^model\.backbone\.depth is 3 here but 2"):
        go_on(wider, path, tmp_path)


def flow(**changes):
    return functools.partial(FlowMLP, **tiny.HEAD | changes)


def check(module, path, tmp_path):
    """As `unifluid test` does -> the module with the checkpoint's weights."""
    make_trainer(tmp_path, EMA(decay=0.5), limit_test_batches=1).test(module, make_data(), ckpt_path=path)
    return module


@pytest.mark.parametrize("changes", [{"sampler": "sde"}, {"time_shift": 2.0}])
def test_how_pictures_are_drawn_may_differ_in_an_evaluation_only(trained, tmp_path, changes):
    module, path = trained
    assert all(getattr(module.model.image_head, name) != value for name, value in changes.items())
    other = check(make_module(lam=0.3, image_head=flow(**changes)), path, tmp_path)
    assert same(other.state_dict(), module.state_dict())
    assert all(getattr(other.model.image_head, name) == value for name, value in changes.items())
    ((name, value),) = changes.items()
    with pytest.raises(ValueError, match=rf"^model\.image_head\.{name} is {value} here but "):
        go_on(make_module(lam=0.3, image_head=flow(**changes)), path, tmp_path)


def test_what_the_weights_belong_to_may_differ_in_neither(trained, tmp_path):
    _, path = trained
    for run in (check, go_on):
        for name, value in {"depth": 2, "prediction": "x"}.items():
            deeper = make_module(lam=0.3, image_head=flow(**{name: value}))
            with pytest.raises(ValueError, match=rf"^model\.image_head\.{name} is {value} here but "):
                run(deeper, path, tmp_path)


def test_every_name_of_drawing_is_an_argument():
    """A misspelt one would be compared, and nobody told."""
    parts = [getattr(heads, name) for name in heads.__all__]
    named = {part: part.drawing for part in parts if getattr(part, "drawing", ())}
    assert FlowMLP in named
    for part, names in named.items():
        assert set(names) <= set(inspect.signature(part).parameters)


def test_a_class_that_has_changed_since_is_an_error(trained, tmp_path):
    _, path = trained
    rewrite(path, tmp_path / "old.ckpt", lambda c: c["state_dict"].pop("model.boi"))
    with pytest.raises(ValueError, match=r"does not fit this version of the model: model\.boi"):
        go_on(make_module(lam=0.3), tmp_path / "old.ckpt", tmp_path)


def test_what_changes_no_result_may_differ_and_no_other_weights_are_read(trained, tmp_path):
    _, path = trained
    assert go_on(make_module(lam=0.3, init_from="gone.ckpt"), path, tmp_path).global_step == 3


def test_settings_newer_than_a_checkpoint_had_their_default(trained, tmp_path):
    _, path = trained
    rewrite(path, tmp_path / "old.ckpt", lambda c: c["config"]["init_args"].pop("prefix"))
    assert go_on(make_module(lam=0.3), tmp_path / "old.ckpt", tmp_path).global_step == 3
    with pytest.raises(ValueError, match=r"^model\.prefix is causal here but bidirectional in the checkpoint"):
        go_on(make_module(lam=0.3, prefix="causal"), tmp_path / "old.ckpt", tmp_path)


@pytest.mark.parametrize("run", [go_on, check])
def test_settings_of_parts_newer_than_a_checkpoint_had_their_default_too(trained, tmp_path, run):
    _, path = trained

    def age(checkpoint):
        del checkpoint["config"]["init_args"]["image_head"]["init_args"]["prediction"]

    rewrite(path, tmp_path / "old.ckpt", age)
    head = flow(prediction="v")  # the default, said
    run(make_module(lam=0.3, image_head=head), tmp_path / "old.ckpt", tmp_path)
    with pytest.raises(ValueError, match=r"^model\.image_head\.prediction is x here but v in the checkpoint"):
        run(make_module(lam=0.3, image_head=flow(prediction="x")), tmp_path / "old.ckpt", tmp_path)


def test_an_evaluation_reads_a_prefix_as_training_did(trained, tmp_path):
    _, path = trained
    trainer = make_trainer(tmp_path)
    with pytest.raises(ValueError, match=r"^model\.prefix is causal here"):
        trainer.validate(make_module(lam=5, prefix="causal"), make_data(), ckpt_path=path, verbose=False)


class Seeds(L.Callback):
    """The state of the global generator in every step."""

    def __init__(self):
        self.seen = {}

    def on_before_backward(self, trainer, module, loss):
        self.seen[trainer.global_step] = torch.initial_seed()


def test_global_draws_are_a_function_of_the_step(trained, tmp_path):
    """So that a part with dropout goes on as if nothing had happened."""
    _, path = trained
    whole, resumed = Seeds(), Seeds()
    make_trainer(tmp_path, whole, steps=3).fit(make_module(lam=0.3), make_data())
    trainer = make_trainer(tmp_path, resumed, steps=3)
    trainer.ckpt_path = path
    torch.manual_seed(1)
    trainer.fit(make_module(lam=0.3), make_data())
    assert len(set(whole.seen.values())) == 3
    assert resumed.seen == {2: whole.seen[2]}


def test_values_too_large_for_half_precision_are_not_exported(trained, tmp_path):
    _, path = trained
    rewrite(path, tmp_path / "large.ckpt", lambda c: c["ema"]["model.boi"].fill_(1e6))
    with pytest.raises(ValueError, match=r"model\.boi has values too large for float16"):
        export(tmp_path / "large.ckpt", tmp_path / "half", dtype=torch.float16)
    export(tmp_path / "large.ckpt", tmp_path / "brain", dtype=torch.bfloat16)


def test_start_from_takes_weights_and_new_settings_win(trained, tmp_path):
    _, path = trained
    for weights in ("ema", "raw"):
        module = make_module(lam=9, init_from=str(path), init_weights=weights)
        trainer = make_trainer(tmp_path, steps=0)
        trainer.fit(module, make_data())
        assert same(module.state_dict(), read(path, weights).tensors)
        assert module.lam == 9


def test_missing_and_extra_weights_are_reported_once(trained, tmp_path):
    _, path = trained

    def change(checkpoint):
        checkpoint["state_dict"]["model.extra"] = checkpoint["state_dict"].pop("model.boi")

    rewrite(path, tmp_path / "other.ckpt", change)
    module = make_module()
    module.configure_model()
    with pytest.warns(UserWarning) as warned:
        start_from(module, tmp_path / "other.ckpt", "raw")
    messages = [str(w.message) for w in warned if "init_from" in str(w.message)]
    assert len(messages) == 2
    assert "1 tensors keep their initial values: model.boi" in messages[0]
    assert "1 tensors are left out: model.extra" in messages[1]


def test_another_shape_or_no_common_name_is_an_error(trained, tmp_path):
    _, path = trained
    module = make_module()
    module.backbone_factory = lambda vocabulary: Decoder(vocabulary, **tiny.BACKBONE | {"width": 64})
    module.configure_model()
    with pytest.raises(ValueError, match=r"has shape \(.*64.*\) here but \(.*32.*\)"):
        start_from(module, path)
    rewrite(path, tmp_path / "other.ckpt", lambda c: c.update(state_dict={"x": torch.ones(1)}, ema={}))
    with pytest.raises(ValueError, match="no weight in .* has a name of this model"):
        start_from(module, tmp_path / "other.ckpt")


def test_a_part_of_another_class_begins_anew(trained, tmp_path):
    """To exchange the head of a trained model; the rest is taken as ever."""
    _, path = trained
    module = make_module(image_head=functools.partial(DiffusionMLP, **tiny.HEAD | {"width": 24}))
    module.configure_model()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with pytest.warns(UserWarning, match="image_head begins anew, DiffusionMLP here, FlowMLP there"):
        start_from(module, path, "raw")
    stored = read(path, "raw").tensors
    for name, tensor in module.state_dict().items():
        expected = before if name.startswith("model.image_head.") else stored
        assert torch.equal(tensor, expected[name]), name


def test_start_from_brings_the_vocabulary_along(trained, tmp_path):
    _, path = trained
    rewrite(path, tmp_path / "other.ckpt", lambda c: c.update(tokenizer=torch.tensor([7, 8], dtype=torch.uint8)))
    module, seen = make_module(), []
    module.configure_model()
    module.text_tokenizer.load_state = seen.append
    start_from(module, tmp_path / "other.ckpt")
    assert seen == [b"\x07\x08"]


def test_a_module_that_no_checkpoint_could_store_stops_before_training(tmp_path):
    module = make_module()
    module.init_args = copy.copy(module.init_args) | {"lam": object()}
    with pytest.raises(ValueError, match=r"UniFluid\.lam is .*which a checkpoint cannot store"):
        make_trainer(tmp_path, steps=1).fit(module, make_data())


# -- what is named beside init_from -------------------------------------------------------------------------------


def small_kl(seed: int, path: Path) -> SmallKL:
    """A tokenizer that names `path`, which holds its weights."""
    torch.manual_seed(seed)
    save_file(SmallKL(image_size=8, channels=8).state_dict(), path)
    return SmallKL(image_size=8, channels=8, weights=str(path))


def drawing_run(folder, tokenizer, steps=1, **options):
    """A run whose vocabulary is trained from its data."""
    torch.manual_seed(0)
    module = make_module(image_tokenizer=tokenizer, **{"text_tokenizer": SentencePiece(300), **options})
    trainer = make_trainer(folder, steps=steps)
    trainer.fit(module, make_data())
    path = folder / "last.ckpt"
    trainer.save_checkpoint(path)
    return module, path


def test_weights_named_beside_init_from_win(tmp_path):
    first, path = drawing_run(tmp_path / "a", small_kl(1, tmp_path / "1.safetensors"))
    own = small_kl(2, tmp_path / "2.safetensors")
    with pytest.warns(UserWarning, match=r"image_tokenizer keeps the weights .*2\.safetensors that it names") as warned:
        module, _ = drawing_run(tmp_path / "b", own, steps=0, init_from=str(path))
        assert not any("keep their initial values" in str(warning.message) for warning in warned)
    assert same(module.model.image_tokenizer.state_dict(), load_file(tmp_path / "2.safetensors"))
    assert same(module.model.text_head.state_dict(), first.model.text_head.state_dict())
    again = SmallKL(**{**own.init_args, "weights": str(tmp_path / "1.safetensors")})  # as the first began: no conflict
    module, _ = drawing_run(tmp_path / "c", again, steps=0, init_from=str(path))
    assert same(module.state_dict(), first.state_dict())


def test_the_folder_holds_the_vocabulary_in_use(tmp_path):
    first, path = drawing_run(tmp_path / "a", tiny.Pixels())
    other = {"text_tokenizer": SentencePiece(300, character_coverage=0.99), "init_from": str(path)}
    module, later = drawing_run(tmp_path / "b", tiny.Pixels(), **other)
    stored = (tmp_path / "b" / "tokenizer.model").read_bytes()
    assert stored == module.text_tokenizer.state() == first.text_tokenizer.state() == read(later).tokenizer


def test_another_vocabulary_named_beside_init_from_is_refused(tmp_path):
    _, path = drawing_run(tmp_path / "a", tiny.Pixels())
    gemma.write_tokenizer(tmp_path / "other.model")
    named = SentencePiece(400, model_file=str(tmp_path / "other.model"))
    with pytest.raises(ValueError, match=r"model.text_tokenizer reads .*other\.model, but .* another vocabulary"):
        drawing_run(tmp_path / "b", tiny.Pixels(), steps=0, text_tokenizer=named, init_from=str(path))
    same_file = SentencePiece(300, model_file=str(tmp_path / "a" / "tokenizer.model"))
    drawing_run(tmp_path / "c", tiny.Pixels(), steps=0, text_tokenizer=same_file, init_from=str(path))
