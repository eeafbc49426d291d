"""`unifluid data check, shard, cache`: what they say and leave behind, and how they end."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
import tiny
import torch
import yaml
from cli.runs import TINY, error_line
from datamodules_shards import captions, half_a_gigapixel, picture, shard

from datamodules import CachedMoments, Flips, Folder, WebDataset
from datamodules.images import to_tensor
from datamodules.shapes import Shapes
from datamodules.sharding import write_shards
from unifluid.cli.main import main
from unifluid.sequence import TASKS

ROW = {"task": "generate", "target": "a.png", "prompt": "a"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.png").write_bytes(picture("red", (8, 8)))
    (tmp_path / "huge.png").write_bytes(half_a_gigapixel())
    rows = [{"id": i, "task": "generate", "target": "a.png", "prompt": f"{i}"} for i in range(40)]
    rows[3]["target"], rows[4]["target"], rows[5]["prompt"] = "huge.png", "missing.png", " "
    rows[9]["id"] = 8
    (tmp_path / "train.jsonl").write_text("\n".join(["{", *map(json.dumps, rows)]))
    return tmp_path


def run_config(tmp_path, streams: dict, validation: dict | None = None) -> Path:
    """The tiny run on other data."""
    config = yaml.safe_load(TINY.read_text())
    config["data"]["init_args"] = {"streams": streams, "validation": validation or {}}
    config["trainer"]["default_root_dir"] = str(tmp_path / "run")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def folder_config(path, **options):
    arguments = {"path": str(path), "task": "generate", **options}
    return {"class_path": "datamodules.Folder", "init_args": arguments}


@pytest.mark.parametrize("workers", [0, 2])
def test_check_reports_what_is_skipped_and_why(folder, capsys, workers):
    arguments = ["--dataset", "datamodules.Folder", "--dataset.path", folder, "--dataset.task", "generate"]
    arguments += ["--workers", workers, "--list", folder / "bad.jsonl"]
    message = error_line(capsys, "data", "check", *arguments, "--dataset.max_skipped", "0")
    assert f"not fit to train on: dataset ({folder}/train.jsonl: 4 of 41 generate rows are bad (" in message
    assert "0 may be: mend them (unifluid data check --list FILE names all), or raise max_skipped=0" in message
    assert main(["data", "check", *map(str, arguments)]) == 0
    out = capsys.readouterr().out
    assert "dataset: 37 of 41 generate rows are good" in out
    for reason in ("1 malformed JSON", "1 no prompt", "1 too many pixels", "1 missing file"):
        assert f"       {reason}" in out
    assert f"{folder}/train.jsonl:1: malformed JSON" in out
    assert f"{folder}/train.jsonl:5 (id 3): too many pixels" in out
    listed = [json.loads(line) for line in (folder / "bad.jsonl").read_text().splitlines()]
    assert Counter(row["reason"] for row in listed) == Counter(
        ("malformed JSON", "no prompt", "too many pixels", "missing file", "repeated id")
    )
    missing = next(row for row in listed if row["reason"] == "missing file")
    assert missing == {
        "dataset": "dataset",
        "where": f"{folder}/train.jsonl:6 (id 4)",
        "reason": "missing file",
        "detail": f"{folder}/missing.png",
    }


def test_check_names_repeated_ids_where_an_evaluation_would_stop_at_them(folder, capsys):
    (folder / "val.jsonl").write_text("\n".join(json.dumps({**ROW, "id": str(i % 3)}) for i in range(6)))
    arguments = ["--dataset", "datamodules.Folder", "--dataset.path", folder, "--dataset.task", "generate"]
    arguments = ["data", "check", *map(str, arguments), "--dataset.split", "val"]
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "6 of 6 generate rows are good" in out and "3 repeated id" in out
    assert "val.jsonl:4 (id 0): repeated id" in error_line(capsys, *arguments, "--dataset.strict", "true")


def test_check_looks_at_what_only_callbacks_use(folder, tmp_path, capsys):
    path = run_config(tmp_path, {"drawing": {"rows": 2, "dataset": folder_config(folder)}})
    config = yaml.safe_load(path.read_text())
    own, other = folder_config(folder), folder_config(tmp_path / "nowhere")
    grid = {"class_path": "callbacks.SampleGrid", "init_args": {"datasets": [own, other]}}
    for callbacks in ([grid], grid):
        config["trainer"]["callbacks"] = callbacks
        path.write_text(yaml.safe_dump(config))
        message = error_line(capsys, "data", "check", "--config", path, "--allow-module", "tiny")
        assert message.startswith(
            f"not fit to train on: callbacks.SampleGrid.datasets.1 ({tmp_path}/nowhere/train.jsonl: no"
        )


def test_check_takes_a_file_and_names_ten(tmp_path, capsys):
    members = captions(*range(20))
    members[: 2 * 12] = [(name, "<html>" if name.endswith("png") else text) for name, text in members[: 2 * 12]]
    shard(tmp_path / "0.tar", *members)
    fields = {"image": "png", "caption": "txt"}
    arguments = {"shards": f"{tmp_path}/0.tar", "task": "caption", "fields": fields, "max_skipped": 0.7}
    flips = {"class_path": "datamodules.Flips"}
    config = {**flips, "init_args": {"dataset": {"class_path": "datamodules.WebDataset", "init_args": arguments}}}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(config))
    assert main(["data", "check", "--dataset", str(tmp_path / "data.yaml")]) == 0
    out = capsys.readouterr().out
    assert "8 of 20 caption rows are good" in out and "12 not an image" in out and out.count("(id 000") == 10
    assert "… and 2 more: --list FILE" in out


def test_check_walks_every_stream_of_a_run_and_goes_on_after_a_bad_one(folder, tmp_path, capsys):
    shapes = {"class_path": "datamodules.shapes.Shapes", "init_args": {"task": "caption"}}
    streams = {
        "missing": {"rows": 2, "dataset": folder_config(tmp_path / "nowhere")},
        "folder": {"rows": 2, "dataset": folder_config(folder, max_skipped=0.5)},
        "shapes": {"rows": 2, "dataset": shapes},
    }
    path = run_config(tmp_path, streams, {"strict": folder_config(folder, max_skipped=0.5, strict=True)})
    message = error_line(capsys, "data", "check", "--config", path, "--allow-module", "tiny")
    missing = f"streams.missing ({tmp_path}/nowhere/train.jsonl: no such file; {tmp_path}/nowhere holds no .jsonl file)"
    bad = f"{folder}/train.jsonl:1: malformed JSON: Expecting property name enclosed in double quotes: line 2 column 1"
    assert message.replace(" (char 2)", "") == f"not fit to train on: {missing}; validation.strict ({bad})"
    main(["data", "check", "--config", str(path), "--allow-module", "tiny"])
    out = capsys.readouterr().out
    assert "streams.folder: 37 of 41 generate rows are good" in out
    assert "streams.shapes: 1,000,000 caption examples, made and not read" in out


def test_mistakes_end_in_one_line(folder, tmp_path, capsys):
    assert "--out" in error_line(capsys, "data", "shard", "--dataset", "datamodules.Folder")
    assert error_line(capsys, "data", "chekc").endswith("; did you mean check?")
    assert "not in a trusted package" in error_line(capsys, "data", "check", "--dataset", "os.system")
    assert "nowhere.yaml" in error_line(capsys, "data", "check", "--config", "nowhere.yaml")
    path = run_config(tmp_path, {"folder": {"rows": 2, "dataset": folder_config(folder)}})
    trust = ["--allow-module", "tiny"]
    assert "nothing to store" in error_line(capsys, "data", "cache", "--config", path, *trust)
    arguments = ["--config", path, "--out", tmp_path / "out", *trust]
    assert "--stream must name one of streams.folder" in error_line(
        capsys, "data", "shard", "--stream", "x", *arguments
    )
    assert main(["data", "check", "--help"]) == main(["data", "shard", "--help"]) == main(["data", "cache", "-h"]) == 0


# -- shards -----------------------------------------------------------------------------------------------------------


def same(one, other):
    for name in ("id", "task", "prompt", "question", "answers", "caption", "instruction", "meta"):
        assert getattr(one, name) == getattr(other, name), name
    pictures = zip((*one.images, one.target), (*other.images, other.target), strict=True)
    assert all(a is b is None or torch.equal(a, b) for a, b in pictures)


@pytest.mark.parametrize("task", TASKS)
def test_shards_give_back_what_went_in(tmp_path, task):
    data = Shapes(task, length=25)
    assert write_shards(data, tmp_path, per_shard=10) == 3
    shards = WebDataset(f"{tmp_path}/{{00000..00002}}.tar", task, strict=True)
    assert len(shards) == 25
    for i in range(25):
        one, other = data[i], shards[i]
        one.meta = json.loads(json.dumps(one.meta))  # tuples become lists
        same(one, other)


def test_another_reader_of_the_format_reads_the_shards(tmp_path):
    class Plain(Shapes):  # without ground truth, whose mixed lists a table cannot hold
        def __getitem__(self, index):
            return dataclasses.replace(super().__getitem__(index), meta={})

    write_shards(Plain("edit", length=7), tmp_path / "out", per_shard=4)
    files = [str(tmp_path / "out" / f"0000{i}.tar") for i in range(2)]
    table = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["__key__"] for row in table] == [f"{i:08d}" for i in range(7)]
    for i, row in enumerate(table):
        example = Shapes("edit")[i]
        assert (row["json"]["id"], row["json"]["instruction"]) == (example.id, example.instruction)
        for name in ("image", "target"):
            assert torch.equal(to_tensor(row[f"{name}.png"]), getattr(example, name))


def test_bad_rows_are_not_written(folder, capsys):
    arguments = ["--dataset", "datamodules.Folder", f"--dataset.path={folder}", "--dataset.task=generate"]
    arguments += ["--dataset.max_skipped=0.2", "--out", str(folder / "out"), "--per-shard", "30"]
    assert main(["data", "shard", *arguments]) == 0
    assert "2 shards of generate rows are there" in capsys.readouterr().out
    data = WebDataset(f"{folder}/out/*.tar", "generate", strict=True)
    assert [int(e.id) for e in data] == [i if i != 9 else 8 for i in range(40) if i not in (3, 4, 5)]


def test_a_stopped_writing_goes_on_to_the_same_bytes(tmp_path, monkeypatch):
    write_shards(Shapes("caption", length=25), tmp_path / "whole", per_shard=10)

    def power_cut(done, of):
        if done == 14:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_shards(Shapes("caption", length=25), tmp_path / "cut", per_shard=10, progress=power_cut)
    assert sorted(p.name for p in (tmp_path / "cut").glob("*.tar")) == ["00000.tar"]
    first = (tmp_path / "cut" / "00000.tar").stat().st_mtime_ns
    write_shards(Shapes("caption", length=25), tmp_path / "cut", per_shard=10)
    assert (tmp_path / "cut" / "00000.tar").stat().st_mtime_ns == first
    files = {p.name: p.read_bytes() for p in (tmp_path / "whole").iterdir()}
    assert {p.name: p.read_bytes() for p in (tmp_path / "cut").iterdir() if p.suffix != ".partial"} == files
    with pytest.raises(ValueError, match="shards of another data set"):
        write_shards(Shapes("caption", length=26), tmp_path / "cut", per_shard=10)
    with pytest.raises(ValueError, match="at least one row"):
        write_shards(Shapes("caption"), tmp_path / "x", per_shard=0)


def test_jpeg_is_smaller_and_nearly_the_same(tmp_path):
    image = torch.nn.functional.interpolate(tiny.image(0, 8)[None].float(), 128, mode="bicubic").clamp(0, 255)[0].byte()

    class One(Shapes):
        def __getitem__(self, index):
            example = super().__getitem__(index)
            example.target = image
            return example

    for name, quality in (("png", None), ("jpg", 95)):
        write_shards(One("generate", length=1), tmp_path / name, quality=quality)
    png, jpg = (WebDataset(f"{tmp_path}/{name}/00000.tar", "generate")[0].target for name in ("png", "jpg"))
    assert torch.equal(png, image) and 0 < (jpg.float() - png.float()).abs().mean() < 8
    sizes = [(tmp_path / name / "00000.tar").stat().st_size for name in ("jpg", "png")]
    assert sizes[0] < sizes[1]


# -- moments ----------------------------------------------------------------------------------------------------------


def test_cache_makes_what_the_run_names_and_the_run_uses_it(folder, tmp_path, capsys):
    flips = {"class_path": "datamodules.Flips", "init_args": {"dataset": folder_config(folder, max_skipped=0.2)}}
    cached = {
        "class_path": "datamodules.CachedMoments",
        "init_args": {"dataset": flips, "cache": str(tmp_path / "cache")},
    }
    path = run_config(tmp_path, {"drawing": {"rows": 4, "dataset": cached}})
    fit = ["fit", "--config", str(path), "--allow-module", "tiny", "--trainer.max_steps=2"]
    assert "holds no cache of moments: unifluid data cache makes one" in error_line(capsys, *fit)
    assert main(["data", "check", *fit[1:]]) == 0  # comes before the cache
    assert "streams.drawing: 37 of 41 generate rows are good" in capsys.readouterr().out
    assert main(["data", "cache", *fit[1:], "--batch-size", "7"]) == 0
    assert "streams.drawing: the moments of 78 pictures" in capsys.readouterr().out
    data = CachedMoments(Flips(Folder(folder, "generate", max_skipped=0.2)), str(tmp_path / "cache"))
    assert data[0].moments.shape == (3, 6, 6)
    assert main(fit) == 0
    other = ["--model.init_args.image_tokenizer.init_args.image_size=8", f"--trainer.default_root_dir={tmp_path / 'b'}"]
    assert "made by an image tokenizer with other weights or settings" in error_line(capsys, *fit, *other)
