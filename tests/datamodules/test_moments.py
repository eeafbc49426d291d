"""Stored moments in place of pictures: the same losses, and nothing stale is used."""

import json
from collections import Counter

import numpy as np
import pytest
import tiny
import torch
from toy import make_module, make_trainer

from datamodules import CachedMoments, CentreCrop, Flips, Folder, Mixture, Moves, Stream, moments
from datamodules.formats.jsonl import write_jsonl
from datamodules.images import to_image
from datamodules.moments import fingerprint, write_moments
from datamodules.shapes import Shapes
from unifluid.tokenizers import SmallKL


def small_kl(seed=0, **options):
    torch.manual_seed(seed)
    return SmallKL(image_size=16, channels=8, encoder_depth=1, decoder_depth=1, **options).eval()


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    monkeypatch.setattr(moments, "PART", 8)


@pytest.fixture
def folder(tmp_path):
    """20 pictures that are wider than high; the fourth and the last are bad."""
    rows = []
    for i in range(20):
        to_image(tiny.image(i, 24)[:, :20]).save(tmp_path / f"{i}.png")
        picture = {"target": f"{i}.png", "image": f"{i}.png"}
        rows += [{"id": f"g{i}", "task": "generate", **picture, "prompt": f"number {i}"}]
        rows += [{"id": f"e{i}", "task": "edit", **picture, "instruction": f"edit {i}"}]
    for i in (3, 19):
        (tmp_path / f"{i}.png").write_bytes(b"no picture")
    write_jsonl(tmp_path / "train.jsonl", rows)
    return tmp_path


def folder_of(path, task="generate"):
    return Folder(path, task, max_skipped=0.5)


@pytest.mark.parametrize("wrap", [lambda d: d, CentreCrop, Flips, lambda d: Moves(Flips(CentreCrop(d)), copies=2)])
@pytest.mark.parametrize("task", ["generate", "edit"])
def test_examples_are_those_of_the_data_set_with_their_moments(folder, tmp_path, wrap, task):
    tokenizer = small_kl()
    write_moments(
        wrap(folder_of(folder, task)), tokenizer, tmp_path / "cache", batch_size=3, workers=int(wrap is Flips)
    )
    plain, cached = wrap(folder_of(folder, task)), CachedMoments(wrap(folder_of(folder, task)), str(tmp_path / "cache"))
    assert len(cached) == len(plain)
    for i in [*range(len(plain)), 3, 19, 5]:
        a, b = plain[i], cached[i]
        assert (a.id, a.prompt, a.instruction) == (b.id, b.prompt, b.instruction) and b.target is None
        assert (a.image is None and b.image is None) or torch.equal(a.image, b.image)
        with torch.no_grad():
            expected = tokenizer.encode(moments.to_unit(a.target, 16)[None])[0]
        assert torch.allclose(b.moments, expected, atol=1e-6)
    assert cached.sources[0].skipped == Counter({"not an image": 2})


def test_pictures_to_draw_are_not_read_any_more(folder, tmp_path, monkeypatch):
    write_moments(folder_of(folder), small_kl(), tmp_path / "cache")
    cached = CachedMoments(folder_of(folder), str(tmp_path / "cache"))
    for file in folder.glob("*.png"):
        file.unlink()
    assert [cached[i].prompt for i in (0, 1, 2, 4)] == ["number 0", "number 1", "number 2", "number 4"]


class Losses:
    """Per-step losses of a run."""

    def __init__(self, tmp_path, tokenizer, streams, steps=4):
        module, self.seen = make_module(copies=2, row_length=64), []
        module.parts["image_tokenizer"] = tokenizer
        module.formatter.target_size, module.formatter.num_target_tokens = tokenizer.image_size, tokenizer.num_tokens
        step = module.training_step
        module.training_step = lambda *a: self.seen.append(step(*a)) or self.seen[-1]
        make_trainer(tmp_path, steps=steps).fit(module, Mixture(streams))
        self.seen = torch.stack(self.seen).detach()


@pytest.mark.parametrize("make", [small_kl, lambda: tiny.Pixels(16, 4)], ids=["SmallKL", "Pixels"])
def test_training_from_a_cache_gives_the_same_losses(folder, tmp_path, make):
    """Also where one stream of a batch is cached and another is not, and captions are between them."""

    def streams(wrap):
        pictures = wrap(Flips(folder_of(folder)))
        other = {"shapes": Stream(Shapes("generate"), 2), "caption": Stream(Shapes("caption"), 2)}
        return {"generate": Stream(pictures, 5), **other, "edit": Stream(folder_of(folder, "edit"), 2)}

    write_moments(Flips(folder_of(folder)), make(), tmp_path / "cache")
    plain = Losses(tmp_path, make(), streams(lambda d: d)).seen
    cached = Losses(tmp_path, make(), streams(lambda d: CachedMoments(d, str(tmp_path / "cache")))).seen
    assert len(plain) == 4 and (plain - cached).abs().max() <= 1e-6 * plain.abs().max()


