"""Parquet and arrow files as the hub distributes them, written here by its own library."""

import io
import logging
import pickle
import sys
from collections import Counter

import pytest
import torch
from datamodules_shards import colour, half_a_gigapixel, picture
from PIL import Image

from datamodules import HQEdit, Table, UltraEdit

datasets = pytest.importorskip("datasets")

HQ_COLUMNS = ["input", "input_image", "edit", "inverse_edit", "output", "output_image"]


def pillow(name):
    return Image.open(io.BytesIO(picture(name)))


def hq_edit(n=4):
    """HQ-Edit's own columns, pictures as an Image feature."""
    rows = {
        "input": [f"a picture {i}" for i in range(n)],
        "input_image": [pillow("red")] * n,
        "edit": [f"make it green {i}" for i in range(n)],
        "inverse_edit": ["make it red"] * n,
        "output": ["x"] * n,
        "output_image": [pillow("green")] * n,
    }
    features = {c: datasets.Image() if c.endswith("image") else datasets.Value("string") for c in HQ_COLUMNS}
    return datasets.Dataset.from_dict(rows, features=datasets.Features(features))


def check_hq_edit(data, n=4):
    assert [e.instruction for e in data] == [f"make it green {i}" for i in range(n)]
    assert all((colour(e.image), colour(e.target)) == ("red", "green") for e in data)
    assert len({e.id for e in data}) == n and not data.skipped


def test_parquet_in_several_files(tmp_path):
    whole = hq_edit()
    for part in range(2):
        whole.select(range(2 * part, 2 * part + 2)).to_parquet(tmp_path / f"train-0000{part}-of-00002.parquet")
    check_hq_edit(HQEdit(f"{tmp_path}/train-*.parquet", cache=str(tmp_path / "cache")))
    check_hq_edit(HQEdit(f"{tmp_path}/train-0000{{0,1}}-of-00002.parquet", cache=str(tmp_path / "cache")))


def test_a_folder_written_by_save_to_disk_and_its_arrow_files(tmp_path):
    hq_edit().save_to_disk(tmp_path / "disk")
    check_hq_edit(HQEdit(str(tmp_path / "disk")))
    check_hq_edit(HQEdit(f"{tmp_path}/disk/*.arrow"))
    datasets.DatasetDict(train=hq_edit()).save_to_disk(tmp_path / "dict")
    with pytest.raises(ValueError, match="holds the splits train: name the folder of one"):
        HQEdit(str(tmp_path / "dict"))


def ultra_edit(tmp_path, *rows, columns=("source_image", "edited_image", "edit_prompt")):
    """Pictures as {bytes, path}, which is how an Image feature is stored."""
    made = {c: [row[k] for row in rows] for k, c in enumerate(columns)} | {"clip_sim_dir": [0.5] * len(rows)}
    datasets.Dataset.from_dict(made).to_parquet(tmp_path / "ultra.parquet")
    return {"files": str(tmp_path / "ultra.parquet"), "cache": str(tmp_path / "cache")}


def stored(data, path=None):
    return {"bytes": data, "path": path}


def test_bad_rows_are_skipped_and_counted(tmp_path, caplog):
    red, green = stored(picture("red")), stored(picture("green"))
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture("blue"))
    bad = [
        (stored(half_a_gigapixel()), green, "x"),
        (red, stored(picture()[:50]), "x"),
        (red, stored(None), "x"),
        (stored(None, str(secret)), green, "x"),  # a path names a file of this machine: never opened
        (red, green, " "),
        (red, green, None),
        (red, green, "a\0b"),
    ]
    arguments = ultra_edit(tmp_path, *[(red, green, "make it green")] * 20, *bad)
    data = UltraEdit(**arguments, max_skipped=0.3)
    with caplog.at_level(logging.WARNING):
        assert len({data[i].id for i in range(len(data))}) == 20
    counts = {
        "too many pixels": 1,
        "corrupt image": 1,
        "no target": 1,
        "no image": 1,
        "no instruction": 2,
        "bad text": 1,
    }
    assert data.skipped == Counter(counts)
    assert f"{tmp_path}/ultra.parquet: row 20: too many pixels" in caplog.text
    with pytest.raises(ValueError, match="rows are bad"):
        [e for e in UltraEdit(**arguments)]


def test_any_task_and_columns(tmp_path):
    columns = {"image": "picture", "question": "q", "answers": "a", "id": "key"}
    rows = {"picture": [picture("blue")], "q": ["what?"], "a": ["blue"], "key": [7], "other": [1]}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "qa")
    example = Table(str(tmp_path / "qa"), "answer", columns)[0]
    assert (example.id, example.question, example.answers, colour(example.image)) == ("7", "what?", ("blue",), "blue")
    caption = Table(str(tmp_path / "qa"), "caption", {"image": "picture", "caption": "a"}, prompt="caption en")[0]
    assert (caption.caption, caption.prompt) == ("blue", "caption en")
    data = Table(str(tmp_path / "qa"), "generate", {"target": "picture", "prompt": "q"})
    assert list(data.texts()) == ["what?"]
    assert torch.equal(pickle.loads(pickle.dumps(data))[0].target, data[0].target)


def test_mistakes_end_in_one_line(tmp_path):
    hq_edit().to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"PAR1 not at all")
    cases = {
        "has no column 'source_image', only input,": lambda: UltraEdit(
            f"{tmp_path}/a.parquet", cache=str(tmp_path / "cache")
        ),
        "matches no file": lambda: HQEdit(f"{tmp_path}/c.parquet"),
        "cannot be read as a table": lambda: HQEdit(f"{tmp_path}/b.parquet", cache=str(tmp_path / "cache")),
        "columns must say where the table has 'target'": lambda: Table("x", "edit", {"image": "a"}),
        "columns names 'pictures'": lambda: Table("x", "edit", {"pictures": "a"}),
    }
    for message, make in cases.items():
        with pytest.raises(ValueError, match=message) as caught:
            make()
        assert "\n" not in str(caught.value)


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ValueError, match=r"needs the package datasets: pip install 'unifluid\[data\]'"):
        HQEdit("x.parquet")
