"""Reading pictures: what comes out right, and what is refused for which reason."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules import images
from datamodules.images import BadImage, decode_image, read_image, to_image, to_tensor

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def save(path, image, **options):
    image.save(path, **options)
    return path


def corners():
    """40 x 20, red top left, green top right, blue elsewhere: no two orientations look alike."""
    image = Image.new("RGB", (40, 20), BLUE)
    image.paste(RED, (0, 0, 20, 10))
    image.paste(GREEN, (20, 0, 40, 10))
    return image


def as_tensor(image):
    return torch.tensor(np.asarray(image.convert("RGB"))).permute(2, 0, 1)


def reason(path):
    with pytest.raises(BadImage) as caught:
        read_image(path)
    assert caught.value.reason in images.REASONS
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["png", "gif", "webp", "jpg"])
def test_formats(tmp_path, suffix):
    options = {"lossless": True} if suffix == "webp" else {"quality": 100, "subsampling": 0} if suffix == "jpg" else {}
    read = read_image(save(tmp_path / f"x.{suffix}", corners(), **options))
    assert read.shape == (3, 20, 40)
    assert read.dtype == torch.uint8
    assert (read.int() - as_tensor(corners()).int()).abs().max() <= (30 if suffix == "jpg" else 0)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_truncated(tmp_path, suffix, keep):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    path = save(tmp_path / f"x.{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    assert reason(path) in ("corrupt image", "not an image")


@pytest.mark.parametrize("data", [b"", b"<html><body>404 not found</body></html>", b"\xff\xd8\xff"])
def test_no_image_at_all(tmp_path, data):
    (tmp_path / "x.jpg").write_bytes(data)
    assert reason(tmp_path / "x.jpg") == "not an image"


def test_missing_file_and_pipe(tmp_path):
    assert reason(tmp_path / "x.jpg") == "missing file"
    assert reason(tmp_path) == "missing file"
    os.mkfifo(tmp_path / "pipe.png")
    assert reason(tmp_path / "pipe.png") == "missing file"


@pytest.mark.parametrize("width", [9_000, 60_000])
def test_too_many_pixels_is_found_before_decoding(tmp_path, width):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, width, 8, 2, 0, 0, 0)
    header = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "x.png").write_bytes(
        header + struct.pack(">I", 0) + b"IDAT"
    )  # no pixels: decoding would fail otherwise
    assert reason(tmp_path / "x.png") == "too many pixels"


def test_shape_limits(tmp_path):
    assert reason(save(tmp_path / "dot.png", Image.new("RGB", (1, 1)))) == "too small"
    assert reason(save(tmp_path / "line.png", Image.new("RGB", (201, 10)))) == "too elongated"
    assert reason(save(tmp_path / "pole.png", Image.new("RGB", (1, 21)))) == "too elongated"
    assert read_image(save(tmp_path / "fits.png", Image.new("RGB", (200, 10)))).shape == (3, 10, 200)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_upright(tmp_path, orientation, suffix):
    upright = np.asarray(corners())
    stored = {  # by the EXIF specification: where row 0 and column 0 of the stored pixels belong in the upright picture
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / f"x.{suffix}", Image.fromarray(np.ascontiguousarray(stored)), exif=exif, quality=95)
    read = read_image(path)
    assert read.shape == (3, 20, 40)
    assert (read.float() - as_tensor(corners()).float()).abs().mean() < 15


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage", b"Exif\0\0II*\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x01"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_broken_exif_is_ignored(tmp_path, exif, suffix):
    assert read_image(save(tmp_path / f"x.{suffix}", corners(), exif=exif)).shape == (3, 20, 40)


def test_nonsense_orientation_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 99
    assert read_image(save(tmp_path / "x.jpg", corners(), exif=exif)).shape == (3, 20, 40)


def test_cmyk(tmp_path):
    path = save(tmp_path / "x.jpg", Image.new("CMYK", (8, 8), (0, 255, 255, 0)), quality=100)
    assert (read_image(path)[:, 0, 0].int() - torch.tensor(RED)).abs().max() <= 3


def test_16_bit_keeps_its_range(tmp_path):
    ramp = np.linspace(0, 65535, 16 * 16).reshape(16, 16).astype(np.uint16)
    read = read_image(save(tmp_path / "x.png", Image.fromarray(ramp)))
    assert torch.equal(read[0], read[2])
    assert read[0, 0, 0] == 0
    assert read[0, -1, -1] == 255
    assert np.abs(read[0].numpy() - ramp / 257).max() <= 0.5


@pytest.mark.parametrize("mode", ["L", "1", "P"])
def test_gray_bilevel_palette(tmp_path, mode):
    image = Image.new("L", (8, 8), 0)
    image.paste(255, (4, 0, 8, 8))
    read = read_image(save(tmp_path / "x.png", image.convert(mode)))
    assert read[:, 0, 0].tolist() == [0, 0, 0]
    assert read[:, 0, 7].tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("suffix", "mode", "colour"),
    [
        ("png", "RGBA", (0, 0, 0, 0)),
        ("png", "LA", (0, 0)),
        ("webp", "RGBA", (0, 0, 0, 0)),
        ("gif", "RGBA", (0, 0, 0, 0)),
    ],
)
def test_transparency_is_laid_on_white(tmp_path, suffix, mode, colour):
    read = read_image(save(tmp_path / f"x.{suffix}", Image.new(mode, (8, 8), colour)))
    assert read.unique().tolist() == [255]


def test_half_transparency_and_transparent_palette(tmp_path):
    read = read_image(save(tmp_path / "x.png", Image.new("RGBA", (4, 4), (255, 0, 0, 128))))
    assert (read[:, 0, 0].int() - torch.tensor([255, 127, 127])).abs().max() <= 1
    palette = Image.new("P", (4, 4), 3)
    palette.putpalette([0, 0, 0] * 4)
    assert read_image(save(tmp_path / "p.png", palette, transparency=3)).unique().tolist() == [255]


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_first_frame_of_an_animation(tmp_path, suffix):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = save(tmp_path / f"x.{suffix}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert read_image(path)[:, 0, 0].tolist() == list(RED)


def test_pictures_become_images_again():
    assert to_image(to_tensor(corners())).tobytes() == corners().tobytes()


def test_other_formats_in_disguise(tmp_path):
    """Pillow could read these; the allowlist keeps their decoders away from untrusted data."""
    svg = b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>'
    files = {"SVG": svg, "PSD": b"8BPS\0\1" + bytes(100)}
    for kind in ("EPS", "TIFF", "BMP", "PPM", "ICO", "AVIF"):
        buffer = io.BytesIO()
        corners().save(buffer, kind)
        files[kind] = buffer.getvalue()
    for kind, data in files.items():
        (tmp_path / "x.png").write_bytes(data)
        for read in (lambda: read_image(tmp_path / "x.png"), lambda data=data: decode_image(data, "x.png")):
            with pytest.raises(BadImage, match=f"x.png is {kind}.*: convert it to one of JPEG") as caught:
                read()
            assert caught.value.reason == "unsupported format"
