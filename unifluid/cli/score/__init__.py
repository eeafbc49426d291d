"""score: what is in files – pictures, captions, answers, runs – judged as in training, whoever made it."""

from __future__ import annotations

from importlib import import_module

from unifluid.nearest import did_you_mean

KINDS = {
    "fid": "Fréchet distance, KID, precision and recall, Inception score of a folder of pictures",
    "geneval": "pictures in GenEval's folder layout",
    "captions": "captions in COCO's format of results: CIDEr, BLEU, ROUGE-L, METEOR",
    "answers": "answers to questions, by the metric of their task",
    "average": "the paper's averages over captioning and question-answering tasks, from several runs",
}


def run(command: str, args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        print("usage: unifluid score KIND [options]\n\nkinds:")
        print("\n".join(f"  {kind:10} {text}" for kind, text in KINDS.items()))
        return
    kind, *rest = args
    if kind not in KINDS:
        raise ValueError(f"no score {kind!r}, there are: {', '.join(KINDS)}{did_you_mean(kind, KINDS)}")
    import_module(f"unifluid.cli.score.{kind}").run(rest)
