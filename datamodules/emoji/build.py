"""Tarballs in, a folder of the kit's own schema out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from datamodules.emoji.rows import make_rows, picture
from datamodules.emoji.sources import (
    EXTRA,
    STYLES,
    IconSet,
    check_styles,
    find_tarballs,
    read_concepts,
    read_icons,
    read_tarball,
)
from datamodules.formats.jsonl import write_jsonl


def build(
    sources: str | Path,
    out: str | Path,
    size: int = 32,
    styles: Sequence[str] | None = None,
    extra: Sequence[str] | None = None,
    progress: bool = True,
) -> dict[str, int]:
    """Make `out`/train.jsonl, val.jsonl, test.jsonl, extra.jsonl, images/STYLE/CODE.png and LICENSES.md of the tarballs
    in `sources`.

    Concepts are the emoji that all `styles` (default: all) draw, without skin-tone variants; `extra` styles (default:
    all) draw some of them, for training alone. Pictures are `size` px square on white. The same tarballs give the same
    files. Prints the licences; returns how many of what were made.
    Raises ValueError for missing or unsafe tarballs, unknown styles and sizes out of range.
    """
    if not 16 <= size <= 512:
        raise ValueError(f"size must be from 16 to 512 pixels, got {size}")
    out, styles = Path(out), check_styles(STYLES if styles is None else styles)
    every = check_styles(styles, EXTRA if extra is None else extra)
    tarballs = find_tarballs(sources, every)
    sets = [read_icons(style, tarballs[style]) for style in every]
    concepts = [c for c in read_concepts(tarballs["names"]) if all(icons.icon(c) for icons in sets[: len(styles)])]
    if not concepts:
        raise ValueError(f"{sources}: no emoji is in all of the styles {', '.join(styles)}")
    drawn = {icons.style: [c for c in concepts if icons.icon(c)] for icons in sets}
    splits = make_rows(concepts, styles, {style: drawn[style] for style in every[len(styles) :]})

    hidden = None if progress else True  # None: shown in a terminal only
    out.mkdir(parents=True, exist_ok=True)
    files = {out / f"{split}.jsonl": rows for split, rows in splits.items()}
    for file in files:  # they come last, so that a folder that has them is complete
        file.unlink(missing_ok=True)
    for icons in sets:
        (out / picture(concepts[0], icons.style)).parent.mkdir(parents=True, exist_ok=True)
        for concept in tqdm(drawn[icons.style], desc=f"drawing {icons.style}", unit="picture", disable=hidden):
            (out / picture(concept, icons.style)).write_bytes(render(icons.svg(concept, size)))
    text = licences(sets, tarballs["names"], size)
    (out / "LICENSES.md").write_text(text, encoding="utf-8")
    print(text)
    for file, rows in files.items():
        write_jsonl(file, rows)
    counts = {split: len(rows) for split, rows in splits.items()}
    return {"concepts": len(concepts), "pictures": sum(map(len, drawn.values())), **counts}


def render(svg: str) -> bytes:
    """An SVG drawn on white, as PNG. System fonts stay out: a picture must not depend on the machine."""
    try:
        import resvg_py
    except ImportError as error:
        raise ValueError("drawing emoji needs resvg-py: pip install 'unifluid[emoji]'") from error
    return bytes(resvg_py.svg_to_bytes(svg_string=svg, background="#fff", skip_system_fonts=True))


def licences(sets: Sequence[IconSet], names: Path, size: int) -> str:
    """LICENSES.md: who drew what, under which licence, and what was changed."""
    lines = [
        "# Licences of these pictures and names",
        "",
        f"The drawings were rendered at {size} x {size} pixels on white, otherwise unchanged. Each keeps its licence:",
        "whoever passes pictures on names their authors, and passes share-alike ones on under the same licence.",
        "",
    ]
    for icons in sets:
        author, licence = icons.info["author"], icons.info["license"]
        lines.append(
            f"- **{icons.style}**: {icons.info['name']} by {author['name']} ({author['url']}), "
            f"licence {licence['spdx']} ({licence['url']}), from {icons.package['name']} {icons.package['version']}"
        )
    files = read_tarball(names, ["package.json", "LICENSE"])
    package = json.loads(files["package.json"])
    lines += [
        f"- **names, groups and tags**: {package['name']} {package['version']}, licence {package['license']}:",
        "",
        *(f"      {line}".rstrip() for line in files["LICENSE"].decode().splitlines()),
    ]
    return "\n".join(lines) + "\n"