def test_an_edit_stream_from_a_cache_gives_the_same_losses(folder, tmp_path):
    write_moments(folder_of(folder, "edit"), small_kl(), tmp_path / "cache")
    streams = lambda d: {"edit": Stream(d, 4)}  # noqa: E731
    plain = Losses(tmp_path, small_kl(), streams(folder_of(folder, "edit"))).seen
    cached = Losses(
        tmp_path, small_kl(), streams(CachedMoments(folder_of(folder, "edit"), str(tmp_path / "cache")))
    ).seen
    assert (plain - cached).abs().max() <= 1e-6 * plain.abs().max()


def changed_buffer():
    tokenizer = small_kl()
    tokenizer.latent_variance.mul_(1.01)
    return tokenizer


@pytest.mark.parametrize("other", [lambda: small_kl(1), lambda: small_kl(latent_channels=8, patch=1), changed_buffer])
def test_another_tokenizer_is_refused_before_training(folder, tmp_path, other):
    write_moments(folder_of(folder), small_kl(), tmp_path / "cache")
    cached = CachedMoments(folder_of(folder), str(tmp_path / "cache"))
    cached.check_tokenizer(small_kl())
    with pytest.raises(ValueError, match="made by an image tokenizer with other weights or settings"):
        Losses(tmp_path, other(), {"generate": Stream(cached, 4)})
    with pytest.raises(ValueError, match="give an empty folder"):
        write_moments(folder_of(folder), other(), tmp_path / "cache")


def test_where_weights_lie_does_not_matter(tmp_path):
    torch.save({"state_dict": small_kl().state_dict()}, tmp_path / "moved.ckpt")
    moved = small_kl(seed=9, weights=str(tmp_path / "moved.ckpt"))
    assert fingerprint(moved) != fingerprint(small_kl())
    moved.load_pretrained()
    assert fingerprint(moved) == fingerprint(small_kl())


def test_another_transform_or_other_rows_are_refused(folder, tmp_path):
    cache = str(tmp_path / "cache")
    write_moments(CentreCrop(folder_of(folder)), small_kl(), cache)
    for other in (folder_of(folder), Flips(CentreCrop(folder_of(folder))), CentreCrop(folder_of(folder, "edit"))):
        with pytest.raises(ValueError, match="was made of other data"):
            CachedMoments(other, cache)
    rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    write_jsonl(folder / "train.jsonl", [{**row, "id": f"new {row['id']}"} for row in rows])
    with pytest.raises(ValueError, match="entry 2 is not of 'new g2'; make the cache anew"):
        CachedMoments(CentreCrop(folder_of(folder)), cache)[2]


def test_a_stopped_cache_goes_on(folder, tmp_path):
    cache, tokenizer, encoded = tmp_path / "cache", small_kl(), []
    write_moments(folder_of(folder), tokenizer, cache)
    whole = {p.name: p.read_bytes() for p in cache.iterdir()}
    assert {"about.json", "00000.npy", "00000.json", "00002.npy", "00002.json"} <= set(whole)
    (cache / "00001.npy").unlink()
    with pytest.raises(ValueError, match="1 of 3 parts are missing"):
        CachedMoments(folder_of(folder), str(cache))
    encode = tokenizer.encode
    tokenizer.encode = lambda images: encoded.append(len(images)) or encode(images)
    write_moments(folder_of(folder), tokenizer, cache)
    assert sum(encoded) == 8 and {p.name: p.read_bytes() for p in cache.iterdir()} == whole


def test_half_precision_halves_the_files(folder, tmp_path):
    write_moments(folder_of(folder), small_kl(), tmp_path / "full")
    write_moments(folder_of(folder), small_kl(), tmp_path / "half", precision="float16")
    full, half = (CachedMoments(folder_of(folder), str(tmp_path / name)) for name in ("full", "half"))
    assert half[0].moments.dtype == torch.float32
    assert torch.allclose(half[0].moments, full[0].moments, rtol=1e-3, atol=1e-4)
    assert np.load(tmp_path / "half" / "00000.npy").dtype == np.float16


def test_no_cache_at_all_is_one_line(folder, tmp_path):
    for content in (None, "{", "{}"):
        if content:
            (tmp_path / "about.json").write_text(content)
        with pytest.raises(ValueError, match="holds no cache of moments") as caught:
            CachedMoments(folder_of(folder), str(tmp_path))
        assert "\n" not in str(caught.value)


def test_crops_and_flips_go_within(folder, tmp_path):
    write_moments(folder_of(folder), small_kl(), tmp_path / "cache")
    cached = CachedMoments(folder_of(folder), str(tmp_path / "cache"))
    for wrapper in (Flips, CentreCrop):
        with pytest.raises(ValueError, match="must be within CachedMoments"):
            wrapper(cached)
