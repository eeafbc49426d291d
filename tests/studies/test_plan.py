"""The runs of a study: named after their settings, each after those it builds upon."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from unifluid.studies.plan import plan_runs
from unifluid.studies.study import read_study

STUDY = {
    "claim": "Wider is better.",
    "configs": ["base.yaml"],
    "shared": {"tokenizer": {"configs": ["tokenizer.yaml"]}},
    "stages": {"pretrained": {"flags": {"weights": "{tokenizer}/last.ckpt"}}},
    "arms": {
        "narrow": {"flags": {"width": 8, "init_from": "{pretrained}/last.ckpt"}},
        "wide": {"flags": {"width": 16, "init_from": "{pretrained}/last.ckpt"}},
        "wide drawn again": {"command": "test", "flags": {"ckpt_path": "{wide}/last.ckpt", "steps": 5}},
    },
    "seeds": [0, 1],
    "scores": ["qa/accuracy"],
}
OUT = Path("runs/studies")


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("base.yaml").write_text("trainer: {max_steps: 100}\nmodel: {lam: 1}\n")
    Path("tokenizer.yaml").write_text("trainer: {max_steps: 40}\n")
    Path("gpu.yaml").write_text("# nothing but this\n")


def study_of(name="widths", overlays=(), **fields):
    path = Path(f"{name}.yaml")
    path.write_text(yaml.safe_dump(STUDY | fields, sort_keys=False))
    return read_study(path, overlays)


def plan(*options, name="widths", overlays=(), **fields):
    """The runs by what they are called, in their order."""
    return {str(run): run for run in plan_runs(study_of(name, overlays, **fields), OUT, *options)}


def flags_of(run):
    """What follows the configs on the command line, but where it writes to."""
    given = dict(arg[2:].split("=", 1) for arg in run.args[1:] if not arg.startswith("--config="))
    assert given.pop("trainer.default_root_dir") == str(run.folder)
    return given


def only_arm(flags, **more):
    """The flags of the one arm of a study, as the command line has them."""
    (run,) = plan(arms={"a": {"flags": flags, **more}}, seeds=[7], stages={}, shared={}).values()
    assert flags_of(run).pop("seed_everything") == "7"
    return {name: value for name, value in flags_of(run).items() if name != "seed_everything"}


def test_each_run_comes_after_what_it_builds_on():
    runs = plan()
    arms = [f"{name}, seed {seed}" for seed in (0, 1) for name in ("pretrained", *STUDY["arms"])]
    assert list(runs) == ["tokenizer", *arms]
    order = [run.folder for run in runs.values()]
    assert all(order.index(folder) < order.index(run.folder) for run in runs.values() for folder in run.after)
    tokenizer, pretrained, wide = (runs[name] for name in ("tokenizer", "pretrained, seed 1", "wide, seed 1"))
    assert (pretrained.after, wide.after) == ((tokenizer.folder,), (pretrained.folder,))
    assert flags_of(pretrained) == {"seed_everything": "1", "weights": f"{tokenizer.folder}/last.ckpt"}
    assert wide.args[:2] == ("fit", "--config=base.yaml") and tokenizer.args[:2] == ("fit", "--config=tokenizer.yaml")
    assert runs["wide drawn again, seed 1"].after == (wide.folder,)
    assert all(run.folder.parent == OUT / "runs" for run in runs.values())


def test_an_arm_given_alone_takes_only_what_it_builds_on():
    pairs = [f"{name}, seed {seed}" for seed in (0, 1) for name in ("pretrained", "narrow")]
    assert list(plan(["narrow"])) == ["tokenizer", *pairs]
    everything = plan()
    assert all(run == everything[name] for name, run in plan(["wide drawn again"]).items())


def test_a_stage_that_no_arm_names_is_not_made():
    runs = plan(arms={"scratch": {"flags": {"width": 8}}})
    assert list(runs) == ["scratch, seed 0", "scratch, seed 1"]


def test_a_run_is_called_after_its_settings():
    first = plan()
    folders = {name: run.folder for name, run in first.items()}
    assert len(set(folders.values())) == len(folders)
    other = {"claim": "Another.", "arms": {"renamed": STUDY["arms"]["wide"], "new": None}, "scores": ["captions/exact"]}
    again = plan(name="other", **other)
    assert again["renamed, seed 1"].folder == folders["wide, seed 1"]
    assert again["renamed, seed 1"].args == first["wide, seed 1"].args
    Path("base.yaml").write_text("# the same\nmodel: {lam: 1}   # in another order\ntrainer:\n  max_steps: 100\n")
    assert {name: run.folder for name, run in plan().items()} == folders
    Path("base.yaml").write_text("trainer: {max_steps: 100}\nmodel: {lam: 2}\n")
    changed = {name: run.folder for name, run in plan().items()}
    assert {name for name in folders if changed[name] == folders[name]} == {"tokenizer"}
    Path("tokenizer.yaml").write_text("trainer: {max_steps: 41}\n")
    assert not set(folders.values()) & {run.folder for run in plan().values()}, "what builds on it is another run too"


def test_flags_and_commands_are_settings():
    folders = set()
    for arm in ({"width": 8}, {"width": 9}, {"width": "8"}, {"depth": 8}):
        folders.add(plan(arms={"a": {"flags": arm}})["a, seed 0"].folder)
    folders.add(plan(arms={"a": {"flags": {"width": 8}, "command": "test"}})["a, seed 0"].folder)
    folders.add(plan(arms={"a": {"flags": {"width": 8}, "configs": ["tokenizer.yaml"]}})["a, seed 0"].folder)
    assert len(folders) == 6


def test_other_seeds_share_what_is_shared():
    few, more = plan(seeds=[0]), plan(seeds=[1, 2])
    assert few["tokenizer"].folder == more["tokenizer"].folder
    assert plan(seeds=[2])["wide, seed 2"].folder == more["wide, seed 2"].folder != few["wide, seed 0"].folder


def test_placeholders_keep_their_type_where_they_stand_alone():
    values = {"lam": 0.1, "order": [2, 0, 1], "head": {"depth": 2}, "on": True, "none": None, "word": "ode"}
    flags = {
        "lam": "{lam}",
        "note": "lam is {lam}, {word}",
        "order": "{order}",
        "deep": {"a": ["{lam}", {"b": "{on}"}], "c": "{head}"},
        "none": "{none}",
        "word": "{word}",
        "kept": "{ not a name }",
    }
    assert only_arm(flags, values=values) == {
        "lam": "0.1",
        "note": "lam is 0.1, ode",
        "order": "[2, 0, 1]",
        "deep": '{"a": [0.1, {"b": true}], "c": {"depth": 2}}',
        "none": "null",
        "word": "ode",
        "kept": "{ not a name }",
    }


def test_placeholders_in_the_names_of_configs():
    for steps, size in enumerate(("small", "large")):
        Path(f"{size}.yaml").write_text(f"trainer: {{max_steps: {steps}}}\n")
    arms = {size: {"configs": ["{size}.yaml"], "values": {"size": size}} for size in ("small", "large")}
    runs = plan(arms=arms, seeds=[0])
    assert [run.args[2] for run in runs.values()] == ["--config=small.yaml", "--config=large.yaml"]
    assert len({run.folder for run in runs.values()}) == 2


def test_overlays_lie_below_what_an_arm_says():
    plain = plan()
    Path("gpu.yaml").write_text("trainer: {max_steps: 7}\n")
    Path("short.yaml").write_text("trainer: {max_steps: 2}\n")
    arms = STUDY["arms"] | {"short": {"configs": ["short.yaml"]}}
    overlaid = plan(overlays=["gpu.yaml"], arms=arms)
    assert overlaid["tokenizer"].folder == plain["tokenizer"].folder  # shared runs have nothing of the study's
    assert overlaid["wide, seed 0"].steps == 7 and overlaid["wide, seed 0"].folder != plain["wide, seed 0"].folder
    args = overlaid["short, seed 0"].args
    configs = [f"--config={name}.yaml" for name in ("base", "gpu", "short")]
    assert args[1:4] == tuple(configs) and overlaid["short, seed 0"].steps == 2


def test_steps_and_devices():
    plain, short = plan(), plan((), 3, "2")
    assert [plain[name].steps for name in ("tokenizer", "wide, seed 0", "wide drawn again, seed 0")] == [40, 100, None]
    assert {run.steps for run in short.values()} == {3, None}
    assert all(flags_of(run)["trainer.devices"] == "2" for run in short.values())
    assert [run.entry.command for run in short.values() if "trainer.max_steps" not in flags_of(run)] == ["test"] * 2
    assert not {run.folder for run in short.values()} & {run.folder for run in plain.values()}


def test_an_overlay_of_comments_is_an_overlay():
    assert plan(overlays=["gpu.yaml"])["wide, seed 0"].steps == 100


@pytest.mark.parametrize(
    ("arms", "message"),
    [
        ({"a": None, "b": None}, r"^widths\.yaml: a, seed 0, and b, seed 0, have the same settings"),
        ({"a": {"flags": {"lam": "{x}"}, "values": {"x": 1}}, "b": {"flags": {"lam": 1}}}, "a, seed 0, and b, seed 0"),
        ({"a": {"flags": {"seed_everything": 5}}}, "a, seed 0, and a, seed 1, have the same settings"),
        ({"a": {"configs": ["gone.yaml"]}}, r"^widths\.yaml: a needs gone\.yaml: No such file or directory$"),
        ({"a": {"configs": ["broken.yaml"]}}, r"^broken\.yaml: not valid YAML: "),
        ({"a": {"configs": ["list.yaml"]}}, r"^list\.yaml: a config holds settings by name"),
        ({"a": {"configs": ["trainer.yaml"]}}, r"^trainer\.yaml: a config holds settings by name"),
    ],
)
def test_mistakes_have_one_clear_line(arms, message):
    contents = {"broken": "a: [", "list": "- 1", "trainer": "trainer: fast"}
    for name, text in contents.items():
        Path(f"{name}.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        plan(arms=arms)
    assert "\n" not in str(caught.value)


def test_a_missing_overlay_is_named():
    with pytest.raises(ValueError, match=r"^widths\.yaml: pretrained needs gone\.yaml: No such file"):
        plan(overlays=["gone.yaml"])


def test_a_run_knows_which_of_its_configs_has_changed():
    run = plan(overlays=["gpu.yaml"])["wide, seed 0"]
    assert run.changed is None
    Path("gpu.yaml").write_text("# something else\n")
    assert run.changed is None
    for text in ("model: {lam: 2}", "model: ["):
        Path("gpu.yaml").write_text(text)
        assert run.changed == "gpu.yaml"
    Path("gpu.yaml").unlink()
    assert run.changed == "gpu.yaml"


def test_seeds_of_the_command_line():
    study = replace(study_of(), seeds=(5,))
    runs = plan_runs(study, OUT)
    assert [run.seed for run in runs if not run.entry.shared] == [5] * 4
