"""How well a trained generator of speech knows the codes of held-out utterances, and files that let one hear it.

One protocol: utterances of the test split, each alone; nats and share of right codes as the task evaluates them, with
the utterance's text and with that of its neighbour; beside them what the frequencies of codes in training know. A
generator that reads its text is better with the right one.
"""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxtok.data import audio, pipeline
from jaxtok.files import write_whole
from jaxtok.models import speech_generator
from jaxtok.models.speech_generator import SpeechGenerator
from jaxtok.tasks import report, speech_report
from jaxtok.train import processes

ROWS = {"right": "its text", "shuffled": "another's text", "frequency": "no more than how frequent codes are"}


def write(
    result: Any, config: Mapping[str, Any], workdir: epath.PathLike, *, utterances: int = 64, batches: int = 32,
    shown: int = 3,
) -> None:  # fmt: skip
    """Measures a finished run and leaves ``report.md``, ``report.json``, sound and mel pictures in its directory.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      utterances: held-out ones that are measured.
      batches: of training, whose codes are counted.
      shown: utterances whose text is spoken, each in the voice of another one.
    """
    params = processes.whole(result.state.ema or result.state.params)
    if not processes.is_first():
        return
    folder, model = epath.Path(workdir), speech_generator.assemble(config, jax.tree.map(jnp.asarray, params))
    held_out = next(iter(pipeline.evaluation(config["data"], split="test", batch_size=utterances, limit=utterances)))
    held_out = {name: value[held_out["example_mask"]] for name, value in held_out.items() if name != "example_mask"}
    stream = pipeline.training(config["data"], batch_size=config["train"]["batch_size"], seed=config["seed"])
    counts = np.zeros(model.task.codes)
    for batch in itertools.islice(stream, batches):
        tokens = _tokens(model, batch)
        counts += np.bincount(np.asarray(tokens["codes"][..., 0])[tokens["codes_mask"]], minlength=len(counts))
    files, notes = _keep(folder, model, held_out, min(shown, len(held_out["index"])))
    kind = "each utterance alone, at four shares of masked codes" if model.task.timed else "given the codes before"
    numbers = report.about(result, config, folder, params) | measure(model, _tokens(model, held_out), counts) | {
        "utterances": len(held_out["index"]), "codes": len(counts), "kind": kind,
        "files": files, "notes": notes,
        "next": {
            f"jaxtok sample --model {workdir} --text 'good morning' --prompt YOUR.wav --prompt-text 'its words' "
            "--output out.wav": "your own voice",
        } | report.following(result, config, workdir),
    }  # fmt: skip
    write_whole(folder / "report.json", report.to_json(numbers))
    write_whole(folder / "report.md", markdown(numbers))


def measure(model: SpeechGenerator, batch: Mapping[str, Any], counts: np.ndarray) -> dict[str, dict[str, Any]]:
    """``nats`` and ``accuracy`` by the names of ``ROWS``: one number per utterance.

    Args:
      model: the generator.
      batch: held-out utterances with ``codes``.
      counts: of the codes in training; each is taken as seen once more.
    """
    run = jax.jit(lambda params, batch: model.task.evaluate(params, {}, batch, jax.random.key(0)))
    swapped = {name: jnp.roll(batch[name], 1, axis=0) for name in ("text_ids", "text_mask")}
    found = {"right": run(model.params, batch), "shuffled": run(model.params, dict(batch) | swapped)}
    codes, mask = np.asarray(batch["codes"][..., 0]), np.asarray(batch["codes_mask"])
    nats, right = -np.log((counts + 1) / (counts + 1).sum())[codes], codes == counts.argmax()
    mean = {"nats": (nats * mask).sum(1) / mask.sum(1), "accuracy": (right & mask).sum(1) / mask.sum(1)}
    return {
        name: {row: np.asarray(values[name]).tolist() for row, values in (found | {"frequency": mean}).items()}
        for name in ("nats", "accuracy")
    }


