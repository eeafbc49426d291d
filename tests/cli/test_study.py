"""`unifluid study`: the study that experiments/README.md shows a newcomer, from its ten lines to its page."""

import contextlib
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml
from cli.runs import error_line

from unifluid.cli.main import main
from unifluid.studies import figure, runs
from unifluid.studies.plan import plan_runs
from unifluid.studies.study import read_study

ROOT = Path(__file__).parents[2]
WORLD = ROOT / "experiments" / "studies"
STUDIES = [file for file in sorted(WORLD.glob("*.yaml")) if "claim" in yaml.safe_load(file.read_text())]
SMALLER = {"n: 400": "n: 8", "depth: 3": "depth: 1", "    streams:\n": "    tokenizer_texts: 1000\n    streams:\n"}
FILES = ["README.md", "figure.svg", "report.html", "results.json"]


class InProcess:
    """`python -m unifluid` within this process, which has imported everything already."""

    calls: list[list[str]] = []
    pid = 0

    def __init__(self, command, stdout, stderr, env):
        assert command[1:3] == ["-m", "unifluid"]
        InProcess.calls.append(command[3:])
        with open(stdout.name, "a") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            self.returncode = main(command[3:])

    def poll(self):
        return self.returncode


@pytest.fixture(autouse=True)
def in_process(monkeypatch):
    monkeypatch.setattr(runs, "subprocess", SimpleNamespace(Popen=InProcess, STDOUT=subprocess.STDOUT))
    monkeypatch.setattr(runs, "POLL", 0)
    InProcess.calls = []


def newcomers_study():
    """The ten lines."""
    section = (ROOT / "experiments" / "README.md").read_text().partition("## A study of one's own\n")[2]
    return re.search(r"```yaml\n(.*?)```", section.partition("\n## ")[0], re.DOTALL)[1]


