"""Tar shards by index: every sample is found, what does not belong is refused, damage costs what comes after it."""

import io
import logging
import os
import pickle
import random
import tarfile
from collections import Counter

import numpy as np
import pytest
import torch
from datamodules_shards import add, captions, colour, half_a_gigapixel, picture, shard
from torch.utils.data import DataLoader

from datamodules.formats import tar
from datamodules.formats.skipping import inspection
from datamodules.formats.tar import expand, scan
from datamodules.formats.webdataset import WebDataset

CAPTIONS = {"image": "jpg;png", "caption": "txt"}


def dataset(path, **options):
    return WebDataset(**{"shards": f"{path}/*.tar", "task": "caption", "fields": CAPTIONS, **options})


def test_samples_of_many_shards_in_order(tmp_path):
    for number in range(4):
        shard(tmp_path / f"{number:03d}.tar", *captions(*range(number * 10, number * 10 + 3)))
    data = dataset(tmp_path, shards=f"{tmp_path}/{{000..003}}.tar", prompt="caption en")
    assert [example.caption for example in data] == [
        f"caption {n}" for k in range(4) for n in range(10 * k, 10 * k + 3)
    ]
    assert data[5].id == "00012"
    assert data[5].prompt == "caption en"
    assert colour(data[5].image) == "red"
    assert not data.skipped
    with pytest.raises(IndexError):
        data[12]


def test_every_task_and_place_of_a_field(tmp_path):
    about = {"q": "what?", "a": ["red", "crimson"], "answer": "blue", "do": "make it green", "nested": {"x": 1}}
    members = [("d/1.in.png", picture("red")), ("d/1.out.jpg", picture("green")), ("d/1.meta.json", about)]
    shard(
        tmp_path / "a.tar", ("./", b"", tarfile.DIRTYPE), *members, ("d/1.txt", "  a green picture\n"), ("d/1.cls", "7")
    )
    make = lambda task, **fields: dataset(tmp_path, task=task, fields=fields)[0]  # noqa: E731
    example = make("answer", image="in.png", question="meta.json:q", answers="meta.json:a")
    assert (example.question, example.answers, example.id) == ("what?", ("red", "crimson"), "d/1")
    assert make("answer", image="in.png", question="txt", answers="meta.json:answer").answers == ("blue",)
    example = make("generate", target="webp;out.jpg", prompt="txt")
    assert (example.prompt, example.image) == ("a green picture", None)
    assert make("generate", target="out.jpg", image="none", prompt="txt").image is None  # of no use to the task
    assert example.target[:, 0, 0].tolist()[1] > 200
    example = make("edit", image="in.png", target="out.jpg", instruction="meta.json:do")
    assert (example.instruction, colour(example.image)) == ("make it green", "red")
    example = make("answer", image=["in.png", "out.jpg"], question="txt", answers="meta.json:a")
    assert len(example.image) == 2


def test_braces():
    assert expand("a/{08..11}.tar") == ["a/08.tar", "a/09.tar", "a/10.tar", "a/11.tar"]
    assert expand("{8..11}") == ["8", "9", "10", "11"]
    assert expand("{a,b}-{0..1}") == ["a-0", "a-1", "b-0", "b-1"]
    assert expand("plain[1].tar") == ["plain[1].tar"]
    assert len(expand("{00000..01234}.tar")) == 1235


BAD_MEMBERS = {
    "link": ("00001.jpg", "/etc/passwd", tarfile.SYMTYPE),
    "hard link": ("00001.jpg", "00000.png", tarfile.LNKTYPE),
    "device": ("00001.jpg", b"", tarfile.CHRTYPE),
    "pipe": ("00001.jpg", b"", tarfile.FIFOTYPE),
    "pickle": ("00001.pkl", pickle.dumps(print)),
    "torch": ("00001.meta.pth", b"x"),
}


@pytest.mark.parametrize("member", BAD_MEMBERS.values(), ids=BAD_MEMBERS)
def test_a_member_that_does_not_belong_spoils_its_sample_alone(tmp_path, member, caplog):
    good = captions(0, 1, 2)
    shard(tmp_path / "a.tar", *good[:4], member, *good[4:])
    with caplog.at_level(logging.WARNING):
        data = dataset(tmp_path, max_skipped=0.5)
    assert [example.id for example in data] == ["00000", "00002"]
    assert data.skipped == Counter({"refused member": 1})
    assert f"{tmp_path}/a.tar (id 00001): refused member: {member[0]}" in caplog.text
    with pytest.raises(ValueError, match="1 of 3 caption rows are bad"):
        dataset(tmp_path, max_skipped=0)
    with pytest.raises(ValueError, match="refused member"):
        dataset(tmp_path, strict=True)


