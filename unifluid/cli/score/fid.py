"""score fid: a folder of images beside real ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unifluid.cli.errors import Parser, count
from unifluid.cli.score.results import check_writable, keep

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from unifluid.evaluation.statistics import Statistics
    from unifluid.interfaces import FeatureExtractor

DEFAULT = "unifluid.evaluation.inception.Inception"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


def run(args: list[str]) -> None:
    parser = _parser()
    options, rest = parser.parse_known_args(args)
    check_writable(options.out)
    images, real = _files(options.images), Path(options.reference)
    references = None if real.is_file() else _files(options.reference)
    features = _features(rest)
    features.load()

    from unifluid.evaluation.distributions import image_scores
    from unifluid.evaluation.inception import Inception
    from unifluid.evaluation.statistics import Statistics, read_statistics
    from unifluid.pipeline import choose_device

    device = choose_device(options.device)
    if options.inception_score and not isinstance(features, Inception):
        raise ValueError("--inception-score needs the features of Inception")
    size = _size_of(images)
    statistics = read_statistics(real) if references is None else None
    if statistics is not None:
        statistics.check(real, features.about() | {"size": size})
    compared = options.kid or options.precision_recall
    if compared and statistics is not None and statistics.features is None:
        raise ValueError(f"{real}: holds no features, which --kid and --precision-recall need: give a folder of images")
    drawn, logits = extract(features, images, None, options.batch_size, device, options.inception_score, "images")
    if statistics is None:
        found, _ = extract(features, references, size, options.batch_size, device, False, "reference")
        statistics = Statistics.of(found, _about(features, options.reference, len(references), size), keep=compared)
        if options.keep_statistics:
            statistics.write(options.keep_statistics)
    scores = image_scores(drawn, statistics, features.distance, options.kid, options.precision_recall, logits)
    _report(options, features, scores, statistics)


def _parser() -> Parser:
    parser = Parser("score fid", "Score a folder of images, whoever made them, beside real ones.")
    parser.add_argument("--images", required=True, metavar="DIR", help="the images to score")
    parser.add_argument(
        "--reference",
        required=True,
        metavar="PATH",
        help="a folder of real images (centre-cropped and resized to the size of the others), or .npz with mu, sigma",
    )
    parser.add_argument("--keep-statistics", metavar="FILE", help="keep the real images' statistics as .npz")
    parser.add_argument("--kid", action="store_true", help="kernel Inception distance as well")
    parser.add_argument("--precision-recall", action="store_true", help="improved precision and recall as well")
    parser.add_argument("--inception-score", action="store_true", help="Inception score as well")
    parser.add_argument("--batch-size", type=count, default=32, help="images at once")
    parser.add_argument("--device", help="default: the GPU where there is one")
    parser.add_argument("--out", metavar="FILE", help="write the scores as JSON")
    parser.epilog = (
        f"--features CLASS and --features.ARGUMENT name other features (default: {DEFAULT}; its weights: "
        "--features.weights FILE)"
    )
    return parser


def _features(args: list[str]) -> FeatureExtractor:
    from unifluid.cli.parts import instantiate, parse
    from unifluid.cli.trainer import prepare
    from unifluid.interfaces import FeatureExtractor

    named = any(arg == "--features" or arg.startswith("--features=") for arg in args)
    args = args if named else [f"--features={DEFAULT}", *args]
    return instantiate(FeatureExtractor, "features", parse(FeatureExtractor, "features", prepare(args)))


def _files(folder: str) -> list[Path]:
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder of images")
    found = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES)
    if len(found) < 2:
        raise ValueError(f"{folder}: {len(found)} images ({', '.join(SUFFIXES)}), a distance needs at least 2")
    return found


def _size_of(files: Sequence[Path]) -> int:
    """Pixels of a side of the images, which must be square and of one size: read from their heads, before the work."""
    from PIL import Image

    from datamodules.images import FORMATS

    sizes: dict[tuple[int, int], Path] = {}
    for path in files:
        try:
            with Image.open(path, formats=FORMATS) as image:
                sizes.setdefault(image.size, path)
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: no image that can be read ({error})") from error
    (width, height), first = next(iter(sizes.items()))
    if width != height:
        raise ValueError(f"{first} is {width}x{height}: images to score must be square, all of one size")
    for (w, h), path in list(sizes.items())[1:]:
        raise ValueError(f"{path} is {w}x{h}, others are {width}x{height}: they must be of one size")
    return height


def extract(
    features: FeatureExtractor,
    files: Sequence[Path],
    size: int | None,
    batch_size: int,
    device: torch.device,
    with_logits: bool,
    title: str,
) -> tuple[Tensor, Tensor | None]:
    """Features (n, F) of the images, cropped and resized to `size` if that is given, and logits if asked for."""
    import torch
    from tqdm import tqdm

    made: list[tuple[Tensor, ...]] = []
    with tqdm(total=len(files), desc=title, unit="image") as bar:
        for start in range(0, len(files), batch_size):
            images = _read(files[start : start + batch_size], size)
            made.append(
                features.extract_with_logits(images, device) if with_logits else (features.extract(images, device),)
            )
            bar.update(len(images))
    parts = [torch.cat(part) for part in zip(*made, strict=True)]
    return parts[0], parts[1] if with_logits else None


def _read(files: Sequence[Path], size: int | None) -> list[Tensor]:
    from datamodules.images import read_image
    from unifluid.sequence import centre_square

    images = [read_image(path) for path in files]
    return images if size is None else [centre_square(image, size) for image in images]


def _about(features: FeatureExtractor, source: str, n: int, size: int) -> dict[str, Any]:
    return {**features.about(), "data": source, "n": n, "size": size, "resize": "centre square, bilinear, antialiased"}


def _report(options: Any, features: FeatureExtractor, scores: dict[str, Any], statistics: Statistics) -> None:
    for name, score in scores.items():
        print(f"{name:24} {score.value:.4f}  ({score.n:,} images)")
    if options.out:
        record = {name: score.value for name, score in scores.items()} | {f"n/{n}": s.n for n, s in scores.items()}
        record |= {**features.about(), "images": options.images, "reference": options.reference}
        record |= {"reference_n": statistics.normal.n}
        keep(options.out, record)
