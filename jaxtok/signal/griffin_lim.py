"""From a mel spectrogram back to audio without a trained vocoder: non-negative mel inversion and fast Griffin-Lim.

Sources: Griffin and Lim, "Signal estimation from modified short-time Fourier transform" (1984); Perraudin, Balazs and
Sondergaard, "A fast Griffin-Lim algorithm" (2013); multiplicative updates for the Kullback-Leibler divergence from
Lee and Seung, "Algorithms for non-negative matrix factorization" (2000).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.signal.mel import MelFrontEnd, mel_filters
from jaxtok.signal.stft import istft, stft


def mel_to_magnitude(mel: jax.Array, frontend: MelFrontEnd, *, updates: int = 30) -> jax.Array:
    """The magnitude spectrum whose mel energies come nearest to the given ones.

    Multiplicative updates reduce the Kullback-Leibler divergence from the given energies; they keep magnitudes
    non-negative and weigh relative errors, as a logarithmic scale does. The start spreads each band over its bins.
    A band at the front end's floor, which says only that there was no more energy, gets none.

    Args:
      mel: normalised log-mel as ``frontend`` makes it, ``[..., T, bands]``.
      frontend: says how the mel was made.
      updates: number of multiplicative updates.

    Returns:
      Magnitudes ``[..., T, n_fft // 2 + 1]``, float32; bins that no filter covers are 0.
    """
    sizes = (frontend.n_fft, frontend.sample_rate, frontend.bands, frontend.low, frontend.high)
    filters = jnp.asarray(mel_filters(*sizes))
    log_mel = frontend.denormalize(mel.astype(jnp.float32))
    energy = jnp.where(log_mel > np.log(frontend.floor) + 1e-3, jnp.exp(log_mel), 0)
    weight = jnp.sum(filters, axis=1)  # [bins]
    covered = weight > 0
    weight = jnp.where(covered, weight, 1)

    def spread(ratio: jax.Array) -> jax.Array:
        return jnp.where(covered, jnp.matmul(ratio, filters.T, precision="highest") / weight, 0)

    def update(_: int, magnitude: jax.Array) -> jax.Array:
        reached = jnp.matmul(magnitude, filters, precision="highest")
        return magnitude * spread(energy / jnp.maximum(reached, 1e-12))

    flat = energy / jnp.maximum(jnp.sum(filters, axis=0), 1e-12)  # one magnitude per band that would explain it
    return jax.lax.fori_loop(0, updates, update, spread(flat))


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class GriffinLim:
    """Normalised log-mel frames to audio without weights: ``GriffinLim()(mel)``.

    Makes a tokenizer audible before a vocoder is trained for it: speech is clearly intelligible, with a phasy colour.
    Deterministic, no key: at the start each bin turns at its own centre frequency from frame to frame, and this start
    depends on the frame's number alone, so that a row gives the same audio alone, in a batch and (with ``mask``)
    padded. Same means up to rounding, which every Griffin-Lim iteration amplifies, since the phase of a bin that is
    nearly 0 is undefined: on speech a relative error of 2e-7 in the magnitudes grows to about -45 dB of the signal by
    default (the worst of 8 utterances to -34), to -30 dB with ``momentum=0.99, softness=0``. The mel of the output is
    0.126 nats from the given one (96 English utterances, bands below 8 kHz), with those settings 0.120.
    Working memory is about 50 kB a frame with the default front end; :func:`jaxtok.models.vocoder.vocode` cuts windows.

    Attributes:
      frontend: the front end that made the mel.
      iterations: of Griffin-Lim.
      momentum: of the fast variant; 0 is the plain algorithm.
      softness: a bin whose estimate falls below this share of its magnitude is taken down with it, rather than blown
        up to the full magnitude with a phase of chance; 0 is the published algorithm.
      updates: of the mel inversion, see `mel_to_magnitude`.
    """

    frontend: MelFrontEnd = MelFrontEnd()
    iterations: int = 60
    momentum: float = 0.8
    softness: float = 0.1
    updates: int = 30

    def __call__(self, mel: jax.Array, *, mask: jax.Array | None = None) -> jax.Array:
        """Audio ``[B, hop * T]``, float32, not limited to [-1, 1], of normalised log-mel ``[B, T, bands]``.

        Args:
          mel: as ``frontend`` makes it.
          mask: ``[B, T]`` boolean, true on real frames; samples of the other frames are 0.

        Raises:
          ValueError: when the mel has another rank, no frame, or another number of bands than the front end.
        """
        front = self.frontend
        if mel.ndim != 3 or mel.shape[1] == 0 or mel.shape[2] != front.bands:
            raise ValueError(f"mel: found shape {mel.shape}, expected [batch, frames, {front.bands}] with frames > 0")
        if mask is not None and mask.shape != mel.shape[:2]:
            raise ValueError(f"mask: found shape {mask.shape}, expected {mel.shape[:2]} as the mel has frames")
        magnitude = mel_to_magnitude(mel, front, updates=self.updates)

        limit = jnp.square(self.softness * magnitude) + 1e-24

        def synthesise(phase: jax.Array) -> jax.Array:
            return istft(magnitude * phase, front.n_fft, front.hop, mask=mask)

        def step(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            phase, before = carry
            now = stft(synthesise(phase), front.n_fft, front.hop, edge="zero")
            ahead = now - self.momentum / (1 + self.momentum) * before
            return ahead / jnp.sqrt(jnp.abs(ahead) ** 2 + limit), now

        phase = jnp.broadcast_to(_start(mel.shape[1], front), magnitude.shape)
        phase, _ = jax.lax.fori_loop(0, self.iterations, step, (phase, jnp.zeros_like(phase)))
        return synthesise(phase)


def _start(frames: int, frontend: MelFrontEnd) -> jax.Array:
    """Unit phases ``[T, bins]``: bin k has turned by ``2 pi k t hop / n_fft`` at frame t."""
    turn = (jnp.arange(frames) * frontend.hop) % frontend.n_fft
    turn = (turn[:, None] * jnp.arange(frontend.n_fft // 2 + 1)) % frontend.n_fft
    angle = turn.astype(jnp.float32) * np.float32(2 * np.pi / frontend.n_fft)
    return jax.lax.complex(jnp.cos(angle), jnp.sin(angle))
