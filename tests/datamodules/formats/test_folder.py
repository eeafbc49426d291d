"""Folders of the kit's own schema: what is read, what is skipped and counted, and when a run stops."""

import contextlib
import json
import logging
import pickle
from collections import Counter

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from datamodules.formats.folder import Folder
from datamodules.formats.jsonl import write_jsonl
from datamodules.formats.rows import MAX_CHARACTERS

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
ROWS = {
    "caption": {"task": "caption", "image": "red.png", "prompt": "caption en", "caption": "red"},
    "answer": {"task": "answer", "image": "red.png", "question": "what colour?", "answers": ["red", "crimson"]},
    "generate": {"task": "generate", "target": "green.png", "prompt": "green"},
    "edit": {"task": "edit", "image": "red.png", "target": "blue.png", "instruction": "make it blue"},
}


@pytest.fixture
def folder(tmp_path):
    for name, colour in COLOURS.items():
        Image.new("RGB", (4, 4), colour).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, *lines, split="train"):
    """Lines as given: objects, text, or raw bytes."""
    encoded = [
        line if isinstance(line, bytes) else line if isinstance(line, str) else json.dumps(line) for line in lines
    ]
    data = b"\n".join(line if isinstance(line, bytes) else line.encode() for line in encoded) + b"\n"
    (folder / f"{split}.jsonl").write_bytes(data)


def row(i, task="caption", **changes):
    return {"id": f"id{i}", **ROWS[task], **changes}


def colour(image):
    return {value: name for name, value in COLOURS.items()}[tuple(image[:, 0, 0].tolist())]


def test_every_task(folder):
    write(folder, *ROWS.values())
    caption, answer, generate, edit = (Folder(folder, task)[0] for task in ROWS)
    assert (colour(caption.image), caption.condition, caption.response) == ("red", "caption en", "red")
    assert (colour(answer.image), answer.condition, answer.response) == ("red", "what colour?", "red")
    assert answer.answers == ("red", "crimson")
    assert (colour(generate.target), generate.condition, generate.response) == ("green", "green", None)
    assert (colour(edit.image), colour(edit.target), edit.condition) == ("red", "blue", "make it blue")
    assert caption.id == "train:1"
    assert edit.id == "train:4"


def test_only_the_fields_of_the_task_are_read(folder):
    write(folder, row(0, "generate", image="missing.png", caption=7, meta={"concept": "green"}, colour="x"))
    example = Folder(folder, "generate")[0]
    assert example.images == ()
    assert example.caption is None
    assert example.meta == {"concept": "green"}


def test_offsets_over_mixed_lines(folder):
    """Blank lines, CRLF, other tasks, a byte-order mark and letters of several bytes between the rows wanted."""
    lines = [row(0, caption="ünï"), row(1, "edit"), "", row(2, caption="日本"), row(3, "answer"), "  ", row(4)]
    text = "\r\n".join(json.dumps(x, ensure_ascii=False) if isinstance(x, dict) else x for x in lines)
    (folder / "train.jsonl").write_bytes(b"\xef\xbb\xbf" + text.encode())  # no newline at the end
    data = Folder(folder, "caption")
    assert [example.id for example in data] == ["id0", "id2", "id4"]
    assert [example.caption for example in data] == ["ünï", "日本", "red"]
    assert not data.skipped


def test_several_images(folder):
    write(folder, row(0, "answer", image=["red.png", "blue.png"]))
    assert [colour(image) for image in Folder(folder, "answer")[0].images] == ["red", "blue"]


BAD_LINES = {
    "malformed JSON": ['{"task": "caption", ', "[1]", "NaN", "[" * 100_000],
    "unknown task": [{**row(0), "task": "captoin"}, {"id": "x"}, {**row(0), "task": ["caption"]}],
    "no caption": [row(0, caption=""), row(0, caption=" \n"), row(0, caption=None)],
    "bad caption": [row(0, caption=["a"]), row(0, caption=3)],
    "no image": [row(0, image=""), row(0, image=[]), {"task": "caption", "caption": "red"}],
    "bad image": [
        *(row(0, image=path) for path in ("/etc/red.png", "../red.png", "a/../../red.png", "\\red.png", "..\\red.png")),
        row(0, image=7),
        row(0, image=["red.png", "../red.png"]),
        row(0, image="a\0b.png"),
    ],
    "bad meta": [row(0, meta=[1])],
    "bad id": [row(0, id={})],
    "bad text": [
        row(0, caption="a\0b"),
        row(0, caption="\ud800"),
        json.dumps(row(0)).encode() + b"\xff",
        b'{"task": "caption", "image": "red.png", "caption": "caf\xe9"}',
    ],
}


