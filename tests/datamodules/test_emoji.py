"""The emoji builder on tiny tarballs of the real format: what it makes, what it holds out, what it refuses."""

import io
import json
import re
import subprocess
import sys
import tarfile

import pytest

from datamodules.emoji import EXTRA, STYLES, build, fetch
from datamodules.emoji.rows import held_out, make_rows
from datamodules.emoji.sources import Concept, read_tarball
from datamodules.formats.folder import Folder
from datamodules.images import read_image

TASKS = ("caption", "answer", "generate", "edit")
FILLS = {"noto": "#ff0000", "twemoji": "#00ff00", "openmoji": "#0000ff", "fluent": "#ffff00"}
PREFIXES = {"noto": "noto", "twemoji": "twemoji", "openmoji": "openmoji", "fluent": "fluent-emoji-flat"}
EXTRA_FILLS = {"emojione": "#ff00ff", "emojione-v1": "#00ffff", "fxemoji": "#888888"}
SPLITS = ("train", "val", "test", "extra")
GROUPS = ("smileys-emotion", "animals-nature")
N = 60


def write_tarball(path, files, extra=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        for member in extra:
            tar.addfile(member)


def icon_set(style, **icons):
    """Concept k is a square in the style's colour; code points are written with fe0f by some sets and not by others."""
    prefix, suffix = PREFIXES[style], "-fe0f" if style in ("noto", "fluent") else ""
    bodies = {
        f"thing-{k}": {"body": f'<rect width="{k % 7 + 2}" height="10" fill="{FILLS[style]}"/>'} for k in range(N)
    }
    bodies |= {f"hidden-{k}": {"body": "<g/>", "hidden": True} for k in range(3)}
    return {
        "package.json": {"name": f"@iconify-json/{prefix}", "version": "1.2.3"},
        "info.json": {
            "name": style.title(),
            "author": {"name": f"{style} people", "url": f"https://example.org/{style}"},
            "license": {"spdx": f"LICENCE-{style}", "url": "https://example.org/licence"},
        },
        "icons.json": {
            "prefix": prefix,
            "icons": bodies | icons,
            "aliases": {"also": {"parent": "thing-0"}, "mirrored": {"parent": "thing-1", "hFlip": True}},
            "width": 10,
            "height": 10,
        },
        "chars.json": {f"{0x1F400 + k:x}{suffix}": f"thing-{k}" for k in range(N)}
        | {"1f600": "also", "1f601": "mirrored", "1f3fb": "thing-2"},
    }


def extra_set(style):
    """A set without code points: every third concept, called by its name in one spelling or another."""
    files = icon_set("noto")
    names = (f"thing-{k}" if k % 2 else f"thing{k}" for k in range(0, N, 3))
    bodies = {name: {"body": f'<rect width="10" height="10" fill="{EXTRA_FILLS[style]}"/>'} for name in names}
    files["package.json"]["name"], files["info.json"]["name"] = f"@iconify-json/{style}", style.title()
    files["icons.json"] |= {"icons": bodies, "aliases": {"other-thing": {"parent": "thing-3"}}}
    return files | {"chars.json": {}}


def emojibase():
    def entry(code, label, group, **more):
        return {
            "hexcode": code,
            "label": label,
            "order": int(code[:5], 16),
            "group": group,
            "tags": [label, "any"],
            **more,
        }

    things = [entry(f"{0x1F400 + k:X}-FE0F", f"thing {k}", k % 2) for k in range(N)]
    for thing in things:
        thing["tags"] = [f"tag{len(thing['label'])}", f"only {thing['label']}"]
        thing["skins"] = [{"hexcode": thing["hexcode"] + "-1F3FB", "label": "light", "group": 0, "order": 0}]
    others = [
        entry("1F600", "alias", 0),
        entry("1F601", "mirrored", 0),
        entry("1F602", "nowhere", 0),
        entry("1F3FB", "light skin tone", 2),
        {"hexcode": "1F1E6", "label": "regional indicator A"},
    ]
    messages = [{"key": key, "message": key.replace("-", " & "), "order": i} for i, key in enumerate(GROUPS)]
    return {
        "package.json": {"name": "emojibase-data", "version": "17.0.0", "license": "MIT"},
        "LICENSE": b"MIT License\n\nCopyright (c) Somebody\n",
        "en/data.json": things[::-1] + others,
        "en/messages.json": {"groups": [*messages, {"key": "component", "message": "components", "order": 2}]},
    }


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tarballs")
    for style, prefix in PREFIXES.items():
        write_tarball(folder / f"iconify-json-{prefix}-1.2.3.tgz", icon_set(style))
    for style in EXTRA:
        write_tarball(folder / f"iconify-json-{style}-1.2.3.tgz", extra_set(style))
    write_tarball(folder / "emojibase-data-17.0.0.tgz", emojibase())
    return folder


@pytest.fixture(scope="module")
def built(sources, tmp_path_factory):
    out = tmp_path_factory.mktemp("emoji")
    return out, build(sources, out, 32, progress=False)


def rows_of(out, split):
    return [json.loads(line) for line in (out / f"{split}.jsonl").read_text().splitlines()]


def pictures_of(rows):
    return {row[name] for row in rows for name in ("image", "target") if name in row}


def test_concepts_and_counts(built):
    out, made = built
    assert made["concepts"] == N + 1  # and the alias; not: mirrored, unnamed, undrawn, skin tones, components
    assert made["pictures"] == 4 * (N + 1) + 3 * (N // 3) == len(list(out.glob("images/*/*.png")))
    assert all(made[split] == len(rows_of(out, split)) > 0 for split in SPLITS)
    names = dict.fromkeys(row["meta"]["concept"] for row in rows_of(out, "train"))
    assert list(names) == [*(f"thing {k}" for k in range(N)), "alias"]  # in emojibase's order, not its file's


def test_the_first_test_rows_are_a_fair_sample(built):
    codes = [int(row["id"].split("-")[1], 16) for row in rows_of(built[0], "test")]
    assert codes != sorted(codes)
    half = len(codes) // 2
    assert len(set(codes[:half])) > 0.6 * len(set(codes)) > 0  # in their own order the first half has half of them


def test_pictures_are_drawn_on_white_at_the_size_asked(built):
    image = read_image(built[0] / "images/twemoji/1f403.png")  # a green rectangle, 5 of 10 wide
    assert image.shape == (3, 32, 32)
    assert image[:, 16, 4].tolist() == [0, 255, 0]
    assert image[:, 16, 28].tolist() == [255, 255, 255]


def test_every_row_of_both_splits_makes_an_example(built):
    out, made = built
    data = [Folder(out, task, split, strict=True) for task in TASKS for split in SPLITS]
    assert sum(map(len, data)) == sum(made[split] for split in SPLITS)
    for rows in data:
        assert rows[len(rows) // 2].meta.keys() >= {"concept", "style", "group"}


def test_wording(built):
    rows = {row["id"]: row for split in SPLITS for row in rows_of(built[0], split)}
    meta = {"concept": "thing 3", "style": "noto", "group": "animals & nature"}
    assert rows["caption-1f403-noto"]["caption"] == "thing 3, in the noto style"
    assert rows["generate-1f403-noto"]["prompt"] == "thing 3 in the noto style"
    assert rows["generate-1f403-noto"]["meta"] == meta
    edit = rows["edit-1f403-noto-openmoji"]
    assert edit["instruction"] == "redraw in the openmoji style"
    assert (edit["image"], edit["target"]) == ("images/noto/1f403.png", "images/openmoji/1f403.png")
    answers = {kind: rows[f"answer-1f403-noto-{kind}"]["answers"] for kind in ("style", "group", "name")}
    assert answers == {"style": ["noto"], "group": ["animals & nature"], "name": ["thing 3"]}


def test_tag_questions_are_true_and_balanced(built):
    tags = {entry["label"]: entry["tags"] for entry in emojibase()["en/data.json"] if "tags" in entry}
    said = []
    for row in rows_of(built[0], "train"):
        if row["meta"].get("kind") == "tag":
            tag = re.fullmatch("does the word (.*) fit it\\?", row["question"])[1]
            assert row["answers"] == ["yes" if tag in tags[row["meta"]["concept"]] else "no"]
            said += row["answers"]
    assert 0.35 < said.count("yes") / len(said) < 0.65


@pytest.mark.parametrize("split", ["val", "test"])
def test_held_out_pairs_are_met_nowhere_else(built, split):
    """A held-out picture's concept and style were each seen in training, never together."""
    out, _ = built
    train, held = [*rows_of(out, "train"), *rows_of(out, "extra")], rows_of(out, split)
    pairs = {(row["meta"]["concept"], row["meta"]["style"]) for row in held}
    seen = {(row["meta"]["concept"], row["meta"]["style"]) for row in train}
    assert pairs
    assert not pairs & seen
    assert {concept for concept, _ in pairs} <= {concept for concept, _ in seen}
    assert {style for _, style in pairs} <= {style for _, style in seen}
    asked = pictures_of(row for row in held if row["task"] != "edit") | {
        r["target"] for r in held if r["task"] == "edit"
    }
    assert len(asked) == len(pairs)
    assert not asked & pictures_of(train)
    assert {row["image"] for row in held if row["task"] == "edit"} <= pictures_of(train)


def test_a_tenth_is_held_out_and_the_split_does_not_depend_on_the_styles_chosen():
    concepts = [Concept(f"{k:x}", f"thing {k}", "g", ("t",)) for k in range(20_000)]
    held = [held_out(concept) for concept in concepts]
    for style in STYLES:
        assert held.count(("test", style)) / len(held) == pytest.approx(0.1, abs=0.01)
        assert held.count(("val", style)) / len(held) == pytest.approx(0.025, abs=0.005)
    splits = make_rows(concepts[:300], ("twemoji", "fluent"), {})
    for split in ("val", "test"):
        pairs = {(row["meta"]["concept"], row["meta"]["style"]) for row in splits[split]}
        first = zip(concepts[:300], held, strict=False)
        assert pairs == {(c.name, h[1]) for c, h in first if h in ((split, "twemoji"), (split, "fluent"))}


def test_extra_styles_are_found_by_name_and_redrawn_in_the_others(built):
    rows = rows_of(built[0], "extra")
    assert {row["meta"]["concept"] for row in rows if row["task"] == "caption"} == {
        f"thing {k}" for k in range(0, N, 3)
    }
    assert {row["meta"]["style"] for row in rows if row["task"] != "edit"} == set(EXTRA)
    edits = [row for row in rows if row["task"] == "edit"]
    assert {row["meta"]["style"] for row in edits} == set(STYLES)
    assert all(row["image"].split("/")[1] in EXTRA for row in edits)
    for row in rows_of(built[0], "val") + rows_of(built[0], "test"):
        assert row["meta"]["style"] in STYLES


def test_ids_are_unique_and_make_file_names(built):
    ids = [row["id"] for split in SPLITS for row in rows_of(built[0], split)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z0-9-]+", name) for name in ids)


def test_the_same_tarballs_give_the_same_files(built, sources, tmp_path):
    build(sources, tmp_path, 32, progress=False)
    files = {path.relative_to(built[0]) for path in built[0].rglob("*") if path.is_file()}
    assert files == {path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()}
    assert all((built[0] / name).read_bytes() == (tmp_path / name).read_bytes() for name in files)


def test_without_the_renderer_one_line_says_what_to_install(sources, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    with pytest.raises(ValueError, match=r"pip install 'unifluid\[emoji\]'"):
        build(sources, tmp_path, progress=False)


def test_some_styles(sources, tmp_path):
    made = build(sources, tmp_path, 16, ["fluent", "noto"], [], progress=False)
    assert made["pictures"] == 2 * (N + 1)
    assert {row["meta"]["style"] for row in rows_of(tmp_path, "train")} == {"noto", "fluent"}


def test_licences_are_printed_and_kept(sources, tmp_path, capsys):
    build(sources, tmp_path, 16, progress=False)
    text = (tmp_path / "LICENSES.md").read_text()
    assert text in capsys.readouterr().out
    for style in STYLES:
        assert f"{style} people" in text
        assert f"LICENCE-{style}" in text
    assert "Copyright (c) Somebody" in text


def test_the_newest_tarball_is_used(sources, tmp_path, capsys):
    folder = tmp_path / "tarballs"
    folder.mkdir()
    for path in sources.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    for version in ("1.10.0", "1.9.0"):
        files = icon_set("noto") | {"package.json": {"name": "@iconify-json/noto", "version": version}}
        write_tarball(folder / f"iconify-json-noto-{version}.tgz", files)
    write_tarball(folder / "iconify-json-noto-v1-2.0.0.tgz", {})  # another package
    build(folder, tmp_path / "out", 16, progress=False)
    assert "@iconify-json/noto 1.10.0" in capsys.readouterr().out


def test_missing_tarballs_are_named_with_the_command(sources, tmp_path):
    (tmp_path / "emojibase-data-17.0.0.tgz").write_bytes(b"")
    with pytest.raises(ValueError, match=r"lacks iconify-json-noto-\[0-9\]\*\.tgz, .*fluent-emoji-flat") as caught:
        build(tmp_path, tmp_path / "out")
    message = str(caught.value)
    assert "emojibase" not in message
    assert re.search(r"npm pack @iconify-json/noto@\S+ .* --pack-destination " + re.escape(str(tmp_path)), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("size", "styles", "extra"),
    [(8, None, None), (48, ["noto"], []), (48, ["noto", "apple"], []), (48, [], None), (48, None, ["noto"])],
)
def test_wrong_arguments(sources, tmp_path, size, styles, extra):
    with pytest.raises(ValueError, match="size must be|styles must be"):
        build(sources, tmp_path, size, styles, extra)


def link():
    member = tarfile.TarInfo("package/chars.json")
    member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
    return member


@pytest.mark.parametrize("member", [link(), tarfile.TarInfo("package/../../evil"), tarfile.TarInfo("/etc/evil")])
def test_unsafe_members_are_refused(tmp_path, member):
    write_tarball(tmp_path / "x.tgz", {"a.json": {}}, [member])
    with pytest.raises(ValueError, match="link or leaves the package"):
        read_tarball(tmp_path / "x.tgz", ["a.json"])


def test_broken_tarballs(tmp_path):
    write_tarball(tmp_path / "x.tgz", {"a.json": list(range(10_000))})
    assert json.loads(read_tarball(tmp_path / "x.tgz", ["a.json"])["a.json"])[-1] == 9_999
    with pytest.raises(ValueError, match=r"holds no b\.json"):
        read_tarball(tmp_path / "x.tgz", ["b.json"])
    (tmp_path / "x.tgz").write_bytes((tmp_path / "x.tgz").read_bytes()[:2_000])
    with pytest.raises(ValueError, match=r"not a readable \.tgz"):
        read_tarball(tmp_path / "x.tgz", ["a.json"])


def test_enormous_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("datamodules.emoji.sources.MAX_MEMBER", 100)
    write_tarball(tmp_path / "x.tgz", {"a.json": [0] * 1_000})
    with pytest.raises(ValueError, match="too large"):
        read_tarball(tmp_path / "x.tgz", ["a.json"])


@pytest.mark.parametrize(
    "body",
    [
        '<image href="/etc/passwd"/>',
        '<use xlink:href="file:///etc/passwd"/>',
        "<use href = 'other.svg#a'/>",
        "<text>a</text>",
        '<rect fill="url(http://example.org/#a)"/>',
        "<!ENTITY a 'b'>",
    ],
)
def test_drawings_that_reach_beyond_themselves_are_refused(sources, tmp_path, body):
    folder = tmp_path / "tarballs"
    folder.mkdir()
    for path in sources.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    write_tarball(folder / "iconify-json-noto-2.0.0.tgz", icon_set("noto", **{"thing-5": {"body": body}}))
    with pytest.raises(ValueError, match=r"noto: the drawing of 1f405 refers to something outside it"):
        build(folder, tmp_path / "out", 16, progress=False)
    assert not (tmp_path / "out/train.jsonl").exists()


def test_code_points_cannot_name_other_files(sources, tmp_path):
    for path in sources.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    files = emojibase()
    files["en/data.json"][0]["hexcode"] = "../../1F400"
    write_tarball(tmp_path / "emojibase-data-18.0.0.tgz", files)
    with pytest.raises(ValueError, match="no code point sequence"):
        build(tmp_path, tmp_path / "out", progress=False)


def test_fetch_runs_npm_pack(tmp_path, monkeypatch):
    ran = []
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", lambda c, **_: ran.append(c) or subprocess.CompletedProcess(c, 0, "", ""))
    fetch(tmp_path / "new", ["openmoji", "noto"], ["fxemoji"])
    assert (tmp_path / "new").is_dir()
    names = [part.rsplit("@", 1)[0] for part in ran[0][2:-2]]
    assert names == ["@iconify-json/noto", "@iconify-json/openmoji", "@iconify-json/fxemoji", "emojibase-data"]
    assert ran[0][:2] == ["/usr/bin/npm", "pack"]
    assert ran[0][-2:] == ["--pack-destination", str(tmp_path / "new")]


def test_fetch_says_in_one_line_what_is_wrong(tmp_path, monkeypatch):
    stderr = "npm notice x\nnpm error code ENOTFOUND\nnpm error network unreachable\nnpm error more\n"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr("subprocess.run", lambda c, **_: subprocess.CompletedProcess(c, 1, "", stderr))
    with pytest.raises(ValueError, match="npm error code ENOTFOUND; npm error network unreachable$"):
        fetch(tmp_path)
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(ValueError, match="npm was not found: install Node.js, or put the files of `npm pack") as caught:
        fetch(tmp_path)
    assert "\n" not in str(caught.value)
