"""What a training run says about itself: mel pictures side by side, and a report of one screenful.

Pure rendering: plain numbers and arrays in, a PNG file and Markdown text out.
"""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from jaxtok.files import write_whole
from jaxtok.signal.mel import MelFrontEnd, mel_centres
from jaxtok.tasks import report

# What the distances are called in the table, in its order; `distance` in the results has the keys.
DECODES = {
    "mean_of_samples": "mean of {samples} samples",
    "single": "a single sample",
    "right_text": "mean of {samples} samples, right text",
    "shuffled_text": "mean of {samples} samples, another utterance's text",
    "untrained": "untrained model, mean of {samples} samples",
    "mean_frame": "the mean frame, always",
}
# (what must be lower, than what, how to say it)
CLAIMS = (
    ("mean_of_samples", "untrained", "the untrained model"),
    ("mean_of_samples", "mean_frame", "always answering the mean frame"),
    ("right_text", "shuffled_text", "shuffled text"),
)
TICKS_HZ = (0, 250, 500, 1000, 2000, 4000, 8000, 12000, 16000, 24000)


def picture(path: epath.PathLike, panels: Mapping[str, np.ndarray], *, frontend: MelFrontEnd, title: str = "") -> None:
    """Draws log-mel spectrograms one below the other, on one colour scale, as a PNG file.

    Args:
      path: where to write; may be a ``gs://`` path. The file appears when it is whole.
      panels: normalised mel ``[T, bands]`` by title, in order; lengths may differ.
      frontend: the front end that made them; gives seconds and Hz to the axes and natural log to the colours.
      title: above all panels.

    Raises:
      ValueError: when there is no panel, or one has another shape or a number that is not finite, by title.
    """
    if not panels:
        raise ValueError("panels: found none, expected at least one mel spectrogram")
    arrays = {name: np.asarray(mel, np.float32) for name, mel in panels.items()}
    for name, mel in arrays.items():
        if mel.ndim != 2 or mel.shape[1] != frontend.bands or not len(mel):
            raise ValueError(f"panels: {name!r} has shape {mel.shape}, expected [frames, {frontend.bands}]")
        if not np.isfinite(mel).all():
            raise ValueError(f"panels: {name!r} has numbers that are not finite")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    log_mels = {name: mel * np.sqrt(frontend.variance) + frontend.mean for name, mel in arrays.items()}
    low, high = min(m.min() for m in log_mels.values()), max(m.max() for m in log_mels.values())
    low = max(low, math.log(frontend.floor))
    seconds = max(map(len, log_mels.values())) * frontend.hop / frontend.sample_rate
    figure = Figure(figsize=(min(14.0, 4.0 + 1.6 * seconds), 0.8 + 1.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    ticks = _band_ticks(frontend)
    for axis, (name, mel) in zip(axes, log_mels.items()):
        extent = (0.0, len(mel) * frontend.hop / frontend.sample_rate, -0.5, frontend.bands - 0.5)
        image = axis.imshow(mel.T, origin="lower", aspect="auto", extent=extent, vmin=low, vmax=max(high, low + 1e-3))
        axis.set(title=name, ylabel="Hz", xlim=(0.0, seconds), yticks=list(ticks), yticklabels=list(ticks.values()))
    axes[-1].set_xlabel("seconds")
    figure.colorbar(image, ax=list(axes), label="ln of the mel energy", aspect=15 * len(panels), pad=0.01)
    if title:
        figure.suptitle(title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    write_whole(path, buffer.getvalue())


def _band_ticks(frontend: MelFrontEnd) -> dict[float, str]:
    """Positions on the band axis of round frequencies."""
    centres = mel_centres(frontend.bands, frontend.low, frontend.high)
    shown = [hz for hz in TICKS_HZ if centres[0] <= hz <= centres[-1]]
    return {float(np.interp(hz, centres, np.arange(frontend.bands))): f"{hz:,}" for hz in shown}


def verdict(distances: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the run holds, and the sentence that says so.

    It holds when, on the mean over utterances, the mean of the samples is strictly nearer to the recording than the
    untrained model and than the mean frame, and decoding with the right text is strictly nearer than with shuffled
    text. A number that is not finite falls short.

    Args:
      distances: for each key of `DECODES` a number or one number per utterance.

    Raises:
      ValueError: when a key that the claims need is missing or empty.
    """
    means = {key: report.mean_and_error(distances, key)[0] for key in {k for a, b, _ in CLAIMS for k in (a, b)}}
    failed = [(low, high, than) for low, high, than in CLAIMS if not means[low] < means[high]]

    def compare(low: str, high: str) -> str:
        return f"{means[low]:.3f} against {means[high]:.3f}"

    if not failed:
        return True, (
            "Holds: the mean of the samples is nearer to the recording than the untrained model "
            f"({compare(*CLAIMS[0][:2])}) and than always answering the mean frame ({compare(*CLAIMS[1][:2])}), "
            f"and the right text is nearer than shuffled text ({compare(*CLAIMS[2][:2])})."
        )
    subject = {"mean_of_samples": "the mean of the samples", "right_text": "the right text"}
    reasons = [f"{subject[low]} is not nearer to the recording than {than} ({compare(low, high)})"
               for low, high, than in failed]  # fmt: skip
    return False, f"Falls short: {', and '.join(reasons)}."


def markdown(results: Mapping[str, Any]) -> str:
    """The text of ``report.md``; its first line is the verdict.

    Args:
      results: plain numbers and strings:

        - what :func:`jaxtok.tasks.report.page` wants;
        - ``utterances``: the number of held-out ones;
        - ``distances``: for the keys of `DECODES` a number or one per utterance: mel distance in nats;
        - ``below_hz``, ``samples``, ``sampler`` (such as "32 Euler steps, guidance 2"): how these were measured;
        - ``token_rate`` (per second) and ``size`` (of a codebook): give the bitrate;
        - ``codes``: by codebook ``used``, ``tokens`` (how many were looked at), ``perplexity``.

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = report.Entries(results)
    size, codes, rate = value["size"], value["codes"], value["token_rate"]
    bits = len(codes) * math.log2(size)
    body = [
        *_table(value["distances"], value["samples"], value["below_hz"], value["utterances"]),
        "",
        f"Decoded with {value['sampler']}, no prompt. "
        "Distances are means of |difference| of natural log-mel; lower is better.",
    ]
    points = (
        f"Bitrate: {rate:g} tokens/s of {bits:g} bits = **{rate * bits:.1f} bit/s** (text is given, not counted).",
        *(report.codebook(name.capitalize(), size, numbers) for name, numbers in codes.items()),
    )
    return report.page(results, verdict(value["distances"])[1], body, points)


def _table(distances: Mapping[str, Any], samples: int, below_hz: float, utterances: int) -> list[str]:
    count = f"{utterances:,} held-out utterance{'s' * (utterances != 1)}"
    lines = [f"| mel distance below {below_hz / 1000:g} kHz, {count} | nats | standard error |", "|---|---|---|"]
    for key, name in DECODES.items():
        mean, error = report.mean_and_error(distances, key)
        row = name.format(samples=samples)
        lines.append(f"| {row} | {mean:.3f} | {'' if error is None else f'{error:.3f}'} |")
    pair = [np.asarray(distances[key], np.float64).reshape(-1) for key in ("right_text", "shuffled_text")]
    if pair[0].size > 1 and pair[0].size == pair[1].size:
        wins = int((pair[0] < pair[1]).sum())
        lines += ["", f"The right text is nearer than shuffled text on {wins} of {pair[0].size} utterances."]
    return lines


def mean_frame(mels: Sequence[np.ndarray]) -> np.ndarray:
    """The mean over all frames of some mel spectrograms ``[T, bands]``: the baseline that knows no utterance."""
    if not mels:
        raise ValueError("mels: found none, expected at least one mel spectrogram")
    return np.concatenate(list(mels)).mean(axis=0)
