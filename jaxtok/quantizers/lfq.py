"""Lookup-free quantization (Yu et al., MAGVIT-v2, arXiv 2310.05737)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import entropy as entropy_lib
from jaxtok.quantizers import words
from jaxtok.quantizers.estimators import straight_through
from jaxtok.quantizers.quantized import Quantized, distortion, masked_mean, vectors


class LFQ(nn.Module):
    """q = +1 where z > 0 else -1; each channel is one bit, each of the 2^d sign patterns one code.

    loss = entropy (H_s - diversity H_c) + commitment mean (z - sg(q))^2, where p(c | z) = softmax_c(2 z . c /
    temperature) over all codes, which is a product of bits with P(bit_i = 1) = sigmoid(4 z_i / temperature): exact in d
    sigmoids per vector, H_c in one matrix product (:mod:`~jaxtok.quantizers.entropy`). Gradient to z: the identity.

    >>> import jax.numpy as jnp, jaxtok.quantizers as jq
    >>> y = jq.LFQ(bits=3)(jnp.array([[0.3, -0.2, 0.1]]))
    >>> y.codes.tolist(), y.latents.tolist()
    ([[5]], [[1.0, -1.0, 1.0]])

    Attributes:
      bits: d, the width of z.
      entropy: weight of the entropy term.
      diversity: weight of H_c within it.
      commitment: weight of the commitment; 0.25 in Open-MAGVIT2, 0 in vector-quantize-pytorch.
      temperature: of the softmax.
      group: bits that H_c takes jointly, a divisor of d; 0 for all, the exact entropy of the mean. Smaller groups
        bound it from above. All of 18 bits cost two [N, 512] arrays.
      order: "big" or "little" (Open-MAGVIT2), the order of bits in a code.
      word: bits per integer code, at most 31; 0 for all. Q = d / word.
    """

    bits: int
    entropy: float = 0.1
    diversity: float = 1.0
    commitment: float = 0.0
    temperature: float = 0.01
    group: int = 0
    order: str = "big"
    word: int = 0

    def __post_init__(self):
        words.check_bits("LFQ", self.bits, self.word, self.group, self.order)
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
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., d]; ``mask`` bool [...] keeps padding out of every statistic. Codes are int32 [..., Q]."""
        del rng, train
        z = vectors(z, self.bits, "LFQ")
        q = jnp.where(z > 0, 1.0, -1.0)
        commitment = masked_mean(jnp.square(z - q), mask)
        loss, metrics = jnp.asarray(self.commitment * commitment, jnp.float32), {"commitment": commitment}
        metrics |= distortion(z, q, mask)
        if self.entropy:
            logits = z * np.float32(4 / self.temperature)
            sample = masked_mean(entropy_lib.of_bits(logits).sum(-1), mask)
            mean = entropy_lib.of_mean_bits(logits, mask, self.group or self.bits)
            loss += self.entropy * (sample - self.diversity * mean)
            metrics |= {"entropy_sample": sample, "entropy_codebook": mean}
        return Quantized(straight_through(z, q), words.to_codes(z > 0, self.word, self.order), loss, metrics)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., Q] of z [..., d]."""
        return words.to_codes(vectors(z, self.bits, "LFQ") > 0, self.word, self.order)

    def decode(self, codes: jax.Array) -> jax.Array:
        """Signs float32 [..., d] of codes int32 [..., Q]."""
        return words.to_signs(codes, self.bits, self.word, self.order, "LFQ")
