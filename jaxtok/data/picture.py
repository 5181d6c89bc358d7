"""Image files to arrays and back: every reader of still images in the package goes through here."""

import io
import os
import struct
from typing import Any

import numpy as np
from etils import epath

from jaxtok.files import write_whole

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MODES = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr")  # 8 bits per channel
FILTERS = ("area", "bilinear", "bicubic", "lanczos", "nearest")
_MAGIC = {
    b"OggS": "it is an Ogg sound",
    b"fLaC": "it is a FLAC sound",
    b"PK\x03\x04": "it is a ZIP archive",
    b"%PDF": "it is a PDF",
    b"\x89PNG": "a damaged PNG",
    b"\xff\xd8\xff": "a damaged JPEG",
    b"RIFF": "a damaged WebP, or a WAV sound",
}


def decode(data: bytes, name: str) -> np.ndarray:
    """Decodes the bytes of a still image (PNG, JPEG, WebP ...), turned upright by its EXIF tag, to RGB on white.

    Args:
      data: the whole file.
      name: how errors call it.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: in one sentence, when the data are no image, damaged, animated, of no size, or of a mode with more
        than 8 bits per channel.
    """
    from PIL import Image, ImageOps

    if not data:
        raise ValueError(f"{name}: the file is empty, expected an image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            frames, mode, (width, height) = getattr(image, "n_frames", 1), image.mode, image.size
            if image.format == "MPO":  # a camera's JPEG with further views in it; the first is the photograph
                frames = 1
            if frames == 1 and mode in MODES and width and height:
                return np.array(_on_white(ImageOps.exif_transpose(image)))
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{name}: not readable as an image ({_kind(data)}), expected PNG, JPEG or WebP") from error
    if frames != 1:
        raise ValueError(f"{name}: is animated or has pages ({frames} of them), expected a still image")
    if mode not in MODES:
        raise ValueError(f"{name}: has mode {mode}, expected 8 bits per channel, such as L, RGB or RGBA")
    raise ValueError(f"{name}: is {width}x{height} pixels, expected at least 1x1")


def _on_white(image: Any) -> Any:
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _kind(data: bytes) -> str:
    """Names what the bytes look like, for an error message."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    return f"it begins with {data[:4]!r}"


def read(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an image file, local or remote (``gs://``), to RGB on white.

    Returns:
      uint8 [H, W, 3].

    Raises:
      ValueError: in one sentence naming the file, when it is missing, a folder, or ``decode`` refuses it.
    """
    file = epath.Path(path)
    if not file.exists():
        raise ValueError(f"{os.fspath(path)}: no such file, expected an image")
    if file.is_dir():
        raise ValueError(f"{os.fspath(path)}: is a folder, expected an image")
    return decode(file.read_bytes(), os.fspath(path))


def resize(
    pixels: np.ndarray, size: int, *, box: tuple[float, float, float, float] | None = None, filter: str = "area"
) -> np.ndarray:
    """Resizes an image, or a part of it, to a square; every filter but ``nearest`` is antialiased (as Pillow's).

    Args:
      pixels: uint8 [H, W, 3].
      size: of the result, in pixels.
      box: left, upper, right, lower in pixels, fractions allowed; None takes the largest square in the middle.
      filter: one of ``FILTERS``; ``area`` averages what a pixel covers, and is bicubic where the image is enlarged.

    Returns:
      uint8 [size, size, 3].
    """
    from PIL import Image

    height, width = pixels.shape[:2]
    if box is None:
        side = min(height, width)
        left, upper = (width - side) // 2, (height - side) // 2
        box = (left, upper, left + side, upper + side)
    if box == (0, 0, size, size) == (0, 0, width, height):
        return pixels
    enlarged = box[2] - box[0] < size or box[3] - box[1] < size
    named = {"area": "BICUBIC" if enlarged else "BOX"}.get(filter, filter.upper())
    image = Image.frombytes("RGB", (width, height), np.ascontiguousarray(pixels).tobytes())
    small = image.resize((size, size), Image.Resampling[named], box=box)
    return np.frombuffer(small.tobytes(), np.uint8).reshape(size, size, 3)


def to_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] to float32 in [-1, 1]: 0 is -1 and 255 is 1, exactly."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_uint8(image: Any) -> np.ndarray:
    """Floats in [-1, 1] to uint8, rounded; what is outside is clipped."""
    return np.rint((np.clip(np.asarray(image, np.float32), -1, 1) + 1) * np.float32(127.5)).astype(np.uint8)


def png(pixels: np.ndarray) -> bytes:
    """uint8 [H, W], [H, W, 1] or [H, W, 3] as a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    flat = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels
    Image.fromarray(np.ascontiguousarray(flat)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: str | os.PathLike[str], image: Any) -> None:
    """Writes [H, W, 3] or [H, W, 1], floats in [-1, 1] or uint8, as a PNG; never leaves half a file.

    Raises:
      ValueError: for another shape, or values that are not finite.
    """
    pixels: np.ndarray = np.asarray(image)
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or pixels.size == 0:
        raise ValueError(f"{os.fspath(path)}: found an image of shape {pixels.shape} to write, expected [H, W, 3]")
    if pixels.dtype != np.uint8:
        if not np.isfinite(np.asarray(pixels, np.float32)).all():
            raise ValueError(f"{os.fspath(path)}: found NaN or Inf in the image to write, expected finite values")
        pixels = to_uint8(pixels)
    write_whole(path, png(pixels))
