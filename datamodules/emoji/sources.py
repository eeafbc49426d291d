"""The icon sets as npm publishes them: getting the tarballs, and reading them without extracting anything.

Every set has one format: icons.json holds SVG bodies by name and aliases, chars.json maps code points to names, if it
maps any. emojibase-data names the code points and gives their tags and groups.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

PACKAGES = {  # style -> npm package; the versions the reported figures were made with, others work as well
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "openmoji": "@iconify-json/openmoji@1.2.29",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
}
EXTRA_PACKAGES = {  # to train on beside: older sets, which draw fewer concepts and map no code points
    "emojione": "@iconify-json/emojione@1.2.3",
    "emojione-v1": "@iconify-json/emojione-v1@1.2.3",
    "fxemoji": "@iconify-json/fxemoji@1.2.2",
}
NAMES = "emojibase-data@17.0.0"
STYLES, EXTRA = tuple(PACKAGES), tuple(EXTRA_PACKAGES)

MAX_MEMBER = 64 * 2**20  # bytes; the largest file read is 12 MB
MAX_TARBALL = 512 * 2**20  # bytes unpacked
# Anything through which an SVG could reach beyond itself: files, links, fonts, scripts, entities.
FOREIGN = re.compile(r"<(image|text|script|style|foreignObject)\b|<[!?]|href\s*=\s*['\"](?!#)|url\(['\"]?(?!#)")
VIEW_BOX = {"left": 0, "top": 0, "width": 16, "height": 16}  # of an icon, with the format's defaults


@dataclass(frozen=True)
class Concept:
    """What an emoji shows: code point(s) "1f431", name "cat face", group "animals & nature", tags ("kitten", …)."""

    code: str
    name: str
    group: str
    tags: tuple[str, ...]


@dataclass(frozen=True)
class IconSet:
    """One foundry's drawings."""

    style: str
    package: dict[str, Any]  # package.json
    info: dict[str, Any]  # info.json: name, author, licence
    icons: dict[str, Any]  # icons.json
    names: dict[str, str]  # code without fe0f -> icon name; empty: icons are called by the names of what they show

    def icon(self, concept: Concept) -> dict[str, Any] | None:
        """The icon of a concept; None where there is none, or only a turned or mirrored alias."""
        name = self.names.get(concept.code) if self.names else self._spelt.get(_letters(concept.name))
        aliases = self.icons.get("aliases", {})
        if name in aliases:
            name = aliases[name]["parent"] if aliases[name].keys() <= {"parent", "hidden"} else None
        return self.icons["icons"].get(name)

    @cached_property
    def _spelt(self) -> dict[str, str]:
        """Letters and digits of a name -> icon name."""
        return {_letters(name): name for name in [*self.icons.get("aliases", {}), *self.icons["icons"]]}

    def svg(self, concept: Concept, size: int) -> str:
        """The drawing of `concept`, centred in `size` x `size` pixels. ValueError if it reaches beyond itself."""
        icon = self.icon(concept)
        if FOREIGN.search(icon["body"]):
            raise ValueError(
                f"{self.package['name']}: the drawing of {concept.code} refers to something outside it, refused"
            )
        box = [float(icon.get(key, self.icons.get(key, default))) for key, default in VIEW_BOX.items()]
        xmlns = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        size = f'width="{size}" height="{size}"'
        return f'<svg {xmlns} {size} viewBox="{" ".join(map(str, box))}">{icon["body"]}</svg>'


def fetch(out: str | Path, styles: Sequence[str] = STYLES, extra: Sequence[str] = EXTRA) -> None:
    """Download the tarballs of these styles and of the names into `out` with npm. Raises ValueError if npm cannot."""
    out, packages = Path(out), _packages(check_styles(styles, extra))
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(
            f"npm was not found: install Node.js, or put the files of `npm pack {' '.join(packages)}` in {out}"
        )
    out.mkdir(parents=True, exist_ok=True)
    command = [npm, "pack", *packages, "--pack-destination", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line.lower()] or ["no message"]
        raise ValueError(f"npm pack failed ({done.returncode}): {'; '.join(errors[:2])}")


