"""What a training run of an image tokenizer says about itself: pictures, and a report of one screenful.

Pure rendering: plain numbers and arrays in, PNG files and Markdown text out.
"""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxtok.data import picture
from jaxtok.files import write_whole
from jaxtok.quantizers import usage
from jaxtok.tasks import report

# What is compared with the images, in the table's order; `psnr` and `mse` in the results have the keys.
RECONSTRUCTIONS = {
    "trained": "from the tokens",
    "untrained": "untrained model",
    "mean_image": "the mean training image, always",
}
EVEN = 0.5  # of the use that uniform codes would show; less falls short


def grid(path: epath.PathLike, originals: np.ndarray, others: Sequence[np.ndarray], *, scale: int = 0) -> None:
    """Writes a PNG file of pairs: each original with what was made of it to its right, many to a row.

    Args:
      path: where to write; may be a ``gs://`` path. The file appears when it is whole.
      originals: [N, H, W, C], C = 1 or 3, in [-1, 1].
      others: arrays of the same shape, shown from left to right beside the originals.
      scale: whole enlargement of each pixel; 0 brings small images to about 96 pixels.

    Raises:
      ValueError: when shapes differ or there is no image.
    """
    stacks = [np.asarray(stack, np.float32) for stack in (originals, *others)]
    for stack in stacks:
        if stack.shape != stacks[0].shape or stack.ndim != 4 or not len(stack) or stack.shape[-1] not in (1, 3):
            shapes = [other.shape for other in stacks]
            raise ValueError(f"images: expected stacks [N, H, W, 1 or 3] of one shape, found {shapes}")
    count, height, width, _ = stacks[0].shape
    scale = scale or max(1, round(96 / max(height, width)))
    tiles = [np.pad(pixels(stack).repeat(scale, 1).repeat(scale, 2), _margin(1), **_WHITE) for stack in stacks]
    pairs = np.pad(np.concatenate(tiles, axis=2), _margin(4), **_WHITE)  # [N, h, w, 3]
    columns = max(1, round((count * pairs.shape[1] / pairs.shape[2]) ** 0.5 * 1.3))
    blank = np.full((-count % columns, *pairs.shape[1:]), 255, np.uint8)
    rows = np.concatenate([pairs, blank]).reshape(-1, columns, *pairs.shape[1:])
    whole = rows.transpose(0, 2, 1, 3, 4).reshape(rows.shape[0] * rows.shape[2], -1, 3)
    picture.write_png(path, whole)


