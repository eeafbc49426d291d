"""What a study's runs have come to: results.json, README.md with table and words, figure.svg, report.html."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from unifluid.report.runs import LOSSES, SCORES, Curve, read_results, read_run, read_scores
from unifluid.report.runs import RESULTS as EVALUATIONS
from unifluid.studies.compare import Estimate, Finding, Reading, Verdict, compare, estimate, overall
from unifluid.studies.plan import Run
from unifluid.studies.runs import put, state_of
from unifluid.studies.study import Study

RESULTS, TABLE, FIGURE, PAGE = "results.json", "README.md", "figure.svg", "report.html"


@dataclass(frozen=True)
class Results:
    study: Study
    command: str  # that makes them again
    readings: dict[str, dict[str, dict[int, Reading]]]  # arm -> score -> seed -> reading
    findings: list[Finding]
    seconds: dict[str, float]  # of a run, by entry
    failed: dict[str, str]  # run -> its error
    missing: list[str]  # arms and seeds that have not been run
    steps: dict[str, int | None]
    commits: list[str]
    runs: dict[str, list[Path]]  # arm -> folders of its runs

    @property
    def verdict(self) -> Verdict | None:
        return overall(self.findings)

    @property
    def estimates(self) -> dict[str, dict[str, Estimate]]:
        return {
            arm: {score: estimate(list(by_seed.values())) for score, by_seed in own.items()}
            for arm, own in self.readings.items()
        }


def collect(study: Study, runs: Sequence[Run], command: str) -> Results:
    """Of those runs that came to their end.

    Raises ValueError where no arm's did, and where a score is in none: of all arms, or none of the scores in any.
    """
    states = {run.folder: state for run in runs if (state := state_of(run))}
    done = [run for run in runs if run.folder in states and states[run.folder]["code"] == 0]
    own = [run for run in done if run.entry.name in study.arms]
    if not own:
        raise ValueError(f"{study.path}: no arm has come to its end")
    readings: dict[str, dict[str, dict[int, Reading]]] = {}
    for run in own:
        for score, reading in _readings(run.folder, study.scores).items():
            readings.setdefault(run.entry.name, {}).setdefault(score, {})[run.seed] = reading
    absent = [score for score in study.scores if not any(score in scores for scores in readings.values())]
    if absent and (not readings or {run.entry.name for run in own} == set(study.arms)):
        raise ValueError(f"{study.path}: no run has a score {absent[0]!r}; see {own[0].folder / SCORES}")
    findings = [
        compare(e, readings.get(e.of, {}).get(e.score, {}), readings.get(e.than, {}).get(e.score, {}))
        for e in study.expect
    ]
    names = dict.fromkeys(run.entry.name for run in done)
    return Results(
        study,
        command,
        {arm: readings[arm] for arm in study.arms if arm in readings},
        findings,
        {name: median(states[r.folder]["seconds"] for r in done if r.entry.name == name) for name in names},
        {str(run): states[run.folder]["error"] for run in runs if states.get(run.folder, {}).get("error")},
        [str(run) for run in runs if run not in done and run.entry.name in study.arms],
        {run.entry.name: run.steps for run in done},
        sorted({commit for run in own for commit in _commits(run.folder)}),
        {arm: [run.folder for run in own if run.entry.name == arm] for arm in study.arms},
    )


def _readings(folder: Path, scores: Iterable[str]) -> dict[str, Reading]:
    """Scores of a run, or the last values of its losses."""
    found = read_scores(folder / SCORES)
    losses = read_run(folder, "", "").losses if any(key.startswith(LOSSES) for key in scores) else {}
    readings = {}
    for key in scores:
        if isinstance(found.get(key), int | float):
            readings[key] = Reading(float(found[key]), _items(folder / EVALUATIONS, key))
        elif key in losses:
            readings[key] = Reading(losses[key].values[-1])
    return readings


def _items(results: Path, key: str) -> tuple[float, ...]:
    """What a score is the mean of. Both its prefix and its own name may have slashes: quality/colourfulness/real."""
    parts = key.split("/")
    for cut in range(1, len(parts)):
        path = results / f"{'-'.join(parts[:cut])}_items.json"
        items = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if found := items.get("/".join(parts[cut:])):
            return tuple(found)
    return ()


def _curves(folders: Iterable[Path], tags: Iterable[str]) -> dict[str, list[Curve]]:
    """Losses as they were logged, a curve for each run that has them."""
    losses = [read_run(folder, "", "").losses for folder in folders] if tags else []
    return {tag: [own[tag] for own in losses if tag in own] for tag in tags}


def _commits(folder: Path) -> set[str]:
    return {line["commit"] for line in read_results(folder / EVALUATIONS) if line.get("commit")}


# -- files ------------------------------------------------------------------------------------------------------


def write(results: Results, out: Path) -> None:
    """All four files, each whole or not at all."""
    from unifluid.report import Section, write_page
    from unifluid.report.charts import style, svg
    from unifluid.studies.figure import draw

    study = results.study
    out.mkdir(parents=True, exist_ok=True)
    put(out / RESULTS, json.dumps(as_json(results), indent=1, ensure_ascii=False) + "\n")
    curves = {arm: _curves(folders, study.figure.curves) for arm, folders in results.runs.items()}
    put(out / FIGURE, _plain_svg(lambda: draw(study, results.estimates, curves)))
    put(out / TABLE, as_markdown(results))
    with style():
        figure = svg(draw(study, results.estimates, curves))
    words = " ".join([study.claim, *([f"Here: {results.verdict}."] if results.verdict else ())])
    sections = [Section(study.name, words, table(results), figure)]
    if results.findings:
        rows = [["what is expected", "seen", "verdict"], *(_finding_row(finding) for finding in results.findings)]
        sections.append(Section("Verdicts", "", rows))
    labels = [arm for arm, folders in results.runs.items() for _ in folders]
    folders = [folder for own in results.runs.values() for folder in own]
    write_page(folders, out / PAGE, f"Study: {study.name}", sections, labels)


def _plain_svg(make: Callable[[], Any]) -> str:
    """On white, for pages that show it as a picture."""
    import io

    from matplotlib import rc_context

    look = {"font.size": 9, "axes.grid": True, "grid.alpha": 0.25}
    with rc_context({"svg.hashsalt": "study", "svg.fonttype": "none"} | look):
        file = io.StringIO()
        make().savefig(file, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines()) + "\n"


def as_json(results: Results) -> dict[str, Any]:
    study = results.study
    arms = {
        arm: {
            score: {"mean": e.mean, "low": e.low, "high": e.high, "seeds": _values(results.readings[arm][score])}
            for score, e in own.items()
        }
        for arm, own in results.estimates.items()
    }
    findings = [
        {
            "expected": str(finding.expectation),
            "difference": finding.difference and finding.difference.mean,
            "low": finding.difference and finding.difference.low,
            "high": finding.difference and finding.difference.high,
            "seeds": finding.seeds,
            "verdict": finding.verdict,
        }
        for finding in results.findings
    ]
    return {
        **{"study": study.name, "claim": study.claim, "source": study.source, "reported": study.reported},
        **{"world": study.world, "verdict": results.verdict, "findings": findings, "arms": arms},
        **{"seeds": list(study.seeds), "steps": results.steps, "seconds": results.seconds},
        **{"failed": results.failed, "missing": results.missing, "commits": results.commits},
        **{"command": results.command, "date": f"{datetime.now(UTC):%Y-%m-%d}", "hardware": hardware()},
    }


def _values(by_seed: dict[int, Reading]) -> dict[str, float]:
    return {str(seed): reading.value for seed, reading in sorted(by_seed.items())}


def table(results: Results) -> list[list[str]]:
    """A row for each arm, a column for each score."""
    scores = [s for s in results.study.scores if any(s in own for own in results.readings.values())]
    rows = [["arm", *scores, "seeds"]]
    for arm, own in results.estimates.items():
        seeds = max(len(by_seed) for by_seed in results.readings[arm].values())
        rows.append([arm, *(str(own[score]) if score in own else "–" for score in scores), str(seeds)])
    return rows


def _finding_row(finding: Finding) -> list[str]:
    return [str(finding.expectation), str(finding.difference or "not measured"), finding.verdict]


def as_markdown(results: Results) -> str:
    study = results.study
    head, *rows = table(results)
    lines = [f"# {study.name}: {results.verdict or 'no verdict asked for'}", "", study.claim, ""]
    lines += [f"{study.source} {study.reported}".strip(), ""] if study.source or study.reported else []
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]
    lines += ["Mean over seeds ± half of the 95 % interval over seeds and items.", ""]
    lines += [f"![{study.name}]({FIGURE})", ""]
    lines += [f"- {finding}" for finding in results.findings] + [""] * bool(results.findings)
    for run, error in results.failed.items():
        lines += [f"Failed: {run}: {error}", ""]
    lines += [f"Not run: {', '.join(results.missing)}.", ""] if results.missing else []
    lines += [study.world, ""] if study.world else []
    commits = ", ".join(results.commits) or "unknown"
    lines += [f"Made on {datetime.now(UTC):%Y-%m-%d} by `{results.command}`, commit {commits}, {hardware()}."]
    return "\n".join(lines) + "\n"


def hardware() -> str:
    import torch

    if torch.cuda.is_available():
        return f"{torch.cuda.device_count()} × {torch.cuda.get_device_name()}"
    known = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", known.read_text()) if known.is_file() else None
    return f"{os.cpu_count()} cores, {model[1] if model else platform.processor() or platform.machine()}"
