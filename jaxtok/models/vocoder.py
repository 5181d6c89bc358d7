"""Trained vocoders as users meet them: normalised mel in, audio out; alone, or behind a speech tokenizer.

vocoder = jaxtok.load("runs/vocos")
again = vocoder.reconstruct(audio, rate=16000)  # float32 [L], through the vocoder's own mel
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.build import build
from jaxtok.models.tokens import Audio
from jaxtok.signal import windows

_WINDOW = 1024  # frames that are vocoded at once: bounds the memory
_CONTEXT = 128  # frames of it on each side that only inform: beyond the reach of 30 blocks
_FADE = 4  # frames on each side of a seam where both windows sound: Griffin-Lim's phases differ there


@flax.struct.dataclass
class VocoderModel:
    """A vocoder behind its front end; a pytree whose leaves are its parameters.

    Attributes:
      params: of ``module``.
      module: mel [B, T, bands] to audio [B, T * hop], such as :class:`jaxtok.nn.vocos.Vocos`; or a function of mel and
        mask without parameters, such as :class:`jaxtok.signal.griffin_lim.GriffinLim`.
      frontend: audio to the mel that it was trained on.
    """

    params: Any
    module: Any = flax.struct.field(pytree_node=False)
    frontend: Any = flax.struct.field(pytree_node=False)

    @property
    def rate(self) -> int:
        """Samples per second of the audio that comes out."""
        return self.frontend.sample_rate

    def __call__(self, mel: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Audio float32 [B, T * hop] of mel [B, T, bands], as ``frontend`` makes it, under ``mask`` [B, T]."""
        if not isinstance(self.module, nn.Module):
            return self.module(mel, mask=mask)
        return jnp.asarray(self.module.apply({"params": self.params}, mel, mask=mask))

    def reconstruct(self, audio: Audio, *, rate: int = 0) -> np.ndarray:
        """One recording [L] through its mel and back, float32, cut to whole frames at the model's rate.

        Long ones go in windows that overlap, so memory is bounded; what a window does not see lies beyond the reach of
        the network's convolutions.

        Args:
          audio: float in [-1, 1] (or integers of any width), mono.
          rate: of the audio in Hz; 0 means the model's own.

        Raises:
          ValueError: for empty, too short, non-finite or multi-channel audio, or a negative rate.
        """
        from jaxtok.data import audio as sound

        if rate < 0:
            raise ValueError(f"rate: expected a positive number, or 0 for the model's own, found {rate}")
        wave = sound.scale(sound.resample(sound.mono(audio, "audio"), rate or self.rate, self.rate))
        hop, frames = self.frontend.hop, len(wave) // self.frontend.hop
        if len(wave) <= (least := self.frontend.n_fft):
            seconds = least / self.rate, len(wave) / self.rate
            raise ValueError(f"audio: expected more than {seconds[0]:.3f} s, found {seconds[1]:.3f} s")

        def run(low, high, size):
            piece = np.pad(wave[low * hop : high * hop], (0, (size - high + low) * hop))
            return _reconstruct(self, piece[None], np.asarray([(high - low) * hop]))

        return _in_windows(run, 1, frames, hop)[0]


def assemble(config: Any, params: Any, state: Any = None) -> VocoderModel:
    """The model of a config around given parameters (trained, converted, or random).

    Args:
      config: with ``model``, and ``frontend`` or that of its task.
      params: of the model, or those of both players of its training, of which the generator's are taken.
      state: not used.
    """
    del state
    frontend = config["frontend"] if "frontend" in config else config["task"]["frontend"]
    return VocoderModel(params.get("generator", params), build(config["model"]), build(frontend))


def vocode(vocoder: Any, mel: Any, mask: Any) -> np.ndarray:
    """Audio float32 [B, T * hop] of normalised mel [B, T, F] of any length, in windows that bound the memory.

    Args:
      vocoder: a :class:`VocoderModel`, or another pytree that takes mel and mask and has ``frontend``.
      mel: [B, T, F].
      mask: bool [B, T], True on the frames that count, which come first.
    """
    mel, mask = np.asarray(mel), np.asarray(mask)

    def run(low, high, size):
        rest = (0, size - high + low)
        return _vocode(
            vocoder, np.pad(mel[:, low:high], ((0, 0), rest, (0, 0))), np.pad(mask[:, low:high], ((0, 0), rest))
        )

    return _in_windows(run, *mask.shape, vocoder.frontend.hop)


def _in_windows(run: Callable[[int, int, int], Any], batch: int, frames: int, hop: int) -> np.ndarray:
    """Audio [batch, frames * hop] of what ``run`` (low, high, padded size in frames) gives of each window."""
    audio = np.zeros((batch, frames * hop), np.float32)
    for low, high, start, end in windows.overlapping(frames, _WINDOW, _CONTEXT):
        found = np.asarray(run(low, high, windows.padded(high - low, _WINDOW)))
        first, last = max(start - _FADE, 0), min(end + _FADE, frames)
        at, weight = np.arange(first * hop, last * hop) + 0.5, np.ones((last - first) * hop, np.float32)
        if start:
            weight *= np.clip((at / hop - start + _FADE) / (2 * _FADE), 0, 1)
        if end < frames:
            weight *= np.clip((end + _FADE - at / hop) / (2 * _FADE), 0, 1)
        audio[:, first * hop : last * hop] += weight * found[:, (first - low) * hop : (last - low) * hop]
    return audio


@jax.jit
def _vocode(vocoder: Any, mel: jax.Array, mask: jax.Array) -> jax.Array:
    return vocoder(mel, mask=mask)


@jax.jit
def _reconstruct(model: VocoderModel, audio: jax.Array, lengths: jax.Array) -> jax.Array:
    mel = model.frontend(audio, lengths=lengths)
    return model(mel, mask=jnp.arange(mel.shape[1]) < model.frontend.frames(lengths)[:, None])