@pytest.mark.parametrize(
    ("reason", "line"),
    [pytest.param(key, line, id=f"{key} {i}") for key, lines in BAD_LINES.items() for i, line in enumerate(lines)],
)
def test_bad_lines(folder, reason, line, caplog):
    write(folder, row(1), line, row(2))
    with caplog.at_level(logging.WARNING):
        data = Folder(folder, "caption", max_skipped=0.4)
    assert [example.id for example in data] == ["id1", "id2"]
    assert data.skipped == Counter({reason: 1})
    assert f"{folder}/train.jsonl:2: {reason}" in caplog.text
    with pytest.raises(ValueError, match=rf"train\.jsonl:2: {reason}") as caught:
        Folder(folder, "caption", strict=True)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=rf"1 of 3 caption rows are bad \({reason}: 1\), 0 may be"):
        Folder(folder, "caption", max_skipped=0)


@pytest.mark.parametrize(
    ("task", "field", "value"),
    [
        ("answer", "answers", []),
        ("answer", "answers", ["", " "]),
        ("answer", "answers", None),
        ("answer", "question", ""),
        ("edit", "target", None),
        ("edit", "instruction", " "),
        ("generate", "prompt", ""),
    ],
)
def test_missing_fields_are_named(folder, task, field, value):
    write(folder, row(1, task), row(2, task, **{field: value}))
    assert Folder(folder, task, max_skipped=0.5).skipped == Counter({f"no {field}": 1})


def test_answers_must_be_a_list_of_texts(folder):
    write(folder, row(1, "answer"), row(2, "answer", answers="red"), row(3, "answer", answers=[3]))
    assert Folder(folder, "answer", max_skipped=0.7).skipped == Counter({"bad answers": 2})


def test_control_pieces_are_plain_text_and_long_text_is_cut(folder):
    write(folder, row(0, caption="<eos><pad> hi"), row(1, caption="x" * 2_000_000))
    data = Folder(folder, "caption")
    assert data[0].caption == "<eos><pad> hi"
    assert data[1].caption == "x" * MAX_CHARACTERS


def spoil(folder):
    (folder / "html.png").write_text("<html>")
    (folder / "cut.png").write_bytes((folder / "red.png").read_bytes()[:50])
    Image.new("RGB", (1, 1)).save(folder / "dot.png")


def test_bad_pictures_are_replaced_by_the_next_good_row(folder, caplog):
    spoil(folder)
    names = ["red", "html", "missing", "green", "cut", "dot"]
    write(folder, *(row(i, image=f"{name}.png") for i, name in enumerate(names)))
    wanted = ["id0", "id3", "id3", "id3", "id0", "id0"]
    for order in (range(6), range(5, -1, -1), (2, 5, 2, 5, 1, 4)):  # whatever is asked for first
        data = Folder(folder, "caption", max_skipped=0.7)
        with caplog.at_level(logging.WARNING):
            assert [data[i].id for i in order] == [wanted[i] for i in order]
        assert data.skipped == Counter({"not an image": 1, "missing file": 1, "corrupt image": 1, "too small": 1})
    assert "train.jsonl:2 (id id1): not an image" in caplog.text
    with pytest.raises(IndexError):
        data[6]


def test_only_five_are_named(folder, caplog):
    write(folder, *(row(i, image="missing.png") for i in range(9)), *(["{"] * 9), row(9))
    with caplog.at_level(logging.WARNING):
        data = Folder(folder, "caption", max_skipped=1)
        assert data[0].id == "id9"
    assert data.skipped == Counter({"missing file": 9, "malformed JSON": 9})
    assert caplog.text.count("malformed JSON") == 5
    assert caplog.text.count("missing file") == 5


def test_too_many_bad_pictures_stop_the_run(folder):
    write(folder, *(row(i, image="red.png" if i % 40 else "missing.png") for i in range(400)))  # 10 of 400 bad
    data = Folder(folder, "caption")
    with pytest.raises(
        ValueError, match=r"6 of 400 caption rows are bad \(missing file: 6\), 5 may be.*max_skipped=0.01"
    ):
        for i in range(400):
            data[i]
    data = Folder(folder, "caption", max_skipped=0.025)
    assert len([data[i] for i in range(400)]) == 400
    assert data.skipped.total() == 10


