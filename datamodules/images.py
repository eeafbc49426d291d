"""Reading untrusted pictures: an allowlist of formats, limits before decoding, one RGB result; and back to PIL.

>>> read_image("cat.jpg").shape
torch.Size([3, 480, 640])
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.Image import Transpose
from torch import Tensor

from datamodules.formats.rows import BadRow

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")  # an allowlist: the decoders of EPS, PSD, … never see the file
MAX_PIXELS = 64_000_000
MAX_RATIO = 20  # long side : short side
REASONS = (
    *("missing file", "not an image", "unsupported format"),
    *("corrupt image", "too many pixels", "too small", "too elongated"),
)
OTHERS = {  # how files of formats outside the allowlist begin, so that a message can name them
    "BMP": rb"BM",
    "TIFF": rb"II\*\0|MM\0\*",
    "AVIF or HEIC": rb"....ftyp(avif|avis|heic|heix|mif1)",
    "JPEG XL": rb"\xff\x0a|\0\0\0\x0cJXL ",
    "JPEG 2000": rb"\0\0\0\x0cjP  ",
    "PSD": rb"8BPS",
    "EPS": rb"%!PS",
    "PDF": rb"%PDF",
    "ICO": rb"\x00\x00\x01\x00",
    "PPM": rb"P[1-6]\s",
    "SVG": rb"\s*(<\?xml[^>]*>\s*)?<svg",
}

ORIENTATION_TAG = 0x0112
UPRIGHT = {  # EXIF orientation -> what makes the picture upright
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


class BadImage(BadRow):
    """A picture that cannot be used. `reason` is one of `REASONS`."""


def read_image(path: str | Path) -> Tensor:
    """The picture in `path` as uint8 (3, H, W), RGB, upright by its EXIF tag, the first frame of an animation.

    CMYK, palette, gray and 16-bit pictures become 8-bit RGB; transparency is laid on white. Raises BadImage.
    """
    path = Path(path)
    if not path.is_file():  # also refuses pipes and devices, which could block for ever
        raise BadImage("missing file", str(path))
    return _decode(path, str(path))


def decode_image(data: bytes, name: str) -> Tensor:
    """The same for a picture in memory, called `name` in messages."""
    return _decode(io.BytesIO(data), name)


def _decode(file: Path | io.BytesIO, name: str) -> Tensor:
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_size(image, name)
            image.load()
            return to_tensor(image)
    except BadImage:
        raise
    except Image.UnidentifiedImageError as error:
        raise _other(file, name) from error
    except Image.DecompressionBombError as error:
        raise BadImage("too many pixels", f"{name}: {error}") from error
    except Exception as error:  # decoders raise nearly anything on broken data: OSError, SyntaxError, struct.error, …
        raise BadImage("corrupt image", f"{name}: {error}") from error


def _other(file: Path | io.BytesIO, name: str) -> BadImage:
    """What to say of a file that is in none of `FORMATS`."""
    with io.BytesIO(file.getvalue()) if isinstance(file, io.BytesIO) else file.open("rb") as opened:
        head = opened.read(200)
    kind = next((kind for kind, pattern in OTHERS.items() if re.match(pattern, head, re.DOTALL)), None)
    if kind is None:
        return BadImage("not an image", f"{name} is none of {', '.join(FORMATS)}")
    return BadImage("unsupported format", f"{name} is {kind}: convert it to one of {', '.join(FORMATS)}")


def to_tensor(image: Image.Image) -> Tensor:
    """A picture already opened as uint8 (3, H, W), RGB, upright, transparency on white."""
    rgb = _to_rgb(_upright(image))
    return torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous()


def to_image(picture: Tensor) -> Image.Image:
    """uint8 (3, H, W), on any device, as a PIL image; undoes `to_tensor`."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())


def _check_size(image: Image.Image, name: str) -> None:
    """Limits on what the header says, before a pixel is decoded."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise BadImage("too many pixels", f"{name} is {width}x{height}, the limit is {MAX_PIXELS / 1e6:.0f} Mpx")
    if width * height < 2:
        raise BadImage("too small", f"{name} is {width}x{height}")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise BadImage("too elongated", f"{name} is {width}x{height}, the limit is {MAX_RATIO}:1")


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - a broken tag says nothing about the pixels, which have been decoded already
        return image
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: `convert` would clip at 255 instead of scaling
        image = Image.fromarray((np.asarray(image, dtype=np.float32) / 257).round().clip(0, 255).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image).convert("RGB")