def check_styles(styles: Sequence[str], extra: Sequence[str] = ()) -> tuple[str, ...]:
    """`styles` in the order of STYLES, then `extra` in that of EXTRA.

    Raises ValueError for unknown ones, or fewer than two of STYLES: pairs are held out of those.
    """
    if len(set(styles)) < 2 or not set(styles) <= set(STYLES):
        raise ValueError(f"styles must be two or more of {', '.join(STYLES)}, got {', '.join(styles) or 'none'}")
    if not set(extra) <= set(EXTRA):
        raise ValueError(f"extra styles must be of {', '.join(EXTRA)}, got {', '.join(extra)}")
    return tuple(style for style in STYLES + EXTRA if style in (*styles, *extra))


def _packages(styles: Sequence[str]) -> list[str]:
    return [*((PACKAGES | EXTRA_PACKAGES)[style] for style in styles), NAMES]


def find_tarballs(folder: str | Path, styles: Sequence[str]) -> dict[str, Path]:
    """Style, or "names" -> its newest tarball in `folder`. Raises ValueError naming those missing and the command to
    get them."""
    packages = dict(zip([*styles, "names"], _packages(styles), strict=True))
    found = {style: sorted(Path(folder).glob(_pattern(p)), key=_version) for style, p in packages.items()}
    missing = [packages[style] for style in packages if not found[style]]
    if missing:
        raise ValueError(
            f"{folder} lacks {', '.join(map(_pattern, missing))}; get them with: "
            f"npm pack {' '.join(missing)} --pack-destination {folder}"
        )
    return {style: tarballs[-1] for style, tarballs in found.items()}


def _pattern(package: str) -> str:
    return package.lstrip("@").rsplit("@", 1)[0].replace("/", "-") + "-[0-9]*.tgz"


def _version(tarball: Path) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", tarball.stem.rsplit("-", 1)[1])))


def read_tarball(path: Path, wanted: Sequence[str]) -> dict[str, bytes]:
    """The files `wanted` of an npm tarball, streamed into memory; nothing is extracted.

    Raises ValueError for links, paths that leave the package, absurd sizes, missing files and broken archives.
    """
    files, total = {}, 0
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                name, total = PurePosixPath(member.name), total + member.size
                if not (member.isreg() or member.isdir()) or name.is_absolute() or ".." in name.parts:
                    raise ValueError(f"{path}: refused, {member.name!r} is a link or leaves the package")
                if member.size > MAX_MEMBER or total > MAX_TARBALL:
                    raise ValueError(f"{path}: refused, {member.name!r} makes it too large")
                inner = str(PurePosixPath(*name.parts[1:]))
                if inner in wanted:
                    files[inner] = tar.extractfile(member).read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a readable .tgz ({error})") from error
    missing = [name for name in wanted if name not in files]
    if missing:
        raise ValueError(f"{path}: holds no {', '.join(missing)}")
    return files


def _read_json(path: Path, wanted: Sequence[str]) -> list[Any]:
    files = read_tarball(path, wanted)
    try:
        return [json.loads(files[name]) for name in wanted]
    except ValueError as error:
        raise ValueError(f"{path}: malformed JSON ({error})") from error


def read_icons(style: str, tarball: Path) -> IconSet:
    """The set of `style`."""
    package, info, icons, chars = _read_json(tarball, ["package.json", "info.json", "icons.json", "chars.json"])
    return IconSet(style, package, info, icons, {_plain(code): name for code, name in chars.items()})


def read_concepts(tarball: Path) -> list[Concept]:
    """All named emoji in their usual order, without skin-tone variants and without the parts of others."""
    data, messages = _read_json(tarball, ["en/data.json", "en/messages.json"])
    groups = {group["order"]: group["message"] for group in messages["groups"] if group["key"] != "component"}
    data = sorted((entry for entry in data if entry.get("group") in groups), key=lambda entry: entry["order"])
    return [
        Concept(
            _plain(entry["hexcode"]),
            entry["label"],
            groups[entry["group"]],
            tuple(entry.get("tags") or [entry["label"]]),
        )
        for entry in data
    ]


def _plain(code: str) -> str:
    """A code sequence in lower case without the variation selector, which the sets use differently."""
    if not re.fullmatch(r"[0-9A-Fa-f-]+", code):  # files are named by it
        raise ValueError(f"{code!r} is no code point sequence")
    return "-".join(part for part in code.lower().split("-") if part != "fe0f")


def _letters(name: str) -> str:
    """What is left of a name when spelling differs: "piñata" and "pinata", "alarm clock" and "alarm-clock"."""
    plain = unicodedata.normalize("NFKD", name.lower()).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]", "", plain)
