"""How good a trained speech tokenizer is on held-out utterances, and the files that show it.

One protocol: utterances of the test split of at least so many words, each alone; distance = mean |difference| of
natural log-mel below 8 kHz over real frames (:func:`jaxtok.metrics.audio.mel_distance`). "Mean of N" decodes the same
tokens with N keys and averages the mels before the distance; "shuffled text" gives each utterance the transcript of
another one of the batch; the mean frame is that of the training set.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jaxtok.build import build
from jaxtok.data import audio as sound
from jaxtok.data import pipeline
from jaxtok.diffusion import noise
from jaxtok.files import write_whole
from jaxtok.metrics import audio as metrics
from jaxtok.quantizers import usage
from jaxtok.tasks import report, speech_report
from jaxtok.tokenizers.diffusion import FlowSampler
from jaxtok.train import processes

SPLIT = "test"


@functools.partial(jax.jit, static_argnums=(0, 1))
def encode_decode(task: Any, sampler: FlowSampler, params: Any, batch: Mapping[str, jax.Array], key: jax.Array):
    """(mel, mask, decoded mel, codes) of a batch; one key for all, folded with the examples' ``index``."""
    mel, mask = task.frames(batch)
    tokens = task.model.apply({"params": params}, mel, mask=mask, method="encode")
    cond = {name: batch[name] for name in ("text_ids", "text_mask")}
    keys = noise.per_example(key, batch["index"])
    decoded = task.model.apply(
        {"params": params}, tokens.latents, mask=mask, cond=cond, rng=keys, sampler=sampler, method="decode"
    )
    return mel, mask, decoded, tokens.codes


