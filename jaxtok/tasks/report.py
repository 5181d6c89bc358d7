"""What the reports of all tasks have in common: who trained what, on what, how fast; and the shape of the page."""

import json
import math
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxtok.data import pipeline
from jaxtok.quantizers import usage
from jaxtok.train.writer import NAME, read_lines


def about(result: Any, config: Mapping[str, Any], workdir: epath.PathLike, params: Any) -> dict[str, Any]:
    """What was trained, on what, at what speed: the entries that :func:`page` needs.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      params: the trained parameters.
    """
    lines = read_lines(epath.Path(workdir) / NAME)
    losses = [line["loss"] for line in lines if "loss" in line]
    speeds = [line["examples_per_second"] for line in lines if "examples_per_second" in line]
    steps, batch_size = result.step, config["train"]["batch_size"]
    speed = float(np.median(speeds)) if speeds else float("nan")
    return {
        "name": f"{config['slug']}:{config['variant']}",
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "steps": steps,
        "batch_size": batch_size,
        "seconds": steps * batch_size * float(np.mean(1 / np.asarray(speeds))) if speeds else 0.0,
        "examples_per_second": speed,
        "device": f"{jax.device_count()} x {jax.devices()[0].device_kind} ({platform.machine()})",
        "data": config["data"]["source"],
        "train_examples": pipeline.training_examples(config["data"]),
        "loss": (losses[0], losses[-1]),
    }


def following(result: Any, config: Mapping[str, Any], workdir: epath.PathLike) -> dict[str, str]:
    """Commands that go on from a finished run, whatever its task, and what each is for."""
    return {
        f"jaxtok evaluate --model {workdir}": "the errors on the test split",
        f"jaxtok train --config configs/{config['slug']}.py:{config['variant']} --workdir {workdir}"
        f" --config.train.steps={2 * result.step}": "go on with this run",
        f"tensorboard --logdir {workdir}": "curves (pip install tensorboard)",
    }


def page(results: Mapping[str, Any], verdict: str, body: Sequence[str], points: Sequence[str]) -> str:
    """A report's Markdown: the verdict in the first line, then what was trained, the body, points, files, next steps.

    Args:
      results: ``name``, ``parameters``, ``steps``, ``batch_size``, ``seconds`` (training time),
        ``examples_per_second``, ``device``, ``data``, ``train_examples``, ``loss`` (first and last), ``files``
        (``{name: what it is}``), ``next`` (``{command: why}``), and optionally ``notes``: sentences that belong to
        the numbers.
      verdict: one sentence, "Holds: ..." or "Falls short: ...".
      body: lines between the heading and the points; tables.
      points: further numbers, a line each.

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = Entries(results)
    first, last = value["loss"]
    lines = [
        verdict,
        "",
        f"# {value['name']}",
        "",
        f"{value['parameters']:,} parameters, trained on {value['data']} "
        f"({value['train_examples']:,} training examples): "
        f"{value['steps']:,} steps of {value['batch_size']} in {value['seconds'] / 60:.1f} min, "
        f"{value['examples_per_second']:.1f} examples/s on {value['device']}; loss {first:.3f} -> {last:.3f}.",
        "",
        *body,
        "",
        *(f"- {point}" for point in (*points, *results.get("notes", ()))),
        "",
        "## Files",
        *(f"- `{name}`: {what}" for name, what in value["files"].items()),
        "",
        "## Next",
        *(f"- {why}:\n  `{command}`" for command, why in value["next"].items()),
    ]
    return "\n".join(lines) + "\n"


def codebook(name: str, size: int, codes: Mapping[str, Any]) -> str:
    """How many codes of a codebook were used, and how many would be if all were equally likely.

    Args:
      name: of the codebook.
      size: its codes.
      codes: ``used``, ``tokens`` (how many were looked at), ``perplexity``.
    """
    value = Entries(codes, "codes.")
    uniform = size * usage.uniform_usage(size, value["tokens"]) if size > 1 else float(value["tokens"] > 0)
    return (
        f"{name}: {value['used']:,} of {size:,} codes used by {value['tokens']:,} held-out tokens, "
        f"perplexity {value['perplexity']:.1f}; {uniform:,.0f} would be used if all were equally likely."
    )


def mean_and_error(values: Mapping[str, Any], key: str, prefix: str = "distances.") -> tuple[float, float | None]:
    """The mean of one number or of one per example, and the mean's standard error where there are several.

    Raises:
      ValueError: when there is none, by name.
    """
    found = np.asarray(Entries(values, prefix)[key], np.float64).reshape(-1)
    if not found.size:
        raise ValueError(f"results: {prefix}{key} is empty, expected at least one number")
    error = float(found.std(ddof=1) / math.sqrt(found.size)) if found.size > 1 else None
    return float(found.mean()), error


def to_json(results: Mapping[str, Any]) -> str:
    """The numbers of a report as text for ``report.json``."""
    return json.dumps(results, indent=1) + "\n"


class Entries:
    """Reads a mapping and names what it lacks."""

    def __init__(self, values: Mapping[str, Any], prefix: str = ""):
        self.values, self.prefix = values, prefix

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise ValueError(f"results: {self.prefix}{key} is missing; found {', '.join(map(str, self.values))}")
        return self.values[key]
