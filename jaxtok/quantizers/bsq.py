"""Binary spherical quantization (Zhao et al., arXiv 2406.07548)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import entropy as entropy_lib
from jaxtok.quantizers import words
from jaxtok.quantizers.estimators import straight_through
from jaxtok.quantizers.nearest import unit
from jaxtok.quantizers.quantized import Quantized, distortion, masked_mean, vectors

GRADIENTS = ("scaled", "identity")


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
        return straight_through(u, signs) * scale
    return straight_through(u, signs * scale)


class BSQ(nn.Module):
    """Binary spherical quantizer: u = z/|z|, code vector (+-1)/sqrt(d), one bit per dimension.

    loss = commitment mean_n sum_j (sg(q_j) - u_j)^2 + entropy (sample H_s - codebook H_c)/temperature, with
    P(bit_j = 1 | u) = sigmoid(4 temperature u_j / sqrt(d)), H_s the mean over positions of sum_j H(P_j), and H_c the
    entropy of the mean distribution in groups of ``group`` bits, natural logarithms. All positions of the global
    batch where ``mask`` is True count, and no other (the reference counts padding too).

    With ``group`` 1 the loss is content when each bit is balanced, also when all bits are copies of each other: a
    small model may then use few codes; larger groups keep more of them.

    >>> import jax.numpy as jnp, jaxtok.quantizers as jq
    >>> y = jq.BSQ(bits=4)(jnp.array([[0.3, -0.2, 0.1, -9.0]]))
    >>> y.codes.tolist(), y.latents.tolist()
    ([[10]], [[0.5, -0.5, 0.5, -0.5]])

    Attributes:
      bits: d, the width of z.
      entropy: weight of both entropy terms; 0 turns them off. ``sample`` and ``codebook`` weigh them singly.
      commitment: weight of the commitment term.
      temperature: inverse softness of the bit probabilities.
      group: bits per group in H_c; 1 as in TaDiCodec, 9 as in bsq-vit, 0 for all (the exact entropy of the mean).
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
        words.check_bits("BSQ", self.bits, self.word, self.group, self.order)
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

    @property
    def accumulable(self) -> bool:
        """Whether, without masks, gradients of micro-batches add up: the loss is a plain mean over positions."""
        return self.entropy == 0

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
        u = unit(vectors(z, self.bits, "BSQ"))
        latents = binarize(u, self.gradient)
        logits = u * np.float32(4 * self.temperature / np.sqrt(self.bits))
        sample = masked_mean(entropy_lib.of_bits(logits).sum(-1), mask)
        codebook = entropy_lib.of_mean_bits(logits, mask, self.group or self.bits) if self.entropy else jnp.zeros(())
        commitment = masked_mean(jnp.square(jax.lax.stop_gradient(latents) - u).sum(-1), mask)
        loss = (
            self.commitment * commitment
            + self.entropy * (self.sample * sample - self.codebook * codebook) / self.temperature
        )
        metrics = {"entropy_sample": sample, "entropy_codebook": codebook, "commitment": commitment}
        metrics |= distortion(u, latents, mask)
        codes = words.to_codes(u > 0, self.word, self.order)
        return Quantized(latents, codes, jnp.asarray(loss, jnp.float32), metrics)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., d]."""
        return words.to_codes(unit(vectors(z, self.bits, "BSQ")) > 0, self.word, self.order)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Code vectors float32 [..., d] of codes int32 [..., Q]."""
        signs = words.to_signs(codes, self.bits, self.word, self.order, "BSQ")
        return signs * np.float32(1 / np.sqrt(self.bits))
