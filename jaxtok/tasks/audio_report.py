"""How near a trained waveform tokenizer comes to held-out recordings, and the files that let one hear it.

One protocol: recordings of the test split, through tokens and back; distances as the task evaluates them
(:func:`jaxtok.tasks.waveform.distances`); codes, where there are any, counted over all tokens of these recordings.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxtok.build import build
from jaxtok.files import write_whole
from jaxtok.quantizers import usage
from jaxtok.tasks import report, vocode_report, waveform
from jaxtok.tokenizers.waveform import latent_width
from jaxtok.train import processes

NAMES = {"trained": "the tokens", "untrained": "the untrained model's tokens"}
EVEN = 0.5  # of the codes that uniform ones would show; less falls short
FILES = {
    "sound/NN-original.wav": "the recording",
    "sound/NN-trained.wav": "from its tokens",
    "pictures/NN.png": "their mels",
    "metrics.jsonl": "losses, codebook usage, speed and evaluations by step",
    "config.json": "the resolved config",
}


def write(
    result: Any, config: Mapping[str, Any], workdir: epath.PathLike, *, recordings: int = 16, shown: int = 4
) -> None:
    """Measures a finished run and leaves ``report.md``, ``report.json``, WAV files and pictures in its directory.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      recordings: of the test split that are measured.
      shown: recordings whose sound and picture are kept.
    """
    trees = processes.whole((result.state.ema or result.state.params, result.state.state))
    if not processes.is_first():
        return
    folder, task = epath.Path(workdir), build(config["task"], model=build(config["model"]))
    trained = jax.tree.map(jnp.asarray, trees)  # on one device, whatever the mesh was
    batch = vocode_report.held_out(config, recordings)
    untrained = jax.jit(lambda key: task.init(key, {})[:2])(jax.random.key(config["seed"]))
    run = jax.jit(lambda params, state: task.reconstruct(params, state, batch))
    found = {name: jax.device_get(run(*tree)) for name, tree in (("trained", trained), ("untrained", untrained))}
    x, y, mask, codes = found["trained"]
    measure = jax.jit(lambda x, y, mask: waveform.distances(x, y, mask, judge=task.judge))
    distances = {name: jax.device_get(measure(*parts[:3])) for name, parts in found.items()}
    for row in range(min(shown, len(x))):
        vocode_report.keep(folder, task.judge, {"original": x, "trained": y}, mask, row)
    real, quantizer = np.asarray(task.model.frames(jnp.asarray(mask))), task.model.quantizer
    numbers = report.about(result, config, folder, trained[0]) | {
        "distances": {name: {key: value.tolist() for key, value in d.items()} for name, d in distances.items()},
        "codes": {} if codes is None else usage.books(codes, quantizer.codebook_size, real),
        "size": quantizer.codebook_size,
        "width": latent_width(task.model),
        "generator": sum(leaf.size for leaf in jax.tree.leaves(trained[0]["generator"])),
        "tokens_per_second": config["rate"] / task.model.hop,
        "recordings": len(x),
        "files": FILES,
        "next": {f"jaxtok reconstruct --model {workdir} --input YOUR.wav --output out": "your own recording"}
        | report.following(result, config, workdir),
    }
    write_whole(folder / "report.json", report.to_json(numbers))
    write_whole(folder / "report.md", markdown(numbers))


def markdown(results: Mapping[str, Any]) -> str:
    """The report as Markdown.

    It holds when the mel distance is below the untrained model's and each codebook, where there are any, uses at least
    half as many codes as uniform codes would.

    Args:
      results: what :func:`jaxtok.tasks.report.page` needs, ``distances`` (``{name: {distance: per recording}}`` with
        the names of ``NAMES``), ``codes`` (``{codebook: {used, tokens, perplexity}}``, empty for continuous
        tokens), ``size`` (of a codebook), ``width`` (of the latents), ``tokens_per_second``, ``generator`` (its
        parameters) and ``recordings`` (how many).

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = report.Entries(results)
    lines, means = vocode_report.table("audio from", value["distances"], NAMES)
    said = f"the mel from tokens is nearer than the untrained model's ({means['trained']:.3f} against"
    said += f" {means['untrained']:.3f})"
    held, failed = [said], []
    if not means["trained"] < means["untrained"]:
        held, failed = [], [said.replace("is nearer", "is not nearer")]
    for name, numbers in value["codes"].items():
        uniform = value["size"] * usage.uniform_usage(value["size"], numbers["tokens"])
        used = f"{name} uses {numbers['used']:,} of {value['size']:,} codes ({uniform:,.0f} if uniform)"
        (held if numbers["used"] >= EVEN * uniform else failed).append(used)
    verdict = f"Falls short: {' and '.join(failed)}." if failed else f"Holds: {' and '.join(held)}."
    rate = f"{value['tokens_per_second']:g} latents a second of {value['width']} numbers, not rounded: no bits"
    if value["codes"]:
        bits = value["tokens_per_second"] * len(value["codes"]) * np.log2(value["size"])
        rate = f"{value['tokens_per_second']:g} tokens a second, **{bits:,.0f} bit/s**"
    points = [
        f"Rate: {rate}.",
        f"{value['generator']:,} of the parameters are the tokenizer's, the others its discriminators'.",
        f"Means over {value['recordings']} held-out recordings and their standard errors; mel distances below 8 kHz.",
        *(report.codebook(name.capitalize(), value["size"], codes) for name, codes in value["codes"].items()),
    ]
    return report.page(results, verdict, lines, points)
