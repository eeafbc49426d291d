"""Checkpoint files survive what disks, kills and strangers do to them."""

from __future__ import annotations

import pickle
import random
import resource
import signal

import pytest
import torch

from unifluid import storage
from unifluid.storage import latest, load, previous, save, verify


def checkpoint(value: float = 1.0) -> dict:
    return {"state_dict": {"a": torch.full((500,), value), "b": torch.arange(7)}, "step": 3, "config": {"x": [1, None]}}


def equal(one: dict, other: dict) -> bool:
    tensors = all(torch.equal(t, other["state_dict"][name]) for name, t in one["state_dict"].items())
    return tensors and one["step"] == other["step"] and one["config"] == other["config"]


def test_what_is_written_comes_back_and_the_one_before_is_kept(tmp_path):
    path = tmp_path / "run" / "last.ckpt"
    save(checkpoint(1.0), path)
    save(checkpoint(2.0), path)
    assert equal(load(path), checkpoint(2.0))
    assert equal(load(previous(path)), checkpoint(1.0))
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.previous.ckpt"]


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_damage_is_found_or_harmless(tmp_path, damage):
    """A flip in bytes that nobody reads (padding between records) may pass, but then what is read is whole."""
    path = tmp_path / "last.ckpt"
    save(checkpoint(), path)
    whole, found, rng = path.read_bytes(), 0, random.Random(0)
    for _ in range(100):
        broken = bytearray(whole)
        place = rng.randrange(len(whole))
        if damage == "truncated":
            del broken[place:]
        else:
            broken[place] ^= 1 << rng.randrange(8)
        path.write_bytes(broken)
        try:
            assert equal(load(path), checkpoint())
        except ValueError as error:
            assert str(path) in str(error)
            found += 1
    assert found == 100 if damage == "truncated" else found > 70


def test_damaged_newest_gives_way_to_the_one_before(tmp_path):
    newest = tmp_path / storage.LAST
    assert latest(tmp_path) is None
    save(checkpoint(1.0), newest)
    assert latest(tmp_path) == newest
    save(checkpoint(2.0), newest)
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="damaged"):
        assert latest(tmp_path) == previous(newest)
    previous(newest).write_bytes(b"")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="no valid one before"):
        latest(tmp_path)


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path):
    newest = tmp_path / storage.LAST
    save(checkpoint(), newest)
    newest.rename(previous(newest))
    assert latest(tmp_path) == previous(newest)


@pytest.fixture
def small_disk():
    """No file may grow beyond 100 kB: writing more fails as on a full disk."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_names_the_file_and_leaves_the_one_before(tmp_path, small_disk):
    path = tmp_path / "last.ckpt"
    save(checkpoint(), path)
    big = checkpoint() | {"big": torch.zeros(100_000)}
    with pytest.raises(OSError, match=r"cannot be written: File too large.*last\.ckpt"):
        save(big, path)
    assert equal(load(path), checkpoint())
    assert [p.name for p in tmp_path.iterdir()] == ["last.ckpt"]


def test_unwritable_folder_names_the_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot be written: .*file/last\.ckpt"):
        save(checkpoint(), tmp_path / "file" / "last.ckpt")


class Evil:
    def __reduce__(self):
        return exec, ("import builtins; builtins.broken_into = True",)


def test_stored_code_is_never_run(tmp_path):
    import builtins

    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "config": Evil()}, path)
    with pytest.raises(ValueError, match=r"evil\.ckpt: refused, it holds .*exec"):
        load(path)
    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(ValueError, match=r"evil\.ckpt"):
        load(path)
    assert not hasattr(builtins, "broken_into")


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        verify(tmp_path / "none.ckpt")