@pytest.mark.parametrize("bad", [5, 6])
def test_five_rows_of_a_small_set_may_be_bad(folder, bad):
    write(folder, *["{"] * 3, *(row(i, image="missing.png") for i in range(bad - 3)), *(row(i) for i in range(50)))
    refused = pytest.raises(ValueError, match=r"6 of 56 .*, 5 may be: .*--list.*max_skipped.*train\.jsonl:1: malformed")
    with contextlib.nullcontext() if bad == 5 else refused:
        data = Folder(folder, "caption")
        assert [data[i].id for i in range(len(data))]


def test_nothing_left_is_an_error(folder):
    write(folder, *(row(i, image="missing.png") for i in range(3)))
    with pytest.raises(ValueError, match="no usable caption row is left"):
        Folder(folder, "caption", max_skipped=1)[1]
    with pytest.raises(ValueError, match=r"no usable edit row \(no row has task edit\)"):
        Folder(folder, "edit")
    write(folder, "{", "{")
    with pytest.raises(ValueError, match="malformed JSON: 2"):
        Folder(folder, "caption", max_skipped=1)


def test_strict_names_file_and_line(folder):
    spoil(folder)
    write(folder, row(0), row(1, image="cut.png"), split="test")
    data = Folder(folder, "caption", "test", strict=True)
    assert data[0].id == "id0"
    with pytest.raises(ValueError, match=r"test\.jsonl:2 \(id id1\): corrupt image"):
        data[1]
    write(folder, row(0), row(1, image="missing.png"), split="test")
    with pytest.raises(ValueError, match=r"test\.jsonl:2 \(id id1\): missing file"):  # found before the work starts
        Folder(folder, "caption", "test", strict=True)


def test_repeated_ids(folder, caplog):
    write(folder, row(0), row(1), row(0, "answer"), row(1), row(0))
    with caplog.at_level(logging.WARNING):
        assert len(Folder(folder, "caption")) == 4
    assert "train.jsonl:4 (id id1): the id is not unique" in caplog.text
    with pytest.raises(ValueError, match="not unique"):
        Folder(folder, "caption", strict=True)
    assert len(Folder(folder, "answer", strict=True)) == 1  # ids of other tasks are another matter


def test_wrong_arguments(folder):
    write(folder, row(0), split="validation")
    with pytest.raises(ValueError, match=r"train\.jsonl: no such file; .* holds validation\.jsonl"):
        Folder(folder, "caption")
    with pytest.raises(ValueError, match="no .jsonl file"):
        Folder(folder / "nowhere", "caption")
    with pytest.raises(ValueError, match="task must be one of"):
        Folder(folder, "captions", "validation")


def test_texts(folder):
    write(folder, *ROWS.values(), row(5, prompt=None, caption="violet"))
    texts = {task: Counter(Folder(folder, task).texts()) for task in ROWS}
    assert texts["caption"] == Counter(["caption en", "red", "violet"])
    assert texts["answer"] == Counter(["what colour?", "red", "crimson"])
    assert texts["generate"] == Counter(["green"])
    assert texts["edit"] == Counter(["make it blue"])


def test_texts_begin_with_a_fair_sample(folder):
    write(folder, *(row(i, caption=str(i), prompt=None) for i in range(400)))
    head = [int(text) for text, _ in zip(Folder(folder, "caption").texts(), range(100), strict=False)]
    assert len(set(head)) == 100
    assert 150 < sum(head) / 100 < 250


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_share_what_they_find(folder, workers):
    bad = {3, 10, 17}
    write(folder, *(row(i, image="missing.png" if i in bad else "red.png") for i in range(20)))
    data = Folder(folder, "caption", max_skipped=0.2)
    ids = [
        x for batch in DataLoader(data, 5, num_workers=workers, collate_fn=lambda b: [e.id for e in b]) for x in batch
    ]
    assert ids == [f"id{i + 1 if i in bad else i}" for i in range(20)]
    assert data.skipped == Counter({"missing file": 3})


def test_pickles(folder):
    write(folder, row(0), row(1))
    copy = pickle.loads(pickle.dumps(Folder(folder, "caption")))
    assert torch.equal(copy[1].image, Folder(folder, "caption")[1].image)


def test_write_jsonl_is_whole_or_absent(tmp_path):
    def rows():
        yield {"caption": "é\u2028"}
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        write_jsonl(tmp_path / "train.jsonl", rows())
    assert not (tmp_path / "train.jsonl").exists()
    write_jsonl(tmp_path / "train.jsonl", [{"caption": "é\u2028"}, {"caption": "b"}])
    assert [json.loads(line) for line in (tmp_path / "train.jsonl").read_bytes().splitlines()][0] == {
        "caption": "é\u2028"
    }
