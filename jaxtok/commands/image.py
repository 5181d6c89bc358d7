"""What ``jaxtok reconstruct``, ``encode`` and ``decode`` do with a model of images."""

from collections.abc import Sequence

import numpy as np
from etils import epath
from safetensors.numpy import save

from jaxtok.commands import token_file
from jaxtok.commands.options import Options
from jaxtok.data import picture
from jaxtok.files import write_whole
from jaxtok.models.image import ImageModel


def reconstruct(model: ImageModel, paths: Sequence[str], output: epath.Path, options: Options) -> None:
    """Image files to tokens and back; writes NAME.png."""
    _refuse(options)
    for path in paths:
        image = _image(model, path)
        tokens = model.encode(image)
        target = output / f"{epath.Path(path).stem}.png"
        picture.write_png(target, model.decode(tokens))
        height, width = image.shape[:2]
        count = (height // model.factor) * (width // model.factor)
        size = "" if tokens.codes is None else f", {model.bits(height, width):.4g} bits"
        print(f"{path} -> {target}: {width} x {height} pixels, {count} tokens{size}")


def encode(model: ImageModel, paths: Sequence[str], output: epath.Path) -> None:
    """Image files to NAME.safetensors with ``codes`` int32 [h, w, Q]."""
    for path in paths:
        tokens = model.encode(_image(model, path))
        if tokens.codes is None:
            raise ValueError("encode: this model's tokens are continuous, expected a model with codes")
        target = output / f"{epath.Path(path).stem}.safetensors"
        codes = np.ascontiguousarray(np.asarray(tokens.codes[0]))
        write_whole(target, save({"codes": codes}))
        print(f"{path} -> {target}: {codes.shape[0] * codes.shape[1]} tokens")


def decode(model: ImageModel, paths: Sequence[str], output: epath.Path, options: Options) -> None:
    """What ``encode`` wrote to NAME.png."""
    _refuse(options)
    for path in paths:
        arrays = token_file.read(path, ("codes",))
        try:
            tokens = model.tokens(arrays["codes"])
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        target = output / f"{epath.Path(path).stem}.png"
        picture.write_png(target, model.decode(tokens))
        print(f"{path} -> {target}")


def _refuse(options: Options) -> None:
    if options["prompt"] or options["prompt_text"]:
        raise ValueError("--prompt: given for a model of images, which takes none")


def _image(model: ImageModel, path: str) -> np.ndarray:
    """The file's pixels, uint8 [H, W, C], cut about the middle to multiples of the model's factor.

    Raises:
      ValueError: when it is smaller than one token.
    """
    pixels = picture.read(path)
    height, width = (side // model.factor * model.factor for side in pixels.shape[:2])
    if not height or not width:
        raise ValueError(f"{path}: expected at least {model.factor} pixels a side, found shape {pixels.shape}")
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
