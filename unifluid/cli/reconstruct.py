"""reconstruct: what an image tokenizer keeps of pictures, before a model is trained on its tokens."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifluid.cli.errors import Parser, count

if TYPE_CHECKING:
    from torch import Tensor

    from unifluid.interfaces import ImageTokenizer

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif")
EXAMPLES = """
  unifluid reconstruct --tokenizer unifluid.tokenizers.AutoencoderKL --tokenizer.weights models/sd-vae \\
      --image pictures/*.jpg --out out
  unifluid reconstruct --config experiments/demo.yaml --image pictures
  unifluid reconstruct --ckpt runs/demo/last.ckpt --image pictures
"""


def run(command: str, args: list[str]) -> None:
    options, rest = make_parser(command).parse_known_args(args)
    if not 0 <= options.noise < float("inf"):
        raise ValueError(f"--noise is the size of errors, at least 0, got {options.noise}")
    if rest and options.ckpt:
        raise ValueError(f"{rest[0]} is not for a checkpoint: it holds all settings of its tokenizer")
    files = collect(options.image)
    if options.out is not None:
        Path(options.out).mkdir(parents=True, exist_ok=True)  # an unwritable folder should not cost the work

    from unifluid.pipeline import to_device

    reconstruct(to_device(load(options, rest).eval(), options.device), files, options)


def make_parser(command: str) -> Parser:
    parser = Parser(
        command,
        "Encode pictures with an image tokenizer, decode them, and report the PSNR of each: at the tokenizer's size, "
        "to which they are resized, in fp32.",
    )
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f"examples:{EXAMPLES}"
    which = parser.add_argument_group("which image tokenizer").add_mutually_exclusive_group(required=True)
    which.add_argument("--ckpt", metavar="PATH", help="that of a checkpoint or an exported folder")
    which.add_argument(
        "--config",
        action="append",
        default=[],
        metavar="FILE",
        help="that of a run's YAML, with the weights it names; several overlay each other, and flags of fit apply",
    )
    which.add_argument(
        "--tokenizer", metavar="CLASS", help="a class; its arguments as --tokenizer.weights DIR, --tokenizer.patch 2, …"
    )
    parser.add_argument(
        "--image", nargs="+", action="extend", required=True, metavar="FILE", help="pictures, or folders"
    )
    parser.add_argument("--out", metavar="DIR", help="writes the pictures beside their reconstructions, results.jsonl")
    parser.add_argument("--sample", action="store_true", help="draw the latents instead of taking their mode")
    parser.add_argument(
        "--noise", type=float, default=0.0, help="size of errors added to the tokens, as a model would make them (0)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of every draw (0)")
    parser.add_argument("--batch-size", type=count, default=8, help="at once; changes no result (8)")
    parser.add_argument("--weights", choices=("ema", "raw"), help="of a checkpoint; default: ema where there is one")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, … (default: the GPU where there is one)")
    parser.add_argument(
        "--allow-module", action="append", default=[], metavar="NAME", help="trust this package's classes"
    )
    return parser


def collect(names: list[str]) -> list[Path]:
    """The pictures that --image names; of folders all pictures directly in them."""
    files: list[Path] = []
    for path in map(Path, names):
        if not path.exists():
            raise ValueError(f"--image: {path} does not exist")
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not inside:
            raise ValueError(f"--image: {path} holds no pictures ({', '.join(SUFFIXES)})")
        files += inside
    return files


# -- the tokenizer --------------------------------------------------------------------------------------------------


def load(options: argparse.Namespace, rest: list[str]) -> ImageTokenizer:
    """The tokenizer that the flags name, with its weights."""
    if options.ckpt:
        return from_checkpoint(options.ckpt, options.weights, options.allow_module)
    from unifluid.cli.parts import image_tokenizer, instantiate, parse
    from unifluid.cli.trainer import prepare, settings
    from unifluid.interfaces import ImageTokenizer

    trust = [f"--allow-module={name}" for name in options.allow_module]
    if not options.tokenizer:
        return image_tokenizer(settings([*trust, *(f"--config={file}" for file in options.config), *rest])["model"])
    prepare(trust)
    config = parse(ImageTokenizer, "tokenizer", [f"--tokenizer={options.tokenizer}", *rest])
    tokenizer = instantiate(ImageTokenizer, "tokenizer", config)
    tokenizer.load_pretrained()
    return tokenizer


def from_checkpoint(path: str, weights: Any, trusted: list[str]) -> ImageTokenizer:
    """That of a stored model, which need not be built for it."""
    from unifluid.checkpoints import read
    from unifluid.cli.parts import place_of, weights_at
    from unifluid.configs import ALLOWED, build
    from unifluid.weights import fit

    stored = read(path, weights)
    place = place_of(stored.config, path)
    tokenizer = build(stored.config["init_args"][place], (*ALLOWED, *trusted))
    fit(tokenizer, weights_at(place, stored.tensors), path)
    return tokenizer


# -- the work -------------------------------------------------------------------------------------------------------


def reconstruct(tokenizer: ImageTokenizer, files: list[Path], options: argparse.Namespace) -> None:
    """Report the PSNR of every file, their mean, and the size of the tokens, which a model wants near 1."""
    import torch

    records, tokens = [], []
    for start, images in batches(files, tokenizer.image_size, options.batch_size):
        indices = list(range(start, start + len(images)))
        with torch.inference_mode():
            found, decoded, psnr = pass_through(tokenizer, images, indices, options)
        tokens.append(found)
        for index, image, again, value in zip(indices, images, decoded, psnr.tolist(), strict=True):
            records.append({"image": str(files[index]), "psnr": round(value, 3)})
            if options.out is not None:
                records[-1] |= {"file": f"{index:05d}.png"}
                save_pair(image, again, Path(options.out) / f"{index:05d}.png")
    for record in records:
        print(f"{record['image']}: {record['psnr']:.2f} dB")
    every = torch.cat(tokens)
    mean, side = sum(record["psnr"] for record in records) / len(records), tokenizer.image_size
    print(
        f"mean {mean:.2f} dB over {len(records)} pictures of {side}×{side} px in {tokenizer.num_tokens} tokens of "
        f"{tokenizer.token_dim}; token mean {every.mean():.3f}, std {every.std():.3f}"
    )
    if options.out is not None:
        lines = [json.dumps(record, ensure_ascii=False) for record in records]
        (Path(options.out) / "results.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"the pictures, each beside its reconstruction, and results.jsonl are in {options.out}")


def batches(files: list[Path], size: int, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """(number of the first, pictures (B, 3, H, W) in [-1, 1]) under a progress bar."""
    import torch
    from tqdm import tqdm

    from datamodules.images import read_image
    from unifluid.sequence import to_unit

    with tqdm(total=len(files), desc="reconstruct", unit="picture") as bar:
        for start in range(0, len(files), batch_size):
            part = files[start : start + batch_size]
            yield start, torch.stack([to_unit(read_image(file), size) for file in part])
            bar.update(len(part))


def pass_through(
    tokenizer: ImageTokenizer, images: Tensor, indices: list[int], options: argparse.Namespace
) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures (B, 3, H, W) -> tokens (B, N, d), reconstructions, PSNR in dB (B,), all on the CPU."""
    from unifluid import randomness
    from unifluid.modules.autoencoder import psnr

    device = next((p.device for p in tokenizer.parameters()), images.device)
    shape = tokenizer.num_tokens, tokenizer.token_dim
    noise = randomness.normal(options.seed, indices, "latent", *shape, device=device) if options.sample else None
    tokens = tokenizer.tokens(tokenizer.encode(images.to(device)), noise)
    errors = options.noise * randomness.normal(options.seed, indices, "error", *shape, device=device)
    decoded = tokenizer.decode(tokens + errors).cpu()
    return tokens.cpu(), decoded, psnr((decoded - images).square().mean((1, 2, 3)))


def save_pair(image: Tensor, again: Tensor, path: Path) -> None:
    """The picture and its reconstruction, side by side."""
    import torch

    from datamodules.images import to_image
    from unifluid.sequence import to_uint8

    to_image(to_uint8(torch.cat([image, again], dim=-1))).save(path)