def write_study(folder, **changes):
    """The newcomer's study in `folder`, on smaller evaluations of the same world."""
    for file in WORLD.glob("world*.yaml"):
        text = file.read_text()
        for large, small in SMALLER.items():
            text = text.replace(large, small)
        (folder / file.name).write_text(text)
    found = yaml.safe_load(newcomers_study().replace("experiments/studies/", f"{folder}/")) | changes
    path = folder / "width.yaml"
    path.write_text(yaml.safe_dump(found, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study's file, all of its runs, of two steps each, and what came of them."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "subprocess", SimpleNamespace(Popen=InProcess, STDOUT=subprocess.STDOUT))
        assert main(study(write_study(folder))) == 0
    return folder


def study(path, *more):
    return ["study", str(path), "--steps", "2", "--seeds", "0", "1", "--out", str(path.parent / "out"), *more]


def results(folder, name="width"):
    return json.loads((folder / "out" / name / "results.json").read_text())


def flat(text):
    """As one line, whatever a table broke."""
    return " ".join(re.sub(r"[│┃]", " ", text).split())


def test_ten_lines_are_a_study():
    lines = newcomers_study().strip().splitlines()
    assert len(lines) == 10 and not any(line.lstrip().startswith("#") for line in lines)


def test_what_comes_of_them(made):
    out = made / "out" / "width"
    found = results(made)
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == FILES
    assert found["study"] == "width" and found["claim"] == "A wider model describes pictures better."
    assert list(found["arms"]) == ["width=64", "width=128"] and found["seeds"] == [0, 1]
    assert found["steps"] == {"autoencoder": 2, "width=64": 2, "width=128": 2}
    assert found["seconds"].keys() == found["steps"].keys() and min(found["seconds"].values()) > 0
    assert found["failed"] == {} and found["missing"] == [] and found["hardware"] and found["date"]
    for arm, scores in found["arms"].items():
        assert list(scores) == ["captions/exact", "qa/accuracy"]
        for score, estimate in scores.items():
            values = {}
            for seed in (0, 1):
                folder = out / arm / f"seed{seed}"  # a link
                values[str(seed)] = json.loads((folder / "scores.json").read_text())[score]
                width = yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["backbone"]
                assert f"width={width['init_args']['width']}" == arm
            assert estimate["seeds"] == values
            assert estimate["mean"] == pytest.approx(sum(values.values()) / 2)
            assert estimate["low"] <= estimate["mean"] <= estimate["high"]
    assert (out / "autoencoder" / "last.ckpt").exists()
    (finding,) = found["findings"]
    assert finding["expected"] == "captions/exact: width=128 above width=64" and finding["seeds"] == 2
    assert found["verdict"] == finding["verdict"] in ("holds", "does not", "too few seeds to tell")
    page = (out / "README.md").read_text()
    assert page.startswith(f"# width: {found['verdict']}\n\nA wider model describes pictures better.\n")
    assert "| arm | captions/exact | qa/accuracy | seeds |" in page and "![width](figure.svg)" in page
    words = " ".join(ElementTree.parse(out / "figure.svg").getroot().itertext())
    assert "captions/exact" in (out / "figure.svg").read_text() and words
    report = (out / "report.html").read_text()
    assert "<title>Study: width</title>" in report and "width=128" in report and "Verdicts" in report


def test_nothing_is_done_twice_and_a_figure_is_made_anew(made, monkeypatch, capsys):
    out = made / "out" / "width"
    before = results(made)
    for name in FILES:
        (out / name).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(figure, "draw", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(study(made / "width.yaml")) == 130
    assert [path.name for path in out.iterdir() if path.is_file()] == ["results.json"] and results(made) == before
    assert main(study(made / "width.yaml")) == 0
    assert sorted(path.name for path in out.iterdir() if path.is_file()) == FILES
    assert results(made) == before and not InProcess.calls
    said = flat(capsys.readouterr().out)
    assert f"A wider model describes pictures better. Here: {before['verdict']}." in said
    assert "captions/exact: width=128 above width=64: " in said


def test_the_plan_is_shown_before(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    path = made / "width.yaml"
    assert main(study(path, "--dry-run")) == 0
    done = capsys.readouterr().out
    for run in plan_runs(read_study(path), made / "out", (), 2)[:3]:  # tokenizer, both widths at seed 0
        (line,) = [line for line in done.splitlines() if str(run.folder) in line]
        assert str(run) in line and "done" in line and " 2 " in line
    assert "5 runs, 5 done; left: 0" in done
    assert main([*study(path, "--dry-run"), "--seeds", "0", "1", "2"]) == 0
    more = capsys.readouterr().out
    (line,) = [line for line in more.splitlines() if "width=128, seed 2" in line]
    assert re.search(r"about \d+ s", line) and "7 runs, 5 done; left: " in more and "unknown" not in more
    fresh = ["study", str(path), "--out", str(tmp_path / "new"), "--dry-run"]
    assert main(fresh) == 0
    unknown = capsys.readouterr().out
    assert "7 runs, 0 done; left: " in unknown and "and 7 runs of unknown time" in unknown
    assert "1,000" in unknown and "1,500" in unknown
    assert not (tmp_path / "new").exists() and not InProcess.calls


def test_times_are_those_of_as_many_steps(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    (folder := tmp_path / "studies").mkdir()
    path = write_study(folder)
    kept = tmp_path / "results" / "width" / "results.json"
    kept.parent.mkdir(parents=True)
    names = ["autoencoder", "width=64", "width=128"]
    known = {"seconds": dict.fromkeys(names, 6000.0), "steps": dict.fromkeys(names, 1500)}
    for text, unknown in ((json.dumps(known), 1), ("{", 7), ("[]", 7), ("{}", 7)):
        kept.write_text(text)
        assert main(["study", str(path), "--out", str(tmp_path / "new"), "--dry-run"]) == 0
        assert f"and {unknown} runs of unknown time" in capsys.readouterr().out  # the autoencoder takes 1,000
    kept.write_text(json.dumps(known))
    assert main(study(path, "--dry-run")) == 0
    assert "and 5 runs of unknown time" in capsys.readouterr().out, "two steps are not said to take hours"


def test_results_say_what_made_them(made):
    made_by = f"unifluid study {made / 'width.yaml'} --seeds 0 1 --steps 2"
    assert results(made)["command"] == made_by
    assert f"by `{made_by}`, commit" in (made / "out" / "width" / "README.md").read_text()


def test_one_arm_alone(made, capsys):
    other = made / "part"
    assert main(study(made / "width.yaml", "--only", "width=64", "--dry-run")) == 0
    shown = capsys.readouterr().out
    assert "width=64" in shown and "width=128, seed" not in shown and "3 runs, 3 done" in shown
    found = yaml.safe_load((made / "width.yaml").read_text())
    found["grid"]["values"]["width"] = [64, 96]
    found["expect"] = [{"score": "captions/exact", "of": "width=96", "above": "width=64"}]
    found["scores"] += ["geneval/overall"]  # of no arm that has been run
    (path := made / "part.yaml").write_text(yaml.safe_dump(found))
    assert main(study(path, "--only", "width=64")) == 0
    part = results(made, "part")
    assert list(part["arms"]) == ["width=64"] and part["missing"] == ["width=96, seed 0", "width=96, seed 1"]
    assert part["findings"][0]["verdict"] == part["verdict"] == "too few seeds to tell"
    assert "Not run: width=96, seed 0, width=96, seed 1." in (made / "out" / "part" / "README.md").read_text()
    assert not InProcess.calls and not other.exists()
    assert "--only width=32: there are width=64, width=96" in error_line(capsys, *study(path, "--only", "width=32"))


def test_an_arm_that_fails(made, capsys):
    found = yaml.safe_load((made / "width.yaml").read_text())
    found["arms"] = {"bad": {"flags": {"model.init_args.copies": "many"}}}
    (path := made / "failing.yaml").write_text(yaml.safe_dump(found))
    line = error_line(capsys, *study(path))
    assert line.startswith("2 of 7 runs failed, the first is bad, seed 0: ") and "copies" in line
    assert line.endswith("; the same command tries them again")
    failing = results(made, "failing")
    assert list(failing["failed"]) == failing["missing"] == ["bad, seed 0", "bad, seed 1"]
    assert "copies" in failing["failed"]["bad, seed 0"] and list(failing["arms"]) == ["width=64", "width=128"]
    assert f"Failed: bad, seed 0: {failing['failed']['bad, seed 0']}" in (made / "out/failing/README.md").read_text()
    assert len(InProcess.calls) == 2
    error_line(capsys, *study(path))
    assert len(InProcess.calls) == 4, "what failed is tried again"


def test_where_all_arms_fail_the_first_error_is_told(made, capsys):
    found = yaml.safe_load((made / "width.yaml").read_text())
    found["shared"]["autoencoder"]["flags"] = {"model.init_args.tokenizer": "nothing.Here"}
    (path := made / "lost.yaml").write_text(yaml.safe_dump(found))
    line = error_line(capsys, *study(path))
    assert line.startswith("5 of 5 runs failed, the first is autoencoder: ") and "nothing" in line
    assert len(InProcess.calls) == 1 and not (made / "out" / "lost" / "results.json").exists()


def test_mistakes_have_one_clear_line(made, tmp_path, capsys):
    assert error_line(capsys, "study", tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: No such file or directory"
    (tmp_path / "x.yaml").write_text("claim: a\nscores: [b]\narms: {c: {configs: [gone.yaml]}}\n")
    assert "x.yaml: c needs gone.yaml: No such file or directory" in error_line(capsys, "study", tmp_path / "x.yaml")
    more = ["--config", "gone.yaml"]
    assert "needs gone.yaml: No such file" in error_line(capsys, *study(made / "width.yaml", *more))
    for seeds in (["0", "0"], ["-1"]):
        line = error_line(capsys, "study", made / "width.yaml", "--seeds", *seeds)
        assert line.startswith("--seeds must be a list of different whole numbers, none below 0, got ")
    assert "--steps" in error_line(capsys, "study", made / "width.yaml", "--steps", "0")
    found = yaml.safe_load((made / "width.yaml").read_text()) | {"scores": ["captions/exact", "qa/acuracy"]}
    (path := made / "typo.yaml").write_text(yaml.safe_dump(found))
    assert "typo.yaml: no run has a score 'qa/acuracy'; see " in error_line(capsys, *study(path))
    assert not InProcess.calls


@pytest.mark.slow
def test_ten_lines_in_processes_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runs, "subprocess", subprocess)
    (path := tmp_path / "width.yaml").write_text(newcomers_study())
    assert main(study(path, "--seeds", "0", "--jobs", "2")) == 0
    assert results(tmp_path)["verdict"] == "too few seeds to tell"


@pytest.mark.parametrize("file", STUDIES, ids=lambda file: file.stem)
def test_every_study_of_the_kit_can_be_planned(file, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = read_study(file)
    planned = plan_runs(found, Path("runs/studies"))  # reads every config
    assert {run.entry.name for run in planned} == set(found.entries), "each run is of use to some arm"
    assert all(run.steps for run in planned if run.entry.command == "fit")
    assert found.expect and found.reported and found.source and found.world and len(found.seeds) >= 2


def test_there_are_studies():
    assert len(STUDIES) >= 8