@pytest.mark.parametrize("key", ["../00001", "/tmp/00001", "a/../../00001", "a\\..\\00001"])
def test_names_that_leave_the_shard_are_refused(tmp_path, key):
    shard(tmp_path / "a.tar", *captions(0), (f"{key}.png", picture()), (f"{key}.txt", "x"), *captions(2))
    data = dataset(tmp_path, max_skipped=0.5)
    assert [example.id for example in data] == ["00000", "00002"]
    assert data.skipped == Counter({"refused member": 1})
    assert [p.name for p in tmp_path.iterdir() if p.suffix != ".npz"] == ["a.tar"]  # nothing was extracted


def test_names_in_other_encodings(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as archive:
        for name, content in (*captions(0), ("café.png", picture("blue")), ("café.txt", "coffee"), *captions(2)):
            add(archive, name, content)
    for _ in range(2):  # the second time from its index
        data = dataset(tmp_path)
        assert [(e.id, e.caption) for e in data] == [("00000", "caption 0"), ("caf?", "coffee"), ("00002", "caption 2")]
        assert colour(data[1].image) == "blue"


def test_counts_are_those_injected(tmp_path, caplog):
    members = captions(*range(90))
    members += [("no_text.png", picture()), ("no_picture.txt", "x"), ("twice.png", picture()), ("twice.png", picture())]
    members += [("empty.png", picture()), ("empty.txt", "  \n"), ("latin.png", picture()), ("latin.txt", b"caf\xe9")]
    members += [("huge.png", half_a_gigapixel()), ("huge.txt", "x"), ("cut.png", picture()[:50]), ("cut.txt", "x")]
    members += [("html.png", b"<html>"), ("html.txt", "x")]
    shard(tmp_path / "a.tar", *members)
    data = dataset(tmp_path, max_skipped=0.1)
    wanted = {"no caption": 2, "no image": 1, "repeated member": 1, "bad text": 1}
    pictures = {"too many pixels": 1, "corrupt image": 1, "not an image": 1}
    ids = [data[i].id for i in range(len(data))]
    assert len(data) == 95 and ids[90:] == ["00000"] * 5  # replaced by the next good one
    assert data.skipped == Counter({**wanted, **pictures})
    assert data.total == 98
    with inspection() as problems:
        listed = dataset(tmp_path, max_skipped=0.1)
        assert all(listed.at(row) is None or not listed.found[row] for row in range(95))
    assert Counter(p.reason for p in problems) == data.skipped
    assert [p for p in problems if p.where == f"{tmp_path}/a.tar (id huge)" and p.reason == "too many pixels"]


def test_a_broken_json_member_is_skipped(tmp_path):
    members = [("0.png", picture()), ("0.json", "{"), ("1.png", picture()), ("1.json", {"caption": "x"})]
    members += [("2.png", picture()), ("2.json", "[1]"), ("3.png", picture()), ("3.json", {"caption": 7})]
    shard(tmp_path / "a.tar", *members)
    data = dataset(tmp_path, fields={"image": "png", "caption": "json:caption"}, max_skipped=0.8)
    assert {data[i].id for i in range(4)} == {"1"}
    assert data.skipped == Counter({"malformed JSON": 2, "bad caption": 1})


def broken(path, how):
    data = bytearray(path.read_bytes())
    header = data.index(b"00003.png")
    if how == "cut in a picture":
        data = data[: header + 512 + 20]
    elif how == "cut in a header":
        data = data[: header + 100]
    elif how == "cut between members":
        data = data[:header]
    elif how == "garbage for a header":
        data[header : header + 512] = os.urandom(512)
    elif how == "a hole of zeros":
        data[header : header + 1024] = bytes(1024)
    path.write_bytes(data)


HOW = ["cut in a picture", "cut in a header", "cut between members", "garbage for a header", "a hole of zeros"]


@pytest.mark.parametrize("how", HOW)
def test_of_a_damaged_shard_what_comes_before_is_used(tmp_path, how):
    for number in range(30):
        shard(tmp_path / f"{number:02d}.tar", *captions(*range(6)))
    broken(tmp_path / "07.tar", how)
    data = dataset(tmp_path)  # one of 30 shards is below 5 %
    assert data.skipped == Counter({"corrupt shard": 1})
    kept = [data.where(i) for i in range(len(data)) if "07.tar" in data.where(i)]
    assert 2 <= len(kept) <= 3  # 0, 1 and perhaps 2: the cut may have been within that one
    assert len(data) == 29 * 6 + len(kept)
    with pytest.raises(ValueError, match="07.tar: corrupt shard"):
        dataset(tmp_path, strict=True)
    broken(tmp_path / "08.tar", how)
    with pytest.raises(ValueError, match=r"2 of 30 shards are bad, more than max_bad_shards=0.05 allows; .*07\.tar"):
        dataset(tmp_path)


def test_a_negative_size_is_no_endless_loop(tmp_path):
    path = shard(tmp_path / "a.tar", *captions(0, 1))
    data = bytearray(path.read_bytes())
    start = data.index(b"00001.png")
    data[start + 124 : start + 136] = (256**12 - 1024).to_bytes(12, "big")  # a base-256 number, as large files have it
    data[start + 148 : start + 156] = b" " * 8
    data[start + 148 : start + 156] = b"%06o\0 " % sum(data[start : start + 512])
    path.write_bytes(data)
    found = scan(path)
    assert found.keys.tolist() == [] and "has a size of -1024" in found.damage


def test_any_damage_is_survived(tmp_path):
    """Bytes changed anywhere: a scan ends, and whatever it finds can be read or is a bad row."""
    path = shard(tmp_path / "a.tar", *captions(*range(8)))
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            start = draw.choice(
                [draw.randrange(len(data)), 512 * draw.randrange(len(data) // 512) + draw.randrange(300)]
            )
            data[start : start + draw.randint(1, 20)] = draw.randbytes(draw.randint(1, 20))
        path.write_bytes(data[: draw.choice([len(data), draw.randrange(len(data))])])
        try:
            made = WebDataset(str(path), "caption", fields=CAPTIONS, max_skipped=1, max_bad_shards=1)
            assert all(made.at(i) is None or made.at(i).caption for i in range(len(made)))
        except ValueError as error:
            assert "no usable caption row" in str(error)


def test_shards_that_are_no_tar_or_missing_are_bad(tmp_path):
    for number in range(3):
        shard(tmp_path / f"{number}.tar", *captions(number))
    (tmp_path / "3.tar").write_bytes(b"")
    (tmp_path / "4.tar").write_text("<html>not found</html>" * 100)
    with tarfile.open(tmp_path / "5.tar", "w:gz") as compressed:
        compressed.addfile(tarfile.TarInfo("0.txt"), io.BytesIO())
    options = {"shards": f"{tmp_path}/{{0..6}}.tar", "max_skipped": 0.9}
    with pytest.raises(ValueError, match="4 of 7 shards are bad"):
        dataset(tmp_path, **options)
    data = dataset(tmp_path, **options, max_bad_shards=0.6)
    assert len(data) == 3 and data.skipped == Counter({"corrupt shard": 3, "missing shard": 1})
    with pytest.raises(ValueError, match="no such shard"):
        dataset(tmp_path / "nowhere")


def test_the_index_is_read_again_and_made_anew_when_the_shard_changes(tmp_path, monkeypatch):
    scans = []
    monkeypatch.setattr(tar, "scan", lambda path: scans.append(path.name) or scan(path))
    path = shard(tmp_path / "a.tar", *captions(0, 1))
    shard(tmp_path / "b.tar", *captions(2))
    first, again = dataset(tmp_path), dataset(tmp_path)
    assert scans == ["a.tar", "b.tar"]
    assert [e.caption for e in first] == [e.caption for e in again]
    shard(path, *captions(7, 8, 9))
    assert [e.id for e in dataset(tmp_path)] == ["00007", "00008", "00009", "00002"]
    assert scans == ["a.tar", "b.tar", "a.tar"]
    (tmp_path / "a.tar.index.npz").write_bytes(b"PK\3\4 no index")
    (tmp_path / "b.tar.index.npz").write_bytes(pickle.dumps(print))
    assert len(dataset(tmp_path)) == 4 and len(scans) == 5


def test_several_processes_make_the_same_index(tmp_path):
    for number in range(5):
        shard(tmp_path / f"{number}.tar", *captions(number, number + 10))
    options = {"shards": f"{tmp_path}/{{0..5}}.tar", "max_skipped": 0.5, "max_bad_shards": 0.5}
    several = dataset(tmp_path, index=str(tmp_path / "x"), index_workers=2, **options)
    alone = dataset(tmp_path, **options)
    assert [e.id for e in several] == [e.id for e in alone] and several.skipped == alone.skipped
    assert several.skipped == Counter({"missing shard": 1})


def test_an_index_holds_no_pickle(tmp_path):
    shard(tmp_path / "a.tar", *captions(0))
    dataset(tmp_path)
    with np.load(tmp_path / "a.tar.index.npz", allow_pickle=False) as stored:
        assert {name: stored[name].dtype.kind for name in stored} == {
            "keys": "S",
            "offsets": "i",
            "sizes": "i",
            "about": "u",
        }


def test_indices_go_to_a_folder_of_their_own(tmp_path, caplog):
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        shard(tmp_path / name / "0.tar", *captions(0, colour="red" if name == "x" else "blue"))
    data = dataset(tmp_path, shards=f"{tmp_path}/{{x,y}}/0.tar", index=str(tmp_path / "index"))
    assert [colour(e.image) for e in data] == ["red", "blue"]
    assert len(list((tmp_path / "index").iterdir())) == 2
    (tmp_path / "file").touch()
    with caplog.at_level(logging.WARNING):  # nowhere to write: a warning, and it goes on
        assert len(dataset(tmp_path, shards=f"{tmp_path}/x/0.tar", index=str(tmp_path / "file" / "index"))) == 1
    assert "the index cannot be kept" in caplog.text


def test_a_shard_that_shrinks_during_a_run_is_noticed(tmp_path):
    path = shard(tmp_path / "a.tar", *captions(0, 1))
    data = dataset(tmp_path, max_skipped=0.5)
    path.write_bytes(path.read_bytes()[:1600])
    assert data[1].id == "00000"
    assert data.skipped == Counter({"corrupt shard": 1})
    path.unlink()
    with pytest.raises(ValueError, match="no usable caption row is left .*missing shard: 1"):
        data[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_what_they_find(tmp_path, workers):
    members = captions(*range(12))
    members[2 * 5] = ("00005.png", b"no picture")
    shard(tmp_path / "a.tar", *members)
    data = dataset(tmp_path, max_skipped=0.2)
    batches = DataLoader(data, 3, num_workers=workers, collate_fn=lambda rows: [e.id for e in rows])
    assert [int(i) for batch in batches for i in batch] == [6 if i == 5 else i for i in range(12)]
    assert data.skipped == Counter({"not an image": 1})


def test_an_evaluation_refuses_repeated_ids(tmp_path):
    for number in range(2):
        shard(tmp_path / f"{number}.tar", *captions(0, 1 + number))
    assert len(dataset(tmp_path)) == 4
    with pytest.raises(ValueError, match=r"1\.tar \(id 00000\): the id is not unique"):
        dataset(tmp_path, strict=True)


def test_copies_give_the_same(tmp_path):
    shard(tmp_path / "a.tar", *captions(0, 1))
    data = dataset(tmp_path)
    assert torch.equal(pickle.loads(pickle.dumps(data))[1].image, data[1].image)
    assert Counter(data.texts()) == Counter(["caption 0", "caption 1"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": "png"}, "fields must say where the samples have 'caption'"),
        ({"image": "png", "caption": "txt", "captoin": "txt"}, "fields names 'captoin'"),
        ({"image": "json:image", "caption": "txt"}, "fields.image must be an extension"),
        ({"image": "png", "caption": "txt:key"}, "fields.caption must be an extension, or json:KEY"),
        ({"image": "png", "caption": ["txt", "json"]}, "only image may be a list"),
    ],
)
def test_wrong_fields_are_named(tmp_path, fields, message):
    shard(tmp_path / "a.tar", *captions(0))
    with pytest.raises(ValueError, match=message):
        dataset(tmp_path, fields=fields)