def verdict(nats: Mapping[str, Any]) -> tuple[bool, str]:
    """Whether the run holds, and the sentence that says so: fewer nats with the right text than with another or none.

    Args:
      nats: a number or one per utterance, by the names of ``ROWS``.
    """
    mean = {name: report.mean_and_error(nats, name, "nats.")[0] for name in ROWS}
    holds = mean["right"] < mean["shuffled"] and mean["right"] < mean["frequency"]
    said = f"a held-out code costs {mean['right']:.2f} nats with its text, {mean['shuffled']:.2f} with another's, "
    return holds, f"{'Holds' if holds else 'Falls short'}: {said}{mean['frequency']:.2f} by its frequency alone."


def markdown(results: Mapping[str, Any]) -> str:
    """The text of ``report.md``; its first line is the verdict.

    Args:
      results: what :func:`jaxtok.tasks.report.page` wants; ``nats`` and ``accuracy`` as :func:`measure` gives them;
        ``utterances``, ``codes`` (of the codebook) and ``kind`` (of what a code is told from, in words).

    Raises:
      ValueError: for a missing entry, by name.
    """
    value = report.Entries(results)
    body = ["| codes told from | nats a code | standard error | right |", "|---|---|---|---|"]
    for name, words in ROWS.items():
        mean, error = report.mean_and_error(value["nats"], name, "nats.")
        right = report.mean_and_error(value["accuracy"], name, "accuracy.")[0]
        body.append(f"| {words} | {mean:.3f} | {'' if error is None else f'{error:.3f}'} | {right:.1%} |")
    body.append(f"| nothing | {math.log(value['codes']):.3f} | | {1 / value['codes']:.1%} |")
    points = [f"Means over {value['utterances']} held-out utterances: {value['kind']}."]
    return report.page(results, verdict(value["nats"])[1], body, points)


def _tokens(model: SpeechGenerator, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch with codes, made of its audio where it has none."""
    if "codes" in batch or model.decoder is None:
        return dict(batch)
    return _tokenize(model.decoder, batch)


@jax.jit
def _tokenize(decoder: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    return decoder.tokenize(decoder.variables, batch)


def _keep(
    folder: epath.Path, model: SpeechGenerator, batch: Mapping[str, Any], count: int
) -> tuple[dict[str, str], list[str]]:
    """Speaks some texts, each in the voice of another utterance; gives the files' names with what they are, and notes.

    The voice is the next utterance's that fits: both texts, and the speech at its pace, can be too long together.
    """
    files = {"metrics.jsonl": "losses, speed and evaluations by step", "config.json": "the resolved config"}
    if model.decoder is None or "audio" not in batch:
        return files, ["The run was not on recordings, so nothing is spoken here."]
    waves = [wave[mask] for wave, mask in zip(batch["audio"], batch["audio_mask"])]
    texts = [model.text.decode(ids[mask]) for ids, mask in zip(batch["text_ids"], batch["text_mask"])]
    notes = []
    for row in range(count):
        found = _spoken(model, waves, texts, row)
        if found is None:
            notes.append(f"Text {row:02d} is not spoken: it is too long beside each of the other utterances.")
            continue
        other, spoken = found
        for name, wave in (("original", waves[row]), ("prompt", waves[other]), ("spoken", spoken)):
            audio.write_wav(folder / f"sound/{row:02d}-{name}.wav", wave, model.rate)
        frontend = model.decoder.frontend
        mels = {"recording": waves[row], "spoken in another's voice": spoken}
        speech_report.picture(
            folder / f"pictures/{row:02d}.png",
            {name: np.asarray(frontend(jnp.asarray(wave)[None])[0]) for name, wave in mels.items()},
            frontend=frontend, title=texts[row],
        )  # fmt: skip
        write_whole(folder / f"sound/{row:02d}.txt", f"{texts[row]}\n{texts[other]}\n")
    return {
        "sound/NN-spoken.wav": "the first line of `sound/NN.txt`, in the voice of `sound/NN-prompt.wav`",
        "sound/NN-original.wav": "the recording of that text", "pictures/NN.png": "their mels",
    } | files, notes  # fmt: skip


def _spoken(
    model: SpeechGenerator, waves: list[np.ndarray], texts: list[str], row: int
) -> tuple[int, np.ndarray] | None:
    """The first utterance behind ``row`` whose voice can speak its text, and the speech."""
    for other in (*range(row + 1, len(waves)), *range(row)):
        try:
            return other, model.sample(texts[row], prompt=waves[other], prompt_text=texts[other], rng=row)
        except ValueError:  # too long together
            continue
    return None
