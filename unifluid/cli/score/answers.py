"""score answers: a file of answers beside the rows they belong to, by the metric of their task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unifluid.cli.errors import Parser


def run(args: list[str]) -> None:
    parser = Parser("score answers", "Score answers by the metric of their task (unifluid.evaluation.questions).")
    parser.add_argument("--references", required=True, metavar="FILE", help="rows as `data convert` writes: val.jsonl")
    parser.add_argument("--results", required=True, metavar="FILE", help='[{"question_id": …, "answer": …}, …]')
    parser.add_argument("--types", help="field of meta by which scores are given too, with their mean")
    parser.add_argument("--out", metavar="FILE", help="write the scores as JSON")
    parser.epilog = "--metric CLASS names the metric, --metric.ARGUMENT its settings"
    options, rest = parser.parse_known_args(args)

    from unifluid.cli.parts import instantiate, parse
    from unifluid.cli.score.results import check_ids, check_writable, read_results, report
    from unifluid.cli.trainer import prepare
    from unifluid.evaluation.questions import AnswerMetric, answer_scores

    check_writable(options.out)
    metric = instantiate(AnswerMetric, "metric", parse(AnswerMetric, "metric", prepare(rest)))
    rows = _rows(options.references)
    answers = read_results(options.results, "question_id", "answer")
    check_ids(answers, rows, options.results, "question_id")
    for number, row in rows.items() if options.types else ():
        if options.types not in row["meta"]:
            raise ValueError(f"{options.references}: question_id {number} has no {options.types!r} in its meta")
    types = [str(row["meta"][options.types]) for row in rows.values()] if options.types else None
    scores = answer_scores([metric(answers[number], row["answers"]) for number, row in rows.items()], types)
    about = {"references": options.references, "results": options.results, "metric": type(metric).__name__}
    report(scores, len(rows), about, options.out)


def _rows(path: str) -> dict[str, dict[str, Any]]:
    """Rows of task answer by question id. Raises ValueError naming file and line."""
    from datamodules.formats.jsonl import parse
    from datamodules.formats.rows import BadRow

    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file of rows")
    found: dict[str, dict[str, Any]] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse(line, "answer", str(number)) if line.strip() else None
            except BadRow as error:
                raise ValueError(f"{path}:{number}: {error}") from error
            if row is not None:
                key = str(row["meta"].get("question_id", row["id"]))
                if key in found:
                    raise ValueError(f"{path}:{number}: question_id {key} comes twice")
                if row["meta"].get("unanswered"):
                    raise ValueError(f"{path}:{number}: only a server knows its answers, nothing to score")
                found[key] = row
    if not found:
        raise ValueError(f"{path}: no row of task answer")
    return found
