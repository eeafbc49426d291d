"""A study says what is compared with what; what it says wrongly is one line that names the file and the field."""

import pytest
import yaml

from unifluid.studies.study import read_study

STUDY = """
claim: Wider is better.
configs: [base.yaml]
flags: {a: 1, b: 1}
shared:
  tokenizer: {configs: [tokenizer.yaml]}
stages:
  pretrained: {flags: {b: 2, weights: "{tokenizer}/last.ckpt"}}
arms:
  narrow: &narrow
    values: {width: 8}
    flags: {b: 3, init_from: "{pretrained}/last.ckpt", width: "{width}"}
  wide: {<<: *narrow, values: {width: 16}}
grid:
  command: test
  flags: {ckpt_path: "{wide}/last.ckpt", steps: "{steps}", order: "{order}"}
  values: {steps: [10, 20], order: [raster]}
scores: [geneval/overall, qa/accuracy]
expect:
  - {score: qa/accuracy, of: wide, above: narrow}
  - {score: qa/accuracy, of: narrow, below: steps=10 order=raster, margin: 0.1}
figure: {axis: width, log: true}
"""


def read(tmp_path, text):
    path = tmp_path / "widths.yaml"
    path.write_text(text)
    return read_study(path)


def changed(**fields):
    """The study with other fields, None for those to leave out."""
    found = yaml.safe_load(STUDY) | fields
    return yaml.safe_dump({name: value for name, value in found.items() if value is not None}, sort_keys=False)


def refusal(tmp_path, text):
    with pytest.raises(ValueError) as caught:
        read(tmp_path, text)
    line = str(caught.value)
    assert line.startswith(f"{tmp_path}/widths.yaml: ") and "\n" not in line
    return line.partition("widths.yaml: ")[2]


def test_what_a_study_says(tmp_path):
    study = read(tmp_path, STUDY)
    assert (study.name, study.claim, study.reported, study.seeds) == ("widths", "Wider is better.", "", (0, 1, 2))
    assert list(study.entries) == ["tokenizer", "pretrained", *study.arms]
    assert study.arms == ("narrow", "wide", "steps=10 order=raster", "steps=20 order=raster")
    tokenizer, pretrained, narrow, wide, grid, _ = study.entries.values()
    assert tokenizer.shared and (tokenizer.configs, tokenizer.flags) == (("tokenizer.yaml",), {})
    assert pretrained.flags == {"a": 1, "b": 2, "weights": "{tokenizer}/last.ckpt"}
    assert not pretrained.shared and pretrained.configs == ("base.yaml",) and pretrained.needs == ["tokenizer"]
    assert narrow.needs == ["pretrained"] and narrow.flags["b"] == 3 and wide.values == {"width": 16}
    assert (grid.command, grid.values, grid.needs) == ("test", {"steps": 10, "order": "raster"}, ["wide"])
    assert (study.figure.axis, study.figure.log, study.figure.plane) == ("width", True, None)
    first, second = study.expect
    assert str(first) == "qa/accuracy: wide above narrow" and not second.above and second.margin == 0.1
    assert str(second) == "qa/accuracy: narrow below steps=10 order=raster, or at most 0.1 short of it"


def test_names_may_be_numbers_and_of_any_language(tmp_path):
    arms = {8: {"flags": {"w": "{größe}"}}, 16: None}
    expect = [{"score": "qa/accuracy", "of": 16, "above": 8}]
    study = read(tmp_path, changed(arms=arms, stages={"größe": None}, grid=None, figure=None, expect=expect))
    assert study.arms == ("8", "16") and study.entries["8"].needs == ["größe"] and study.expect[0].than == "8"


def test_what_is_merged_is_not_given_twice(tmp_path):
    """A mapping that others take over is read once more for each of them."""
    text = STUDY.replace("{b: 3,", "&flags {<<: {a: 5}, a: 7, b: 3,").replace("figure:", "source: said\nfigure:")
    text = text.replace("grid:\n", "").replace(
        "  command: test\n  flags: {ckpt_path", "grid:\n  command: test\n  flags: {<<: *flags, ckpt_path"
    )
    text = text.replace('width: "{width}"}', "}")
    assert read(tmp_path, text).entries["steps=10 order=raster"].flags["a"] == 7