def rows(path: epath.PathLike, images: Mapping[str, np.ndarray], *, scale: int = 0) -> None:
    """Writes a PNG file with a row of images behind each name.

    Args:
      path: where to write; may be a ``gs://`` path. The file appears when it is whole.
      images: uint8 [N, H, W, 1 or 3] by name; N may differ.
      scale: whole enlargement of each pixel; 0 brings small images to about 64 pixels.

    Raises:
      ValueError: when there is no image, or shapes differ.
    """
    from PIL import Image, ImageDraw, ImageFont

    stacks = [np.asarray(stack) for stack in images.values()]
    if not stacks or any(s.ndim != 4 or not len(s) or s.shape[1:] != stacks[0].shape[1:] for s in stacks):
        raise ValueError(f"images: expected stacks [N, H, W, C] of one size, found {[s.shape for s in stacks]}")
    height, width = stacks[0].shape[1:3]
    scale = scale or max(1, round(64 / max(height, width)))
    tall, wide, font = height * scale + 4, width * scale + 4, ImageFont.load_default(size=14)
    margin = max(round(font.getlength(name)) for name in images) + 8
    canvas = np.full((tall * len(stacks), margin + wide * max(map(len, stacks)), 3), 255, np.uint8)
    for row, stack in enumerate(stacks):
        for column, image in enumerate(stack):
            top, left = row * tall + 2, margin + column * wide + 2
            canvas[top : top + tall - 4, left : left + wide - 4] = image.repeat(scale, 0).repeat(scale, 1)
    drawn = Image.fromarray(canvas)
    for row, name in enumerate(images):
        ImageDraw.Draw(drawn).text((4, row * tall + tall // 2), name, fill=0, font=font, anchor="lm")
    picture.write_png(path, np.asarray(drawn))


def pixels(images: np.ndarray) -> np.ndarray:
    """uint8 [..., 3] of images [..., 1 or 3] in [-1, 1]; what lies outside is cut off."""
    rounded = np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)
    return np.broadcast_to(rounded, (*rounded.shape[:-1], 3))


_WHITE: dict[str, Any] = dict(constant_values=255)


def _margin(width: int) -> tuple[tuple[int, int], ...]:
    return ((0, 0), (width, width), (width, width), (0, 0))


def histogram(path: epath.PathLike, counts: Mapping[str, np.ndarray], *, size: int) -> None:
    """Draws how often codes were used, most frequent first, beside what uniform codes would show, as a PNG file.

    Args:
      path: where to write; may be a ``gs://`` path.
      counts: of the codes that were used, by codebook.
      size: codes of a codebook.

    Raises:
      ValueError: when a codebook's counts are empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.0, 3.6), layout="constrained")
    axis = figure.subplots()
    for name, count in counts.items():
        if not np.sum(count):
            raise ValueError(f"counts: codebook {name!r} has none, expected at least one token")
        axis.plot(np.arange(1, len(count) + 1), np.sort(count)[::-1], drawstyle="steps-mid", label=name)
    axis.axhline(np.sum(next(iter(counts.values()))) / size, color="0.5", lw=0.8, ls="--", label="all equally often")
    axis.axvline(size, color="0.5", lw=0.8, ls=":", label=f"all {size:,} codes")
    axis.set(xscale="log", yscale="log", xlabel="codes, most frequent first", ylabel="times used")
    axis.legend(fontsize=8)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_whole(path, buffer.getvalue())


def verdict(psnr: Mapping[str, Any], codes: Mapping[str, Mapping[str, Any]], size: int) -> tuple[bool, str]:
    """Whether the run holds, and the sentence that says so.

    It holds when, on the mean over images, the reconstruction from tokens is strictly nearer to the image (PSNR) than
    the untrained model's and than the mean image, and each codebook uses at least half as many codes as uniform codes
    would. A number that is not finite falls short.

    Args:
      psnr: for each key of `RECONSTRUCTIONS` a number or one number per image, in dB.
      codes: by codebook: ``used`` and ``tokens``; empty for continuous tokens.
      size: codes of a codebook.

    Raises:
      ValueError: when a key is missing or empty.
    """
    means = {key: report.mean_and_error(psnr, key, "psnr.")[0] for key in RECONSTRUCTIONS}
    failed, held = [], []
    for key, than in (("untrained", "the untrained model's"), ("mean_image", "always the mean image")):
        pair = f"than {than} ({means['trained']:.2f} against {means[key]:.2f} dB)"
        (held if means["trained"] > means[key] else failed).append(pair)
    reasons = [f"the reconstruction is not nearer to the image {' and '.join(failed)}"] if failed else []
    for name, numbers in codes.items():
        uniform = size * usage.uniform_usage(size, numbers["tokens"])
        said = f"{name} uses {numbers['used']:,} of {size:,} codes ({uniform:,.0f} if uniform)"
        if not numbers["used"] >= EVEN * uniform:
            reasons.append(f"{said}, less than half")
        else:
            held.append(said)
    if reasons:
        return False, f"Falls short: {', and '.join(reasons)}."
    return True, f"Holds: the reconstruction is nearer to the image {' and '.join(held[:2])}{_and(held[2:])}."


def _and(said: Sequence[str]) -> str:
    return f", and {'; '.join(said)}" if said else ""


def markdown(results: Mapping[str, Any]) -> str:
    """The text of ``report.md``; its first line is the verdict.

    Args:
      results: plain numbers and strings:

        - what :func:`jaxtok.tasks.report.page` wants;
        - ``psnr``, ``mse``: for the keys of `RECONSTRUCTIONS` a number or one per image;
        - ``images``, ``split``: how many held-out ones, of which split;
        - ``size``: codes of a codebook; ``bits`` (per token, 0 for continuous ones), ``tokens`` (per image),
          ``pixels`` (per image);
        - ``codes``: ``{codebook: {used, tokens, perplexity}}``.

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = report.Entries(results)
    body = [f"| {value['images']:,} images of the {value['split']} split | PSNR, dB | standard error | MSE |"]
    body.append("|---|---|---|---|")
    for key, name in RECONSTRUCTIONS.items():
        mean, error = report.mean_and_error(value["psnr"], key, "psnr.")
        square, _ = report.mean_and_error(value["mse"], key, "mse.")
        body.append(f"| {name} | {mean:.2f} | {'' if error is None else f'{error:.2f}'} | {square:.4f} |")
    body += ["", "PSNR is the mean of the images' PSNRs; MSE on the scale of [-1, 1], with values outside cut off."]
    bits = value["tokens"] * value["bits"]
    points = [f"Rate: {value['tokens']:,} tokens of {value['bits']:.2f} bits = **{bits:,.0f} bits an image**, "
              f"{bits / value['pixels']:.3f} a pixel."] if value["bits"] else ["Tokens are continuous."]  # fmt: skip
    points += [report.codebook(name.capitalize(), value["size"], codes) for name, codes in value["codes"].items()]
    return report.page(results, verdict(value["psnr"], value["codes"], value["size"])[1], body, points)
