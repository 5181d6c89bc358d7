"""What a training run of a generator of images says about itself: a verdict and a page.

Pure rendering: plain numbers in, Markdown text out.
"""

from collections.abc import Mapping
from typing import Any

from jaxtok.tasks import report

TIMES = 5.0  # as often as chance, at least, shall the judge see the class that was asked for


def verdict(accuracy: Mapping[str, float], distance: Mapping[str, float]) -> tuple[bool, str]:
    """Whether the run holds, and the sentence that says so.

    It holds when the judge sees the asked class at least five times as often as chance (with few classes: half of the
    way from chance to real images), and the samples are nearer to the training images (Frechet distance) than the
    untrained model's. A number that is not finite falls short.

    Args:
      accuracy: ``samples``, ``chance`` and ``held_out``: shares.
      distance: ``samples``, ``untrained`` and ``held_out``.
    """
    shares, far = report.Entries(accuracy, "accuracy."), report.Entries(distance, "distance.")
    times = shares["samples"] / shares["chance"]
    seen = f"the judge sees the asked class in {shares['samples']:.1%} of the samples, {times:.1f} times chance"
    near = f"Frechet distance {far['samples']:.2f} against {far['untrained']:.2f} untrained"
    needed = min(TIMES * shares["chance"], (shares["chance"] + shares["held_out"]) / 2)
    holds = shares["samples"] >= needed and far["samples"] < far["untrained"]
    return holds, f"{'Holds' if holds else 'Falls short'}: {seen}; {near} (real held-out images {far['held_out']:.2f})."


def markdown(results: Mapping[str, Any]) -> str:
    """The text of ``report.md``; its first line is the verdict.

    Args:
      results: plain numbers and strings:

        - what :func:`jaxtok.tasks.report.page` wants;
        - ``accuracy``, ``distance``: as :func:`verdict` wants them; distances with ``unguided`` too where there is one;
        - ``judge``, ``features``: its name and how many features it has;
        - ``classes``, ``asked`` (for what, in words), ``held_out`` (images), ``split``;
        - ``sampling``: the settings, in words; ``calls``: of the network for one sample.

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = report.Entries(results)
    accuracy, distance = value["accuracy"], value["distance"]
    body = [
        "| | asked class seen | Frechet distance |", "|---|---|---|",
        f"| samples | {accuracy['samples']:.1%} | {distance['samples']:.2f} |",
    ]  # fmt: skip
    if "unguided" in distance:
        body.append(f"| samples without guidance | {accuracy['unguided']:.1%} | {distance['unguided']:.2f} |")
    body += [
        f"| untrained model | | {distance['untrained']:.2f} |",
        f"| real images of the {value['split']} split | {accuracy['held_out']:.1%} | {distance['held_out']:.2f} |",
        f"| chance | {accuracy['chance']:.1%} | |",
        "",
        f"The judge is `{value['judge']}`, a classifier trained on the real training images. Asked class: "
        f"{value['asked']}, {value['classes']} classes. Frechet distance: on the judge's {value['features']} features "
        f"(so it is no FID), as many images as the {value['split']} split has, {value['held_out']}, of what they show, "
        "against all training images.",
    ]
    points = [f"Sampling: {value['sampling']}; {value['calls']} calls of the network for one sample."]
    return report.page(results, verdict(accuracy, distance)[1], body, points)
