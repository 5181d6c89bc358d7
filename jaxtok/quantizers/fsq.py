"""Finite scalar quantization (Mentzer et al., arXiv 2309.15505)."""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import codes as codes_lib
from jaxtok.quantizers.estimators import straight_through
from jaxtok.quantizers.quantized import Quantized, distortion, vectors


class FSQ(nn.Module):
    """Each channel is bounded and rounded to one of a few levels; there is no codebook and no loss.

    Of L levels: h = (L - 1)(1 + 1e-3)/2, o = 1/2 for even L and 0 for odd, b = h tanh(z + artanh(o/h)) - o, and the
    code is round(b)/(L // 2): symmetric for odd L, in [-1, 1 - 2/L] for even. ``symmetric`` has levels evenly spaced
    in [-1, 1] for every L, the least included: 2/(L - 1) floor((L - 1)(tanh z + 1)/2 + 1/2) - 1. The gradient passes
    through the rounding, and so is that of the bounding function.

    >>> import jax.numpy as jnp, jaxtok.quantizers as jq
    >>> y = jq.FSQ(levels=(8, 5, 5, 5))(jnp.array([0.3, -0.7, 1.2, -2.0]))
    >>> y.codes.tolist(), y.latents.tolist()
    ([173], [0.25, -0.5, 1.0, -1.0])

    Attributes:
      levels: per channel, at least 2 (3 unless symmetric); (8, 5, 5, 5) is about 2^10, (8, 8, 8, 6, 5) about 2^14.
      symmetric: see above.
      noise: probability per element of U(-1/2, 1/2) added to the code, cut to [-1, 1], in training with ``rng``;
        symmetric only. Codes are taken before.
      bound: "tanh"; or "clip" to [-1, 1], symmetric only, for inputs that are bounded already.
    """

    levels: Sequence[int]
    symmetric: bool = False
    noise: float = 0.0
    bound: str = "tanh"

    def __post_init__(self):
        least = 2 if self.symmetric else 3
        if not self.levels or min(self.levels) < least:
            hint = "" if self.symmetric else " (2 with symmetric=True)"
            raise ValueError(f"FSQ: expected levels of at least {least}{hint}, found {tuple(self.levels)}")
        if math.prod(self.levels) > 2**31:
            raise ValueError(f"FSQ: expected at most 2^31 codes, found {math.prod(self.levels)}; use GroupedVQ")
        if (self.noise or self.bound != "tanh") and not self.symmetric:
            raise ValueError("FSQ: noise and bound='clip' need symmetric=True")
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """The product of the levels."""
        return math.prod(self.levels)

    @property
    def num_codebooks(self) -> int:
        """1."""
        return 1

    @property
    def accumulable(self) -> bool:
        """Whether, without masks, gradients of micro-batches add up: the loss is a plain mean over positions."""
        return True

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., d], one channel per level. Codes are int32 [..., 1], first channel least significant."""
        bounded = self._bound(vectors(z, len(self.levels), "FSQ"))
        digits = self._digits(bounded)
        scaled, values = self._scaled(bounded), self._values(digits)
        latents = straight_through(scaled, values)
        if train and self.noise:
            if rng is None:
                raise ValueError("FSQ: training with noise needs rng (a jax.random.key), found None")
            chosen, amount = jax.random.split(rng)
            add = jax.random.uniform(amount, z.shape, minval=-0.5, maxval=0.5)
            add = jnp.where(jax.random.bernoulli(chosen, self.noise, z.shape), add, 0.0)
            latents = jnp.clip(latents + add, -1.0, 1.0)
        return Quantized(
            latents,
            codes_lib.pack_levels(digits, self.levels)[..., None],
            jnp.zeros(()),
            distortion(scaled, values, mask),
        )

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., 1] of z [..., d]."""
        digits = self._digits(self._bound(vectors(z, len(self.levels), "FSQ")))
        return codes_lib.pack_levels(digits, self.levels)[..., None]

    def decode(self, codes: jax.Array) -> jax.Array:
        """Vectors float32 [..., d] of codes int32 [..., 1]."""
        codes_lib.check(codes, self.codebook_size, 1, "FSQ")
        return self._values(codes_lib.unpack_levels(codes[..., 0], self.levels))

    @property
    def _sizes(self) -> np.ndarray:
        return np.asarray(self.levels, np.float32)

    def _bound(self, z: jax.Array) -> jax.Array:
        """In units of one level: [..., d], in about [-L/2, L/2] or, symmetric, [0, L - 1]."""
        sizes = self._sizes
        if self.symmetric:
            y = jnp.tanh(z) if self.bound == "tanh" else jnp.clip(z, -1.0, 1.0)
            return (sizes - 1) * (y + 1) / 2
        half = (sizes - 1) * np.float32(1 + 1e-3) / 2
        offset = np.where(sizes % 2 == 0, np.float32(0.5), np.float32(0))
        return half * jnp.tanh(z + np.arctanh(offset / half)) - offset

    def _digits(self, bounded: jax.Array) -> jax.Array:
        digits = jnp.floor(bounded + 0.5) if self.symmetric else jnp.round(bounded) + self._sizes // 2
        return jnp.clip(digits, 0, self._sizes - 1).astype(jnp.int32)  # beyond 1000 levels the bound is too wide

    def _scaled(self, bounded: jax.Array) -> jax.Array:
        return bounded * (2 / (self._sizes - 1)) - 1 if self.symmetric else bounded / (self._sizes // 2)

    def _values(self, digits: jax.Array) -> jax.Array:
        digits = digits.astype(jnp.float32)
        if self.symmetric:
            return digits * (2 / (self._sizes - 1)) - 1
        return (digits - self._sizes // 2) / (self._sizes // 2)