PLAIN = {"grid": None, "expect": None, "figure": None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"arm": {}}, "no field 'arm', there are arms, claim, configs, expect, figure, flags, grid"),
        ({"claim": None}, "claim is missing"),
        ({"claim": ["a"]}, "claim must be words, got ['a']"),
        ({"world": 3}, "world must be words, got 3"),
        ({"scores": None}, "scores is missing"),
        ({"scores": "qa/accuracy"}, "scores must be a list of names of scores, got 'qa/accuracy'"),
        ({"scores": {"qa": 1}}, "scores must be a list of names of scores, got {'qa': 1}"),
        ({"scores": [1]}, "scores must be a list of names of scores, got [1]"),
        ({"arms": None, **PLAIN}, "arms, or a grid of them, are missing"),
        ({"arms": ["a"]}, "arms must hold runs by name, got ['a']"),
        ({"arms": {"a": ["x.yaml"]}, **PLAIN}, "a: a run has command, configs, flags, values, got ['x.yaml']"),
        ({"arms": {"a": {"config": "x.yaml"}}, **PLAIN}, "a: a run has command, configs, flags, values, got {'config'"),
        ({"arms": {"a": {"configs": "x.yaml"}}, **PLAIN}, "a: configs must be a list of files, got 'x.yaml'"),
        ({"arms": {"a": {"configs": [1]}}, **PLAIN}, "a: configs must be a list of files, got [1]"),
        ({"arms": {"a": {"flags": ["x"]}}, **PLAIN}, "a: flags must hold values by name, got ['x']"),
        ({"arms": {"a": {"values": ["x"]}}, **PLAIN}, "a: values must hold values by name, got ['x']"),
        ({"arms": {"a": {"command": "train"}}, **PLAIN}, "a: command must be one of fit, test, got 'train'"),
        ({"arms": {"a": {"command": ["fit"]}}, **PLAIN}, "a: command must be one of fit, test, got ['fit']"),
        ({"arms": {"../a": None}, **PLAIN}, "'../a' names a folder: letters, digits, spaces, _"),
        ({"arms": {"..": None}, **PLAIN}, "'..' names a folder: letters, digits, spaces, _"),
        ({"configs": "x.yaml"}, "the study: configs must be a list of files, got 'x.yaml'"),
        ({"flags": ["x"]}, "the study: flags must hold values by name, got ['x']"),
        ({"shared": "tokenizer"}, "shared must hold runs by name, got 'tokenizer'"),
        ({"stages": ["pretrained"]}, "stages must hold runs by name, got ['pretrained']"),
        ({"stages": {"pretrained": None, "wide": None}}, "two runs are called 'wide'"),
        ({"arms": {"steps=1": None}, "grid": {"values": {"steps": [1]}}}, "two runs are called 'steps=1'"),
        ({"grid": {"values": {"steps": [1, 1]}}}, "two runs are called 'steps=1'"),
        ({"grid": "steps"}, "grid.values must hold lists of values by name, got 'steps'"),
        ({"grid": {"values": {"steps": 10}}}, "grid.values must hold lists of values by name, got {'values'"),
        ({"grid": {"values": {}}}, "grid.values must hold lists of values by name, got {'values': {}}"),
        ({"grid": {"values": {"steps": [1]}, "arms": 1}}, "steps=1: a run has command, configs, flags, values, got"),
        ({"grid": {"values": {"order": [[0, 1]]}}}, "'order=[0, 1]' names a folder"),
        (
            {"arms": {"a": {"flags": {"x": "{gone}/last.ckpt"}}}, **PLAIN},
            "a: {gone} is neither a run nor a value of it",
        ),
        ({"arms": {"a": {"flags": {"x": ["{größe}"]}}}, **PLAIN}, "a: {größe} is neither a run nor a value of it"),
        ({"arms": {"a": {"configs": ["{gone}.yaml"]}}, **PLAIN}, "a: {gone} is neither a run nor a value of it"),
        ({"arms": {"a": {"flags": {"x": {"y": ["{a}"]}}}}, **PLAIN}, "a needs a"),
        (
            {"arms": {n: {"flags": {"x": f"{{{m}}}"}} for n, m in ("ab", "bc", "ca")}, **PLAIN},
            "a needs b needs c needs a",
        ),
        ({"shared": {"tokenizer": {"flags": {"x": "{wide}"}}}}, "tokenizer is shared by all seeds, wide is not"),
        ({"seeds": 3}, "seeds must be a list of different whole numbers, none below 0, got 3"),
        ({"seeds": []}, "seeds must be a list of different whole numbers"),
        ({"seeds": [0, 0]}, "seeds must be a list of different whole numbers"),
        ({"seeds": [0, 1.5]}, "seeds must be a list of different whole numbers"),
        ({"seeds": [0, True]}, "seeds must be a list of different whole numbers"),
        ({"seeds": [-1]}, "seeds must be a list of different whole numbers"),
        ({"seeds": [[0]]}, "seeds must be a list of different whole numbers"),
        ({"expect": {"score": "qa/accuracy"}}, "expect must be a list of what is expected, got {'score'"),
        (
            {"expect": ["wide above narrow"]},
            "expect: give score, of, and above or below (and perhaps margin), got 'wide",
        ),
    ],
)
def test_mistakes_have_one_clear_line(fields, message, tmp_path):
    assert refusal(tmp_path, changed(**fields)).startswith(message)


