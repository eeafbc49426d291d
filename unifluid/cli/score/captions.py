"""score captions: a file of results in COCO's format, by CIDEr and the other scores of captions."""

from __future__ import annotations

from unifluid.cli.errors import Parser

TOKENIZERS = {"java": "JavaPTB", "python": "PythonPTB"}


def run(args: list[str]) -> None:
    parser = Parser("score captions", "Score captions in COCO's format of results.")
    parser.add_argument("--references", required=True, metavar="FILE", help="COCO's annotations, or Karpathy's file")
    parser.add_argument("--results", required=True, metavar="FILE", help='[{"image_id": …, "caption": …}, …]')
    parser.add_argument("--split", help="of Karpathy's file: val, test, train+restval, …")
    parser.add_argument("--metrics", nargs="+", default=["cider", "bleu", "rouge_l"], help="also: meteor")
    parser.add_argument("--tokenizer", choices=tuple(TOKENIZERS), default="java", help="Stanford's, or its rules here")
    parser.add_argument("--out", metavar="FILE", help="write the scores as JSON")
    options = parser.parse_args(args)

    from datamodules.formats.coco import read_coco
    from unifluid.cli.score.results import check_ids, check_writable, read_results, report
    from unifluid.evaluation import ptb
    from unifluid.evaluation.captions import caption_scores, check_metrics

    check_writable(options.out)
    check_metrics(options.metrics)
    tokenizer = getattr(ptb, TOKENIZERS[options.tokenizer])()
    tokenizer.load()
    pictures = read_coco(options.references, options.split)
    references = {str(picture.id): [str(caption) for caption in picture.captions] for picture in pictures}
    captions = read_results(options.results, "image_id", "caption")
    check_ids(captions, references, options.results, "image_id")
    scores = caption_scores(captions, references, tokenizer, options.metrics)
    about = {"references": options.references, "results": options.results, "tokenizer": tokenizer.name}
    report(scores, len(references), about, options.out)
