"""What a codec of sound does with recordings: tokens and back, what the tokens cost, how long it takes."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.data import audio as sound
from jaxtok.data.recordings import Recording
from jaxtok.metrics.judge import Unjudged
from jaxtok.models.audio import AudioModel
from jaxtok.models.speech import SpeechModel
from jaxtok.models.tokens import Tokens
from jaxtok.models.vocoder import VocoderModel
from jaxtok.quantizers import usage
from jaxtok.tokenizers.waveform import latent_width

_TIMINGS = 3
SWAPS = {"text": "another's text", "tokens": "another's tokens", "both": "both another's"}


@dataclasses.dataclass(frozen=True)
class Swapped:
    """A speech model that says each recording by another's tokens or text, or both: what each of them is good for.

    The other is the next of those that are encoded together, of the last the first; a recording alone has none.
    """

    model: SpeechModel
    what: str

    def __post_init__(self):
        if self.what not in SWAPS:
            raise ValueError(f"swap: expected some of {', '.join(SWAPS)}, found {self.what!r}")

    @property
    def rate(self) -> int:
        """Samples per second of the audio that comes out."""
        return self.model.rate

    @property
    def title(self) -> str:
        """What is swapped, in words."""
        return SWAPS[self.what]

    def tokens(self, tokens: Tokens) -> Tokens:
        """The tokens that are decoded in the place of these."""
        if self.what != "text":
            fields = {name: jnp.roll(getattr(tokens, name), -1, 0) for name in ("codes", "latents", "mask", "samples")}
            tokens = dataclasses.replace(tokens, **fields)
        if self.what != "tokens" and tokens.text is not None:
            tokens = dataclasses.replace(tokens, text=(*tokens.text[1:], tokens.text[0]))
        return tokens


Model = SpeechModel | AudioModel | VocoderModel | Swapped


def longest(model: Model, recordings: Sequence[Recording]) -> float:
    """Seconds of recordings that a model decodes: those with text in one piece alone."""
    model = model.model if isinstance(model, Swapped) else model
    if isinstance(model, SpeechModel) and all(recording.text for recording in recordings):
        return model.window // model.factor / model.token_rate
    return math.inf


def through(
    model: Model, sounds: Sequence[tuple[np.ndarray, int]], recordings: Sequence[Recording], keys: jax.Array,
    settings: Mapping[str, Any], counts: dict[int, np.ndarray],
) -> list[np.ndarray | Unjudged]:  # fmt: skip
    """Reconstructions at the model's rate; an Unjudged for a recording that is too long, or comes back not finite.

    Args:
      model: the codec.
      sounds: samples and rate of each recording.
      recordings: what is known about them.
      keys: one for each, of models that sample.
      settings: of these.
      counts: of the codes [size] by codebook; those of these recordings are added.
    """
    limit = longest(model, recordings)
    rows = [i for i, (wave, rate) in enumerate(sounds) if len(wave) / rate <= limit]
    reason = Unjudged(f"longer than the {limit:g} s that the model decodes at once with text")
    again: list[np.ndarray | Unjudged] = [reason] * len(sounds)
    if isinstance(model, Swapped) and len(rows) == 1:
        again[rows[0]] = Unjudged("stands alone, with no other recording's tokens or text")
        rows = []
    if not rows:
        return again
    tokens = _encode(model, [sounds[i] for i in rows], [recordings[i].text for i in rows])
    if quantizer := _codebook(model):
        codes, mask, size = np.asarray(tokens.codes), np.asarray(tokens.mask), quantizer.codebook_size
        for book in range(codes.shape[-1]):
            counts[book] = counts.get(book, 0) + usage.histogram(codes[..., book], size, mask)
    for i, wave in zip(rows, _decode(model, tokens, keys[np.asarray(rows)], settings)):
        again[i] = wave if np.isfinite(wave).all() else Unjudged("NaN or Inf among its samples")
    return again


def _codebook(model: Any) -> Any:
    """The quantizer whose codes stand between a recording and what comes back; None where there are none."""
    quantizer = getattr(getattr(model, "module", None), "quantizer", None)
    return quantizer if getattr(quantizer, "num_codebooks", 0) else None


def _encode(model: Model, sounds: Sequence[tuple[np.ndarray, int]], texts: Sequence[str | None]) -> Any:
    if isinstance(model, Swapped):
        return model.tokens(_encode(model.model, sounds, texts))
    waves = [sound.resample(wave, rate, model.rate) for wave, rate in sounds]
    if isinstance(model, VocoderModel):
        return waves
    if isinstance(model, SpeechModel):
        return model.encode(waves, text=[text or "" for text in texts] if all(texts) else None)
    return model.encode(waves)


def _decode(model: Model, tokens: Any, keys: jax.Array, settings: Mapping[str, Any]) -> list[np.ndarray]:
    if isinstance(model, Swapped):
        return _decode(model.model, tokens, keys, settings)
    if isinstance(model, SpeechModel):
        return model.decode(tokens, rng=keys, **settings)
    if isinstance(model, VocoderModel):
        return [model.reconstruct(wave) for wave in tokens]
    return model.decode(tokens)


def costs(model: Model, counts: Mapping[int, np.ndarray]) -> dict[str, Any]:
    """What the tokens cost and how they are used: usage, entropy and perplexity are means over codebooks.

    Continuous tokens have a rate and a width instead, a vocoder neither, and swapped ones nothing of their own.

    Args:
      model: the codec.
      counts: of its codes by codebook; zeros where no recording went through it.
    """
    if isinstance(model, Swapped):
        return {}
    size = {"rate": model.rate, "parameters": sum(leaf.size for leaf in jax.tree.leaves(model))}
    if isinstance(model, VocoderModel):
        return size
    quantizer = _codebook(model)
    module: Any = model.module
    if not quantizer:
        return size | {"latents_per_second": model.token_rate, "latent_width": latent_width(module)}
    used = [usage.summary(counts.get(q, np.zeros(quantizer.codebook_size))) for q in range(quantizer.num_codebooks)]
    mean = {name: float(np.mean([one[name] for one in used])) for name in ("usage", "entropy", "perplexity")}
    return size | {
        "codebooks": quantizer.num_codebooks,
        "codebook_size": quantizer.codebook_size,
        "frames_per_second": model.token_rate,
        "tokens_per_second": model.token_rate * quantizer.num_codebooks,
        "bits_per_second": model.bitrate,
        "entropy_bits_per_second": model.token_rate * sum(one["entropy"] for one in used),
        "uniform_usage": usage.uniform_usage(quantizer.codebook_size, int(used[0]["tokens"])),
        "tokens": int(used[0]["tokens"]),
        **mean,
    }


def times(model: Model, recording: Recording, settings: Mapping[str, Any]) -> dict[str, float | None]:
    """Real-time factors: seconds of computing per second of sound, one recording at a time, compiled before.

    The median of three runs on one recording, with its resampling and all that stands around the network; below 1 is
    faster than real time. None where the recording is too long for the model, or the model only swaps.
    """
    found = recording.read()
    duration = len(found[0]) / found[1]
    if duration > longest(model, [recording]) or isinstance(model, Swapped):
        return {f"{name}_real_time_factor": None for name in ("encode", "decode")}
    keys, clock = jax.random.split(jax.random.key(0), 1), []
    for _ in range(1 + _TIMINGS):
        start = time.perf_counter()
        tokens = jax.block_until_ready(_encode(model, [found], [recording.text]))
        middle = time.perf_counter()
        jax.block_until_ready(_decode(model, tokens, keys, settings))
        clock.append((middle - start, time.perf_counter() - middle))
    encode, decode = np.median(clock[1:], axis=0) / duration
    return {"encode_real_time_factor": float(encode), "decode_real_time_factor": float(decode)}
