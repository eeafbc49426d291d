"""Results as a Markdown table."""

from __future__ import annotations

from typing import Any

TIMED = {"ours_ms": "ours, ms", "reference_ms": "reference, ms"}
BOUNDS = {f"{side}_{bound}_ms" for side in ("ours", "reference") for bound in ("min", "max")}
COLUMNS = {"case": "case"} | TIMED | {"ratio": "reference / ours", "max_error": "largest difference", "n": "n"}
Row = dict[str, Any]


def markdown(found: dict[str, Any]) -> str:
    """The whole file: title, what it was measured on, table, notes.

    What most rows have is a column, what few have stands in the last one by name. Columns without a value are left out.
    """
    rows, machine = found["rows"], found["hardware"]
    others = list(dict.fromkeys(key for row in rows for key in row if key not in BOUNDS | COLUMNS.keys()))
    common = [key for key in others if sum(row.get(key) is not None for row in rows) > len(rows) / 2]
    rare = [key for key in others if key not in common]
    rows = [row | {"also": also(row, rare)} for row in rows]
    names = [key for key in (*COLUMNS, *common, "also") if any(row.get(key) not in (None, "") for row in rows)]
    lines = [f"# {found['name']}", "", found["title"], ""]
    if found["tiny"]:
        lines += ["**Tiny sizes: these times mean nothing.**", ""]
    where = ", ".join(filter(None, [machine.get("gpu"), machine["cpu"]]))
    threads = f"{machine['cores']} cores, {machine['threads']} threads"
    made = f"{where}; {threads}; {' '.join(machine['instructions'])}; torch {machine['torch']}"
    lines += [f"Commit {found['commit']}, {found['date']}. {made}. Medians, with the least and the greatest.", ""]
    lines += ["| " + " | ".join(COLUMNS.get(name, name.replace("_", " ")) for name in names) + " |"]
    lines += ["|" + "---|" * len(names)]
    lines += ["| " + " | ".join(cell(row, name) for name in names) + " |" for row in rows]
    return "\n".join([*lines, *(f"\n{note}" for note in found["notes"])])


def also(row: Row, names: list[str]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {cell(row, name)}" for name in names if row.get(name) is not None)


def cell(row: Row, name: str) -> str:
    value = row.get(name)
    if value is None:
        return ""
    if name in TIMED:
        side = name.removesuffix("_ms")
        bounds = [row.get(f"{side}_{bound}_ms") for bound in ("min", "max")]
        several = None not in bounds and row.get("n", 1) > 1
        return f"{value:g}" + (f" ({bounds[0]:g}–{bounds[1]:g})" if several else "")
    return f"{value:.4g}" if isinstance(value, float) else str(value)
