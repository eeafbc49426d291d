"""Pictures of one thing find each other; the loss is the published one; distortions leave the paper white."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from cards import Cards
from toy import make_trainer

from datamodules.mixture import Mixture, Stream
from datamodules.moments import CachedMoments, write_moments
from unifluid.encoders import Patches
from unifluid.modules.contrastive import ContrastiveModule, Pairs, distorted
from unifluid.optimization import AdamW
from unifluid.sequence import to_unit


def make(**options) -> ContrastiveModule:
    torch.manual_seed(0)
    return ContrastiveModule(Patches(8, 4, 16, depth=1, heads=2), AdamW(lr=1e-2), **options)


def data() -> Mixture:
    return Mixture({"edit": Stream(Cards("edit", copies=1), rows=8)}, {"edit": Cards("edit", colour=5, copies=1)})


def test_the_loss_is_infonce_in_both_directions():
    module, generator = make(), torch.Generator().manual_seed(1)
    pairs = torch.rand(2, 5, 3, 8, 8, generator=generator) * 2 - 1
    features = [[f / f.norm() for f in module(side).double()] for side in pairs]
    scores = torch.stack([torch.stack([a @ b for b in features[1]]) for a in features[0]]) * 10
    expected = -sum(s[i, i] - s[i].exp().sum().log() for s in (scores, scores.T) for i in range(5)) / 10
    assert module.contrast(pairs)[0].item() == pytest.approx(expected.item(), rel=1e-5)
    same = pairs[:, :1].expand(-1, 5, -1, -1, -1)  # nothing to tell apart
    assert module.contrast(same)[0].item() == pytest.approx(math.log(5), rel=1e-5)


def test_pairs_are_the_two_pictures_of_an_edit():
    edits = Cards("edit")
    pairs = Pairs(8)([(i, edits[i]) for i in range(3)])
    assert pairs.shape == (2, 3, 3, 8, 8)
    assert torch.equal(pairs[0, 1], to_unit(edits[1].image, 8)) and torch.equal(
        pairs[1, 1], to_unit(edits[1].target, 8)
    )
    with pytest.raises(ValueError, match="come from edits, but 0 is of task generate"):
        Pairs(8)([(0, Cards("generate")[0])])


def test_stored_moments_are_refused(tmp_path):
    write_moments(Cards("edit"), tiny.Pixels(), tmp_path / "cache")
    stream = Stream(CachedMoments(Cards("edit"), str(tmp_path / "cache")), rows=8)
    with pytest.raises(ValueError, match="holds moments, but this model trains on pictures"):
        make_trainer(tmp_path, steps=1).fit(make(), Mixture({"edit": stream}))


def test_distortions_are_a_function_of_their_generator_and_leave_the_paper_white():
    image = torch.ones(4, 3, 16, 16)
    image[:, :, 6:10, 6:10] = -0.5
    once, again, other = (distorted(image, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(once, again) and not torch.allclose(once, other)
    assert once.min() >= -1 and once.max() <= 1
    assert (once[:, :, 0] == 1).all() and (once[:, :, 8, 8] < 0.9).all()
    for i in range(4):
        assert not torch.allclose(once[i], once[(i + 1) % 4])


def test_cards_of_one_thing_find_each_other(tmp_path):
    module = make()
    trainer = make_trainer(tmp_path, steps=120, limit_val_batches=1)
    before = trainer.validate(module, data(), verbose=False)[0]
    trainer.fit(module, data())
    after = trainer.validate(module, data(), verbose=False)[0]
    assert after["val/found"] == 1 and after["val/contrast"] < 0.3 * before["val/contrast"]


def test_a_resumed_run_goes_on_alike(tmp_path):
    whole = make()
    make_trainer(tmp_path, steps=4).fit(whole, data())
    first = make_trainer(tmp_path, steps=2)
    first.fit(make(), data())
    first.save_checkpoint(tmp_path / "half.ckpt", weights_only=False)
    resumed, second = make(), make_trainer(tmp_path, steps=4)
    second.ckpt_path = tmp_path / "half.ckpt"
    second.fit(resumed, data())
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    with pytest.raises(ValueError, match=r"model\.seed is 1 here but 0 in the checkpoint"):
        other = make_trainer(tmp_path, steps=4)
        other.ckpt_path = tmp_path / "half.ckpt"
        other.fit(make(seed=1), data())
