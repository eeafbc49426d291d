"""export: a checkpoint as a folder of safetensors, config and tokenizer."""

from __future__ import annotations

from unifluid.cli.errors import Parser


def run(command: str, args: list[str]) -> None:
    parser = Parser(command, "Write one set of weights as model.safetensors, with config.json and the tokenizer.")
    parser.add_argument("--ckpt", required=True, metavar="PATH", help="a checkpoint, a run's folder or an exported one")
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--weights", choices=("ema", "raw"), help="default: ema where there is one")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="in the file (as they are)")
    options = parser.parse_args(args)

    import torch

    from unifluid.checkpoints import export

    dtype = None if options.dtype is None else getattr(torch, options.dtype)
    stored = export(options.ckpt, options.out, options.weights, dtype)
    count = sum(tensor.numel() for tensor in stored.tensors.values())
    print(f"{count:,} numbers in {len(stored.tensors)} tensors ({stored.weights} weights) are in {options.out}")
