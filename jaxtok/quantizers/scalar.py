"""Bottlenecks without a codebook: rounding to a fixed grid, bounding, noise."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.quantizers import codes as codes_lib
from jaxtok.quantizers.estimators import straight_through
from jaxtok.quantizers.quantized import Around, Quantized, continuous, distortion, vectors


class ScalarRound(nn.Module):
    """y = tanh(z), q = round(n y)/n: 2 n + 1 levels per channel, gradient of y, no loss (SQ-Codec, arXiv 2406.02328).

    A generator may regress y instead of codes; :meth:`snap` then gives the nearest q.

    >>> import jax.numpy as jnp, jaxtok.quantizers as jq
    >>> y = jq.ScalarRound(width=3)(jnp.array([0.0, 0.5, -9.0]))
    >>> y.codes.tolist(), [round(v, 3) for v in y.latents.tolist()]
    ([9, 13, 0], [0.0, 0.444, -1.0])

    Attributes:
      width: channels d.
      steps: n; 9 gives SQ-Codec's 19 levels, 1 gives 3.
      word: channels per integer code, a divisor of d; Q = d / word. The first channel is least significant.
    """

    width: int
    steps: int = 9
    word: int = 1

    def __post_init__(self):
        if self.width < 1 or self.steps < 1 or self.word < 1 or self.width % self.word:
            raise ValueError(
                f"ScalarRound: expected steps >= 1 and a word that divides width, "
                f"found {self.steps}, {self.word} and {self.width}"
            )
        if (2 * self.steps + 1) ** self.word > 2**31:
            raise ValueError(f"ScalarRound: a code of {self.word} channels of {2 * self.steps + 1} levels is over 2^31")
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """Values of one code."""
        return (2 * self.steps + 1) ** self.word

    @property
    def num_codebooks(self) -> int:
        """Codes per position."""
        return self.width // self.word

    @property
    def accumulable(self) -> bool:
        """Whether, without masks, gradients of micro-batches add up: the loss is a plain mean over positions."""
        return True

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., d]. Codes are int32 [..., Q]."""
        del rng, train
        y = jnp.tanh(vectors(z, self.width, "ScalarRound"))
        q = self.snap(y)
        return Quantized(straight_through(y, q), self._pack(y), jnp.zeros(()), distortion(y, q, mask))

    def snap(self, y: jax.Array) -> jax.Array:
        """The nearest point of the grid to y, which is in [-1, 1]."""
        return jnp.round(y * self.steps) / self.steps

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., d]."""
        return self._pack(jnp.tanh(vectors(z, self.width, "ScalarRound")))

    def decode(self, codes: jax.Array) -> jax.Array:
        """Vectors float32 [..., d] of codes int32 [..., Q]."""
        codes_lib.check(codes, self.codebook_size, self.num_codebooks, "ScalarRound")
        digits = codes_lib.unpack_levels(codes, self._levels).reshape(*codes.shape[:-1], self.width)
        return (digits - self.steps).astype(jnp.float32) / self.steps

    @property
    def _levels(self) -> tuple[int, ...]:
        return (2 * self.steps + 1,) * self.word

    def _pack(self, y: jax.Array) -> jax.Array:
        digits = jnp.round(y * self.steps).astype(jnp.int32) + self.steps
        return codes_lib.pack_levels(digits.reshape(*y.shape[:-1], -1, self.word), self._levels)


class Continuous(nn.Module):
    """No quantization: latents = bound(z), no codes, no loss.

    >>> import jax.numpy as jnp, jaxtok.quantizers as jq
    >>> jq.Continuous(bound=jnp.tanh)(jnp.zeros((2, 3))).latents.shape
    (2, 3)

    Attributes:
      bound: elementwise; the identity or, for one, ``jax.numpy.tanh``.
    """

    bound: Any = None

    codebook_size = 0
    num_codebooks = 0
    accumulable = True

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """latents [..., D] of z [..., D]."""
        del mask, rng, train
        z = vectors(z, z.shape[-1], "Continuous")
        return Quantized(self.bound(z) if self.bound else z, None, jnp.zeros(()), {})

    def encode(self, z: jax.Array) -> None:
        """None: there are no codes."""

    def decode(self, codes: Any) -> jax.Array:
        """Refused: latents need no decoding."""
        raise continuous("Continuous")


class Perturbed(Around):
    """Any bottleneck, with noise on its latents in training, so that a decoder forgives a generator's errors.

    latents + scale u n in training: n is standard normal, u uniform in [0, 1) per sample, and 0 for a share 1 - rate
    of the samples. Nothing changes in evaluation.

    >>> import jax, jaxtok.quantizers as jq
    >>> q = jq.Perturbed(inner=jq.FSQ(levels=(5, 5)), scale=0.1)
    >>> y = q.apply({}, jax.numpy.ones((2, 2)), rng=jax.random.key(0), train=True)
    >>> bool((y.latents != q.apply({}, jax.numpy.ones((2, 2))).latents).all())
    True

    Attributes:
      inner: the bottleneck.
      scale: the largest standard deviation of the noise.
      rate: probability that a sample gets any.
    """

    scale: float
    rate: float = 1.0

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """As the inner bottleneck; z [B, ..., D]. Training needs ``rng``."""
        if not train:
            return self.inner(z, mask=mask, rng=rng, train=False)
        if rng is None:
            raise ValueError("Perturbed: training needs rng (a jax.random.key), found None")
        inner, size, some, normal = jax.random.split(rng, 4)
        y = self.inner(z, mask=mask, rng=inner, train=True)
        shape = (len(z), *[1] * (z.ndim - 1))
        amount = jax.random.uniform(size, shape) * jax.random.bernoulli(some, self.rate, shape)
        return dataclasses.replace(
            y, latents=y.latents + self.scale * amount * jax.random.normal(normal, y.latents.shape)
        )
