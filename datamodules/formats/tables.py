"""Tables in parquet or arrow files, as the Hugging Face hub distributes them, given locally; `datasets` reads them."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.formats.rows import FIELDS, PICTURES, REQUIRED, BadRow, picture_fields, text_fields
from datamodules.formats.skipping import Skipping
from datamodules.formats.tar import expand
from datamodules.images import decode_image
from unifluid.sequence import Example, Task


class Table(Skipping):
    """Rows of a table: a map from 0 … len - 1 to `Example`s. Pictures are bytes in the table itself.

    Arrow files are mapped into memory as they are; parquet has no access by row, so `datasets` writes it once as arrow
    into `cache`, as large as the data itself.

    Args:
        files: .parquet or .arrow files (braces, * and ? are expanded), or a folder written by `save_to_disk`.
        task: of all rows.
        columns: field of `Example` → column.
        prompt: what a caption is asked for with, where no column says it.
        cache: where parquet is unpacked; default: where `datasets` keeps such files.
        max_skipped, strict: see `Skipping`.
    """

    def __init__(
        self,
        files: str,
        task: Task,
        columns: dict[str, str],
        prompt: str | None = None,
        cache: str | None = None,
        max_skipped: float = 0.01,
        strict: bool = False,
    ):
        super().__init__(files, task, max_skipped, strict)
        self.columns, self.prompt = _columns(columns, task), prompt
        self.table = _select(_open(files, cache), self.columns, files)
        self.texts_only = self.table.select_columns([c for f, c in self.columns.items() if f not in PICTURES])
        self.begin(len(self.table))

    def load(self, row: int, pictures: tuple[str, ...]) -> Example:
        stored = (self.table if set(pictures) & self.columns.keys() else self.texts_only)[row]
        fields = {field: stored.get(column) for field, column in self.columns.items()}
        if isinstance(fields.get("answers"), str):
            fields["answers"] = [fields["answers"]]
        found = text_fields(
            {k: v for k, v in fields.items() if v is not None}, self.task, f"{Path(self.source).name}:{row}"
        )
        if self.task == "caption" and not found["prompt"]:
            found["prompt"] = self.prompt
        wanted = {name: fields[name] for name in PICTURES if name in pictures and name in fields}
        if wanted:
            read = picture_fields(wanted, self.task, _picture)
            found |= {name: images if len(images) > 1 else images[0] for name, images in read.items()}
        return Example(**found)

    def where(self, row: int) -> str:
        return f"{self.source}: row {row}"


class HQEdit(Table):
    """HQ-Edit (arXiv 2404.09990), from input to output picture; `Table` with inverse_edit goes the other way."""

    task: Task = "edit"

    def __init__(self, files: str, cache: str | None = None, max_skipped: float = 0.01, strict: bool = False):
        columns = {"image": "input_image", "target": "output_image", "instruction": "edit"}
        super().__init__(files, "edit", columns, cache=cache, max_skipped=max_skipped, strict=strict)


class UltraEdit(Table):
    """UltraEdit (arXiv 2407.05282): free-form and region-based files alike; masks are not used."""

    task: Task = "edit"

    def __init__(self, files: str, cache: str | None = None, max_skipped: float = 0.01, strict: bool = False):
        columns = {"image": "source_image", "target": "edited_image", "instruction": "edit_prompt"}
        super().__init__(files, "edit", columns, cache=cache, max_skipped=max_skipped, strict=strict)


def _picture(value: Any, name: str) -> Tensor:
    """A picture from bytes, or from {bytes, path}; a path alone could name any file of this machine."""
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise BadRow(f"no {name}" if data is None else f"bad {name}", "the table does not hold its bytes")
    return decode_image(data, f"its {name}")


def _columns(columns: dict[str, str], task: Task) -> dict[str, str]:
    if unknown := sorted(columns.keys() - set(FIELDS)):
        raise ValueError(f"columns names {unknown[0]!r}, which is none of {', '.join(FIELDS)}")
    if missing := [name for name in REQUIRED[task] if name not in columns]:
        raise ValueError(f"columns must say where the table has {missing[0]!r}, which task {task} needs")
    return {name: column for name, column in columns.items() if name in (*REQUIRED[task], "id", "meta", "prompt")}


def _open(files: str, cache: str | None) -> Any:
    """The table as it is stored, a `datasets.Dataset`. Raises ValueError in one line."""
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise ValueError(f"{files}: reading tables needs the package datasets: pip install 'unifluid[data]'") from error
    folder = Path(files)
    paths = [] if folder.is_dir() else [path for name in expand(files) for path in sorted(glob.glob(name))]
    kinds = sorted({Path(path).suffix for path in paths})
    if not folder.is_dir() and kinds not in ([".parquet"], [".arrow"]):
        found = f"matches {', '.join(kinds)} files" if paths else "matches no file"
        raise ValueError(f"{files} {found}; give .parquet or .arrow files, or a folder written by save_to_disk")
    try:
        if folder.is_dir():
            table = datasets.load_from_disk(files)
        elif kinds == [".parquet"]:
            table = datasets.load_dataset("parquet", data_files=paths, split="train", cache_dir=cache)
        else:
            table = datasets.concatenate_datasets([datasets.Dataset.from_file(path) for path in paths])
    except Exception as error:  # pyarrow and datasets have many kinds of their own for a damaged file
        cause = str(error.__cause__ or error).splitlines()
        raise ValueError(
            f"{files}: cannot be read as a table ({cause[0] if cause else type(error).__name__})"
        ) from error
    if isinstance(table, datasets.DatasetDict):
        raise ValueError(f"{files} holds the splits {', '.join(table)}: name the folder of one of them")
    return table


def _select(table: Any, columns: dict[str, str], files: str) -> Any:
    """Only what is needed, pictures as bytes: limits hold before they are decoded."""
    import datasets

    if missing := [column for column in columns.values() if column not in table.column_names]:
        raise ValueError(f"{files} has no column {missing[0]!r}, only {', '.join(table.column_names)}")
    table = table.select_columns(sorted(set(columns.values())))
    for column in table.column_names:
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table