def shuffled(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
    """The batch with each text in the place of its neighbour's."""
    return dict(batch) | {name: jnp.roll(jnp.asarray(batch[name]), 1, axis=0) for name in ("text_ids", "text_mask")}


def measure(
    task: Any,
    params: Any,
    untrained: Any,
    mean: np.ndarray,
    batch: Mapping[str, np.ndarray],
    *,
    samples: int,
    sampler: FlowSampler,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Distances per utterance by name, and ``mel``, ``mask``, ``decoded`` (one sample), ``mean`` and ``codes``.

    Args:
      task: a :class:`jaxtok.tasks.autoencode.SpeechFlow`.
      params: trained; ``untrained`` freshly initialised.
      mean: the mean normalised frame of the training set [F].
      batch: held-out utterances.
      samples: how many keys are averaged.
      sampler: how each is decoded.
    """
    distance = functools.partial(metrics.mel_distance, frontend=task.frontend)

    def run(weights, inputs):
        decoded = [encode_decode(task, sampler, weights, inputs, jax.random.key(s)) for s in range(samples)]
        mel, mask, _, codes = decoded[0]
        each = jnp.stack([sample[2] for sample in decoded])
        return mel, mask, each, codes

    mel, mask, each, codes = run(params, batch)
    wrong = run(params, shuffled(batch))[2]
    raw = run(untrained, batch)[2]
    right = distance(each.mean(0), mel, mask)
    distances = {
        "single": jnp.stack([distance(one, mel, mask) for one in each]).mean(0),
        "mean_of_samples": right,
        "right_text": right,
        "shuffled_text": distance(wrong.mean(0), mel, mask),
        "untrained": distance(raw.mean(0), mel, mask),
        "mean_frame": distance(jnp.broadcast_to(mean, mel.shape), mel, mask),
    }
    shown = {"mel": mel, "mask": mask, "decoded": each[0], "mean": each.mean(0), "codes": codes}
    return jax.tree.map(np.asarray, distances), jax.tree.map(np.asarray, shown)


def write(
    result: Any, config: Mapping[str, Any], workdir: epath.PathLike, *, utterances: int = 16, samples: int = 8,
    steps: int = 10, guidance: float = 1.0, shown: int = 4,
) -> None:  # fmt: skip
    """Measures a finished run and leaves ``report.md``, ``report.json``, WAV pairs and mel pictures in its directory.

    Args:
      result: what the loop returned.
      config: the run's resolved config.
      workdir: the run's directory.
      utterances: held-out utterances to measure.
      samples: keys averaged in "mean of N".
      steps: Euler steps; ``guidance`` likewise.
      shown: utterances whose sound and picture are kept.
    """
    params = processes.whole(result.state.ema or result.state.params)
    if not processes.is_first():
        return
    params = jax.tree.map(jnp.asarray, params)  # on one device, whatever the mesh was
    folder = epath.Path(workdir)
    task = build(config["task"], model=build(config["model"]))
    sampler = FlowSampler(steps=steps, guidance=guidance)
    batch = next(iter(pipeline.evaluation(config["data"], split=SPLIT, batch_size=utterances, limit=utterances)))
    batch = {name: value[batch["example_mask"]] for name, value in batch.items() if name != "example_mask"}
    untrained = jax.jit(task.init)(jax.random.key(config["seed"]), batch)[0]
    mean = _mean_frame(task, config)
    distances, kept = measure(task, params, untrained, mean, batch, samples=samples, sampler=sampler)

    quantizer = task.model.quantizer
    real = kept["mask"][:, task.model.encoder.factor // 2 :: task.model.encoder.factor]
    files = _keep(folder, config, task, kept, batch, range(min(shown, len(real))))
    numbers = report.about(result, config, folder, params) | {
        "distances": {name: value.tolist() for name, value in distances.items()},
        "utterances": len(real),
        "below_hz": 8000.0,
        "samples": samples,
        "sampler": f"{steps} Euler steps, " + ("no guidance" if guidance == 1.0 else f"guidance {guidance:g}"),
        "token_rate": task.frontend.sample_rate / (task.frontend.hop * task.model.encoder.factor),
        "size": quantizer.codebook_size,
        "codes": usage.books(kept["codes"], quantizer.codebook_size, real),
        "files": files,
        "next": {
            f"jaxtok reconstruct --model {workdir} --input YOUR.wav --text 'its words' --output out": "your own voice",
        }
        | report.following(result, config, workdir),
    }
    write_whole(folder / "report.json", report.to_json(numbers))
    write_whole(folder / "report.md", speech_report.markdown(numbers))


def _mean_frame(task: Any, config: Mapping[str, Any], batches: int = 8) -> np.ndarray:
    """The mean normalised mel frame [F] of the first training batches."""
    stream = pipeline.training(config["data"], batch_size=16, seed=config["seed"])
    frames = jax.jit(task.frames)
    pairs = [jax.device_get(frames(next(stream))) for _ in range(batches)]
    return np.concatenate([mel[mask] for mel, mask in pairs]).mean(0)


def _keep(folder, config, task, kept, batch, rows) -> dict[str, str]:
    """Writes sound and pictures of some utterances; gives the files' names and what they are."""
    vocoder, vocode = build(config["vocoder"]), jax.jit(lambda vocoder, mel: vocoder(mel))
    originals, decoded = (np.asarray(vocode(vocoder, kept[name][: len(rows)])) for name in ("mel", "decoded"))
    hop, rate = task.frontend.hop, task.frontend.sample_rate
    for row in rows:
        frames = int(kept["mask"][row].sum())
        text = _text_of(build(config["text"]), batch, row)
        sound.write_wav(folder / f"sound/{row:02d}-original.wav", batch["audio"][row, : frames * hop], rate)
        sound.write_wav(folder / f"sound/{row:02d}-original-vocoded.wav", originals[row, : frames * hop], rate)
        sound.write_wav(folder / f"sound/{row:02d}-reconstructed.wav", decoded[row, : frames * hop], rate)
        write_whole(folder / f"sound/{row:02d}.txt", text + "\n")
        panels = {"original": "mel", "one sample from the tokens": "decoded", "mean of the samples": "mean"}
        speech_report.picture(
            folder / f"pictures/{row:02d}.png",
            {title: kept[name][row, :frames] for title, name in panels.items()},
            frontend=task.frontend,
            title=text,
        )
    return {
        "sound/NN-original.wav": "the recording, 24 kHz",
        "sound/NN-original-vocoded.wav": "the recording's mel through the vocoder: what the vocoder alone costs",
        "sound/NN-reconstructed.wav": "one sample decoded from the tokens and the text in `sound/NN.txt`",
        "pictures/NN.png": "their mels, and the mean of the samples",
        "metrics.jsonl": "losses, speed and evaluations by step",
        "config.json": "the resolved config",
    }


def _text_of(tokenizer: Any, batch: Mapping[str, np.ndarray], row: int) -> str:
    return tokenizer.decode(np.asarray(batch["text_ids"][row])[np.asarray(batch["text_mask"][row])])
