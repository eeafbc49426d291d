"""study: the same model trained in several ways, over several seeds, and what the difference between them is."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from unifluid.cli.errors import Parser, count

if TYPE_CHECKING:
    from unifluid.studies.plan import Run
    from unifluid.studies.results import Results
    from unifluid.studies.study import Study

EXAMPLES = """
  unifluid study experiments/studies/order.yaml --dry-run
  unifluid study experiments/studies/order.yaml --jobs 2
  unifluid study experiments/studies/lambda.yaml --only lam=0.1 --only lam=1.0 --seeds 0 1 --steps 500
"""


def run(command: str, args: list[str]) -> None:
    options = make_parser(command).parse_args(args)

    from unifluid.report.page import templates
    from unifluid.studies.plan import plan_runs
    from unifluid.studies.runs import finished, run_all
    from unifluid.studies.study import checked_seeds, read_study

    templates()  # what the page needs is missed before the runs, not after them
    study, out = read_study(options.file, options.config), Path(options.out)
    if options.seeds is not None:
        try:
            study = replace(study, seeds=checked_seeds(options.seeds))
        except ValueError as error:
            raise ValueError(f"--{error}") from error
    if unknown := set(options.only) - set(study.arms):
        raise ValueError(f"--only {sorted(unknown)[0]}: there are {', '.join(study.arms)}")
    same = (options.steps, options.devices)
    everything, runs = plan_runs(study, out, (), *same), plan_runs(study, out, options.only, *same)
    if options.dry_run:
        return show_plan(study, runs, everything)
    link(study, runs, out)
    failed = [outcome for outcome in run_all(runs, options.jobs) if outcome.error]
    if not failed or any(finished(run) for run in everything if run.entry.name in study.arms):
        finish(study, everything, out / study.name, command_of(options))
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(runs)} runs failed, the first is {failed[0].run}: {failed[0].error}; "
            "the same command tries them again"
        )


def make_parser(command: str) -> Parser:
    about = "Train the arms of a study over several seeds, compare them, and say whether its claim holds here."
    parser = Parser(command, about)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"It goes on where it was interrupted: give the same command again.\n\nexamples:{EXAMPLES}"
    parser.add_argument("file", metavar="FILE", help="the study, in YAML (experiments/README.md shows how)")
    parser.add_argument("--only", action="append", default=[], metavar="ARM", help="this arm; may be repeated (all)")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="N", help="instead of the study's own")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="overlay below the arms' own configs, such as studies/gpu.yaml",
    )
    parser.add_argument("--steps", type=count, metavar="N", help="optimizer steps of every run, instead of its own")
    parser.add_argument("--devices", metavar="N", help="GPUs or CPU processes of every run, as trainer.devices")
    parser.add_argument("--jobs", type=count, default=1, metavar="N", help="runs at once, which share the cores (1)")
    parser.add_argument("--out", default="runs/studies", metavar="DIR", help="where runs and results go (runs/studies)")
    parser.add_argument("--dry-run", action="store_true", help="list the runs, their steps and the time they take")
    return parser


def command_of(options: argparse.Namespace) -> str:
    """What makes the same results again."""
    given = [f"--config {path}" for path in options.config]
    given += [f"--seeds {' '.join(map(str, options.seeds))}"] if options.seeds is not None else []
    given += [f"--steps {options.steps}"] if options.steps is not None else []
    given += [f"--devices {options.devices}"] if options.devices is not None else []
    return " ".join(["unifluid study", options.file, *given])


def show_plan(study: Study, runs: Sequence[Run], everything: Sequence[Run]) -> None:
    """Seconds are those of finished runs of the same arm here, or else of the results that come with the kit."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from unifluid.report.tables import duration
    from unifluid.studies.runs import finished

    done = {run.folder: outcome.seconds for run in everything if (outcome := finished(run))}
    known = committed_seconds(study, runs)
    for name in study.entries:
        if own := [done[run.folder] for run in everything if run.entry.name == name and run.folder in done]:
            known[name] = median(own)
    table = Table("run", "steps", "time", "folder", title=escape(f"{study.name}: {study.claim}"))
    left = 0.0
    for run in runs:
        seconds = known.get(run.entry.name)
        time = "done" if run.folder in done else "unknown" if seconds is None else f"about {duration(seconds)}"
        left += 0.0 if run.folder in done else seconds or 0.0
        table.add_row(str(run), "–" if run.steps is None else f"{run.steps:,}", time, str(run.folder))
    console = Console()
    console.print(table)
    unknown = sum(run.folder not in done and run.entry.name not in known for run in runs)
    more = f", and {unknown} runs of unknown time" if unknown else ""
    finished_runs = sum(run.folder in done for run in runs)
    console.print(f"{len(runs)} runs, {finished_runs} done; left: {duration(left)}, one at a time{more}")


def committed_seconds(study: Study, runs: Sequence[Run]) -> dict[str, float]:
    """Of entries that took as many steps there; none where the file is another's, or damaged."""
    path = study.path.parent.parent / "results" / study.name / "results.json"
    steps = {run.entry.name: run.steps for run in runs}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: float(found["seconds"][name]) for name, n in found["steps"].items() if n == steps.get(name, -1)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def link(study: Study, runs: Sequence[Run], out: Path) -> None:
    """OUT/STUDY/ARM/seedN leads to the run, whose own folder other studies share."""
    for run in runs:
        name = run.entry.name.replace(" ", "_")
        place = out / study.name / (name if run.entry.shared else f"{name}/seed{run.seed}")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.unlink(missing_ok=True)
        place.symlink_to(Path(*[".."] * (len(place.relative_to(out).parts) - 1), run.folder.relative_to(out)))


def finish(study: Study, runs: Sequence[Run], out: Path, command: str) -> None:
    from unifluid.studies.results import FIGURE, PAGE, RESULTS, TABLE, collect, write

    results = collect(study, runs, command)
    write(results, out)
    show(results)
    print(*(out / name for name in (RESULTS, TABLE, FIGURE, PAGE)), sep="\n")


def show(results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    from unifluid.studies.results import table

    head, *rows = table(results)
    shown = Table(*head, title=results.study.name)
    for row in rows:
        shown.add_row(*row)
    console = Console()
    console.print(shown)
    for finding in results.findings:
        console.print(str(finding), highlight=False, markup=False)
    if results.verdict:
        console.print(f"{results.study.claim} Here: {results.verdict}.", highlight=False, markup=False)
