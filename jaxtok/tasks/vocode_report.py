"""How near a trained vocoder comes to held-out recordings, and the files that let one hear it.

One protocol: recordings of the test split, each alone, through their own mel and back; distances as the task evaluates
them (:meth:`jaxtok.tasks.vocode.Vocode.distances`). Griffin-Lim, which needs no training, starts from the mel of the
front end that judges.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxtok.build import build
from jaxtok.data import audio as sound
from jaxtok.data import pipeline
from jaxtok.files import write_whole
from jaxtok.signal.griffin_lim import GriffinLim
from jaxtok.tasks import report, speech_report
from jaxtok.train import processes

SPLIT = "test"
NAMES = {"vocoder": "the vocoder", "griffin_lim": "Griffin-Lim, 60 iterations", "untrained": "the untrained vocoder"}
FILES = {
    "sound/NN-original.wav": "the recording",
    "sound/NN-vocoder.wav": "from its mel by the vocoder",
    "sound/NN-griffin_lim.wav": "from its mel by Griffin-Lim",
    "pictures/NN.png": "their mels",
    "metrics.jsonl": "losses, speed and evaluations by step",
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
    params = processes.whole(result.state.ema or result.state.params)
    if not processes.is_first():
        return
    params, folder = jax.tree.map(jnp.asarray, params), epath.Path(workdir)  # on one device, whatever the mesh was
    task = build(config["task"], model=build(config["model"]))
    batch = held_out(config, recordings)
    untrained = jax.jit(task.init)(jax.random.key(config["seed"]), batch)[0]
    x, mask, found = sounds(task, {"vocoder": params, "untrained": untrained}, batch)
    measure = jax.jit(task.distances)
    distances = {name: jax.device_get(measure(x, y, mask)) for name, y in found.items()}
    for row in range(min(shown, len(x))):
        kept = {"original": x} | {name: found[name] for name in ("vocoder", "griffin_lim")}
        keep(folder, task.judge, kept, mask, row)
    numbers = report.about(result, config, folder, params) | {
        "distances": {name: {key: value.tolist() for key, value in d.items()} for name, d in distances.items()},
        "generator": sum(leaf.size for leaf in jax.tree.leaves(params["generator"])),
        "recordings": len(x),
        "files": FILES,
        "next": report.following(result, config, workdir),
    }
    write_whole(folder / "report.json", report.to_json(numbers))
    write_whole(folder / "report.md", markdown(numbers))


def held_out(config: Mapping[str, Any], recordings: int) -> dict[str, np.ndarray]:
    """A batch of at most so many recordings of the test split, without rows that are none."""
    batch = next(iter(pipeline.evaluation(config["data"], split=SPLIT, batch_size=recordings, limit=recordings)))
    return {name: value[batch["example_mask"]] for name, value in batch.items() if name != "example_mask"}


def sounds(
    task: Any, params: Mapping[str, Any], batch: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Recordings [B, L], their mask, and their audio from their mel by name: of each vocoder and of Griffin-Lim.

    Args:
      task: a :class:`jaxtok.tasks.vocode.Vocode`.
      params: of the vocoders, by name.
      batch: recordings.
    """
    vocode = jax.jit(task.vocode)
    found = {name: jax.device_get(vocode(values, batch)) for name, values in params.items()}
    x, _, mask = next(iter(found.values()))

    @jax.jit
    def invert(x, mask):
        lengths = mask.sum(1)
        mel = task.judge(x, lengths=lengths)
        frames = jnp.arange(mel.shape[1]) < (lengths // task.judge.hop)[:, None]
        y = GriffinLim(task.judge)(mel, mask=frames)
        return jnp.pad(y, ((0, 0), (0, x.shape[1] - y.shape[1])))

    return x, mask, {name: y for name, (_, y, _) in found.items()} | {"griffin_lim": jax.device_get(invert(x, mask))}


def markdown(results: Mapping[str, Any]) -> str:
    """The report as Markdown; it holds when the trained vocoder's mel distance is below both others'.

    Args:
      results: what :func:`jaxtok.tasks.report.page` needs, ``distances`` (``{name: {distance: per recording}}`` with
        the names of ``NAMES``), ``generator`` (its parameters) and ``recordings`` (how many).

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = report.Entries(results)
    lines, means = table("audio from the mel by", value["distances"], NAMES)
    ours, theirs = means["vocoder"], {name: means[name] for name in ("griffin_lim", "untrained")}
    against = " and ".join(f"{NAMES[name]} ({ours:.3f} against {theirs[name]:.3f})" for name in theirs)
    holds = all(ours < other for other in theirs.values())
    verdict = f"Holds: the vocoder's mel is nearer than that of {against}."
    if not holds:
        verdict = f"Falls short: the vocoder's mel is not nearer than that of {against}, of both at once."
    points = [
        f"{value['generator']:,} of the parameters are the vocoder's, the others its discriminators'.",
        f"Means over {value['recordings']} held-out recordings and their standard errors; mel distances below 8 kHz.",
    ]
    return report.page(results, verdict, lines, points)


def table(what: str, distances: Mapping[str, Any], names: Mapping[str, str]) -> tuple[list[str], dict[str, float]]:
    """A table's lines with means and standard errors of both distances, and the means of the mel's by name.

    Args:
      what: the heading of the first column.
      distances: ``{name: {"mel_distance": per recording, "stft_distance": per recording}}``.
      names: what to say in the place of each name, in the rows' order.

    Raises:
      ValueError: for a missing entry, by name.
    """
    lines, means = [f"| {what} | mel distance, nats | STFT distance |", "|---|---|---|"], {}
    for name, said in names.items():
        found, cells = report.Entries(distances, "distances.")[name], []
        for key in ("mel_distance", "stft_distance"):
            mean, error = report.mean_and_error(found, key, f"distances.{name}.")
            means.setdefault(name, mean)
            cells.append(f"{mean:.3f}" + (f" ± {error:.3f}" if error is not None else ""))
        lines.append(f"| {said} | {cells[0]} | {cells[1]} |")
    return lines, means


def keep(folder: epath.Path, judge: Any, sounds: Mapping[str, np.ndarray], mask: np.ndarray, row: int) -> None:
    """Writes one row's sounds ``sound/NN-NAME.wav`` and a picture of their mels by the front end ``judge``."""
    length = int(mask[row].sum())
    cut = {name: audio[row, :length] for name, audio in sounds.items()}
    for name, audio in cut.items():
        sound.write_wav(folder / f"sound/{row:02d}-{name}.wav", audio, judge.sample_rate)
    panels = {name: np.asarray(judge(audio[None]))[0] for name, audio in cut.items()}
    speech_report.picture(folder / f"pictures/{row:02d}.png", panels, frontend=judge)
