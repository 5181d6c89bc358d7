"""Binary spherical quantization (Zhao et al., arXiv 2406.07548)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import codes as codes_lib
from jaxtok.quantizers.quantized import Quantized, masked_mean

GRADIENTS = ("scaled", "identity")


def unit(z: jax.Array, eps: float = 1e-12) -> jax.Array:
    """z / max(|z|, eps) over the last axis, with a finite gradient at z = 0."""
    square = jnp.sum(z * z, axis=-1, keepdims=True)
    return z * jax.lax.rsqrt(jnp.maximum(square, eps * eps))


def binarize(u: jax.Array, gradient: str = "scaled") -> jax.Array:
    """The nearest corner of the cube inscribed in the sphere: (+1 if u > 0 else -1)/sqrt(d); zero goes to -1.

    Args:
      u: float32 [..., d].
      gradient: "scaled" passes the straight-through gradient to the signs and scales after it, so the Jacobian is
        1/sqrt(d) times the identity (bsq-vit, TaDiCodec); "identity" passes it to the corner itself.
    """
    scale = np.float32(1 / np.sqrt(u.shape[-1]))
    signs = jnp.where(u > 0, 1.0, -1.0).astype(u.dtype)
    if gradient == "scaled":
        return (u + jax.lax.stop_gradient(signs - u)) * scale
    return u + jax.lax.stop_gradient(signs * scale - u)


def binary_entropy(logits: jax.Array) -> jax.Array:
    """Entropy in nats of Bernoulli(sigmoid(logits)), elementwise, exact in the tails and differentiable everywhere."""
    p = jax.nn.sigmoid(logits)
    return -(p * jax.nn.log_sigmoid(logits) + (1 - p) * jax.nn.log_sigmoid(-logits))


def codebook_entropy(logits: jax.Array, mask: jax.Array | None, group: int) -> jax.Array:
    """Entropy in nats of the average code distribution, summed over groups of ``group`` bits.

    Bits are independent given z, so a group's code probabilities are products of sigmoids. The sum over groups bounds
    the joint entropy from above and equals it for a single group.

    Args:
      logits: [..., d], log-odds of each bit.
      mask: bool [...] of the positions that count, or None.
      group: bits per group, a divisor of d.
    """
    axes = tuple(range(logits.ndim - 1))
    p = jax.nn.sigmoid(logits).reshape(*logits.shape[:-1], -1, group)  # [..., d / group, group]
    joint = jnp.ones((*p.shape[:-1], 1), p.dtype)
    for i in range(group):
        pair = jnp.stack([1 - p[..., i], p[..., i]], axis=-1)
        joint = (joint[..., :, None] * pair[..., None, :]).reshape(*p.shape[:-1], -1)
    average = masked_mean(joint, mask, axes)  # [d / group, 2^group]
    return -jnp.sum(average * jnp.log(jnp.maximum(average, 1e-8)))


class BSQ(nn.Module):
    """Binary spherical quantizer: u = z/|z|, code vector (+-1)/sqrt(d), one bit per dimension.

    loss = weight (commitment mean_n sum_j (sg(q_j) - u_j)^2 + entropy (sample H_s - codebook H_c)/temperature), with
    P(bit_j = 1 | u) = sigmoid(4 temperature u_j / sqrt(d)), H_s the mean over positions of sum_j H(P_j), and H_c the
    entropy of the mean distribution in groups of ``group`` bits, natural logarithms. All positions of the global
    batch where ``mask`` is True count, and no other (the reference counts padding too).

    Attributes:
      bits: d, the width of z.
      entropy: weight of both entropy terms; 0 turns them off. ``sample`` and ``codebook`` weigh them singly.
      commitment: weight of the commitment term.
      temperature: inverse softness of the bit probabilities.
      group: bits per group in H_c; 1 as in TaDiCodec, 9 as in bsq-vit.
      order: "big" or "little", the order of bits in a code; codes hold at most 31 bits each, see ``word``.
      word: bits per integer code; 0 means all d, which needs d <= 31. Q = d / word codes per position.
      gradient: "scaled" or "identity", see :func:`binarize`.
    """

    bits: int
    entropy: float = 1.0
    sample: float = 1.0
    codebook: float = 1.0
    commitment: float = 0.0
    temperature: float = 1.0
    group: int = 1
    order: str = "big"
    word: int = 0
    gradient: str = "scaled"

    def __post_init__(self):
        word = self.word or self.bits
        if self.bits < 1 or self.bits % word or word > 31:
            raise ValueError(f"BSQ: bits must be a multiple of word, and word at most 31, found {self.bits}, {word}")
        if self.bits % self.group:
            raise ValueError(f"BSQ: group must divide bits, found {self.group} and {self.bits}")
        if self.gradient not in GRADIENTS:
            raise ValueError(f"BSQ: gradient must be one of {GRADIENTS}, found {self.gradient!r}")
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """Values of one code: 2^word."""
        return 1 << (self.word or self.bits)

    @property
    def num_codebooks(self) -> int:
        """Codes per position."""
        return self.bits // (self.word or self.bits)

    def __call__(
        self,
        z: jax.Array,
        *,
        mask: jax.Array | None = None,
        rng: jax.Array | None = None,
        train: bool = False,
    ) -> Quantized:
        """Quantizes z [..., d]; ``mask`` bool [...] keeps padding out of every statistic. Codes are int32 [..., Q]."""
        del rng, train
        self._check(z)
        u = unit(z.astype(jnp.float32))
        latents = binarize(u, self.gradient)
        axes = tuple(range(u.ndim - 1))
        logits = u * np.float32(4 * self.temperature / np.sqrt(self.bits))
        sample = masked_mean(binary_entropy(logits).sum(-1), mask, axes)
        codebook = codebook_entropy(logits, mask, self.group)
        commitment = masked_mean(jnp.square(jax.lax.stop_gradient(latents) - u).sum(-1), mask, axes)
        loss = (
            self.commitment * commitment
            + self.entropy * (self.sample * sample - self.codebook * codebook) / self.temperature
        )
        metrics = {"entropy_sample": sample, "entropy_codebook": codebook, "commitment": commitment}
        return Quantized(latents, self._pack(u > 0), jnp.asarray(loss, jnp.float32), metrics)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., d]."""
        self._check(z)
        return self._pack(z.astype(jnp.float32) > 0)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Code vectors float32 [..., d] of codes int32 [..., Q]."""
        if codes.shape[-1] != self.num_codebooks:
            raise ValueError(f"BSQ: codes must end in {self.num_codebooks} codebooks, found shape {codes.shape}")
        bits = codes_lib.unpack(codes, self.bits // self.num_codebooks, self.order)
        bits = bits.reshape(*codes.shape[:-1], self.bits)
        return jnp.where(bits, 1.0, -1.0).astype(jnp.float32) * np.float32(1 / np.sqrt(self.bits))

    def _pack(self, bits: jax.Array) -> jax.Array:
        return codes_lib.pack(bits.reshape(*bits.shape[:-1], self.num_codebooks, -1), self.order)

    def _check(self, z: jax.Array) -> None:
        if z.shape[-1] != self.bits:
            raise ValueError(f"BSQ: expected {self.bits} channels, found shape {z.shape}")