@pytest.mark.parametrize(
    ("expected", "message"),
    [
        ({"of": "wider"}, "expect names an arm 'wider'; there are narrow, wide, steps=10 order=raster, steps=20"),
        ({"of": "pretrained"}, "expect names an arm 'pretrained'; there are narrow"),
        ({"above": ["narrow"]}, "expect names an arm \"['narrow']\"; there are narrow"),
        ({"above": "wide"}, "expect compares 'wide' with itself"),
        ({"score": "qa/colour"}, "expect names a score 'qa/colour' that is not among scores"),
        ({"below": "narrow"}, "expect: give score, of, and above or below"),
        ({"least": 0.1}, "expect: give score, of, and above or below"),
        ({"margin": "some"}, "expect.margin must be a number, not below 0, got 'some'"),
        ({"margin": -0.1}, "expect.margin must be a number, not below 0, got -0.1"),
        ({"margin": float("nan")}, "expect.margin must be a number, not below 0, got nan"),
        ({"margin": [1]}, "expect.margin must be a number, not below 0, got [1]"),
    ],
)
def test_mistaken_expectations(expected, message, tmp_path):
    fine = {"score": "qa/accuracy", "of": "wide", "above": "narrow"}
    assert read(tmp_path, changed(expect=[fine])).expect
    assert refusal(tmp_path, changed(expect=[fine, fine | expected])).startswith(message)


@pytest.mark.parametrize(
    ("figure", "message"),
    [
        ("bars", "figure must hold settings by name, got 'bars'"),
        ({"bars": True}, "figure has no 'bars', there are axis, log, plane"),
        ({"axis": "depth"}, "figure.axis is 'depth', which no arm has a value of"),
        ({"axis": ["width"]}, "figure.axis is ['width'], which no arm has a value of"),
        ({"axis": "order"}, "figure.axis is 'order', whose values are no numbers: ['raster', 'raster']"),
        ({"axis": "width", "log": "yes"}, "figure.log must be true or false, got 'yes'"),
        ({"plane": "qa/accuracy"}, "figure.plane must be two of the scores, got 'qa/accuracy'"),
        ({"plane": ["qa/accuracy"]}, "figure.plane must be two of the scores, got ['qa/accuracy']"),
        ({"plane": ["qa/accuracy", "qa/x"]}, "figure.plane must be two of the scores, got ['qa/accuracy', 'qa/x']"),
        ({"plane": 2}, "figure.plane must be two of the scores, got 2"),
    ],
)
def test_mistaken_figures(figure, message, tmp_path):
    assert refusal(tmp_path, changed(figure=figure)).startswith(message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (STUDY.replace("  wide:", "  narrow:"), "not valid YAML: 'narrow' is there twice in "),
        (STUDY + "claim: Another.\n", "not valid YAML: 'claim' is there twice in "),
        ("claim: [", "not valid YAML: "),
        ("claim: !!python/name:os.system x", "not valid YAML: "),
        ("claim: 2026-99-99", "not valid YAML: month must be in 1..12"),
        ("", "a study has fields: arms, claim, "),
        ("- claim", "a study has fields: arms, claim, "),
        ("claim", "a study has fields: arms, claim, "),
        ("1: claim", "a study has fields: arms, claim, "),
    ],
)
def test_files_that_are_no_studies(text, message, tmp_path):
    assert refusal(tmp_path, text).startswith(message)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"claim: \xff\xfe")
    with pytest.raises(ValueError, match=r"x\.yaml: not valid YAML: 'utf-8' codec can't decode"):
        read_study(tmp_path / "x.yaml")
    with pytest.raises(FileNotFoundError, match=r"none\.yaml"):
        read_study(tmp_path / "none.yaml")
