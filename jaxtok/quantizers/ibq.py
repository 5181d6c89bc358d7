"""Index backpropagation quantization (Shi et al., arXiv 2412.02692)."""

import jax
import jax.numpy as jnp

from jaxtok.quantizers import entropy, estimators, usage
from jaxtok.quantizers.nearest import Search, dots, largest, unit
from jaxtok.quantizers.quantized import Quantized, distortion, masked_mean, vectors
from jaxtok.quantizers.vq import VQ

ENTRIES = 1 << 25  # probabilities that are in memory at a time


class IBQ(VQ):
    """q = A E with A = onehot(argmax z . e) + (p - sg(p)), p = softmax(z . e): every code has a gradient, through p.

    loss = mean |q - z|^2 + mean |sg(q) - z|^2 + commitment mean |q' - sg(z)|^2 + entropy (H_s - H_c), where q' is the
    chosen row. The value of q is exactly that row. The [N, K] softmax exists in blocks, in the backward pass alone.

    >>> import jax, jaxtok.quantizers as jq
    >>> y, _ = jq.IBQ(size=512, width=8).init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 8)))
    >>> y.codes.shape
    (2, 5, 1)

    Attributes:
      normalize: "none"; or "all" for unit vectors throughout.
      entropy: 0.05 in SEED-Voken.
    """

    entropy: float = 0.05
    search: Search = largest

    def __post_init__(self):
        plain = self.estimator is estimators.straight_through and not self.legacy and self.to_codes == 1
        if self.normalize == "search" or not plain:
            raise ValueError("IBQ: expected normalize 'none' or 'all', and legacy, to_codes and estimator as they are")
        super().__post_init__()

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., D]; ``mask`` bool [...] keeps padding out of losses. Codes are int32 [..., 1]."""
        del rng, train
        z = vectors(z, self.width, "IBQ")
        z = unit(z) if self.normalize == "all" else z
        book = self.codebook()
        index = self._search(z, book)
        row = book[index]
        q = row + soft_zero(z.reshape(-1, self.width), book).reshape(z.shape)
        sg = jax.lax.stop_gradient
        terms = (jnp.square(q - z), jnp.square(sg(row) - z), jnp.square(row - sg(z)))
        both, to_z, to_codes = (masked_mean(term, mask) for term in terms)
        loss = both + to_z + self.commitment * to_codes
        metrics = {"commitment": to_z, **distortion(z, row, mask)}
        if self.entropy:
            sample, mean = entropy.of_codes(z, book, mask, temperature=self.temperature, metric="dot")
            loss += self.entropy * (sample - mean)
            metrics |= {"entropy_sample": sample, "entropy_codebook": mean}
        metrics["perplexity"] = usage.perplexity(usage.count(index, self.size, mask))
        return Quantized(q, index[..., None], loss, metrics)


@jax.custom_vjp
def soft_zero(z: jax.Array, codebook: jax.Array) -> jax.Array:
    """(p - sg(p)) E with p = softmax(z E^T): zeros [N, D], whose gradient goes through p to z [N, D] and E [K, D]."""
    del codebook
    return jnp.zeros_like(z)


def _forward(z, codebook):
    return jnp.zeros_like(z), (z, codebook)


def _backward(kept, cotangent):
    z, codebook = kept
    block = max(1, min(len(z), ENTRIES // len(codebook)))
    blocks = -(-len(z) // block)
    pad = ((0, blocks * block - len(z)), (0, 0))
    # Block i holds vectors i, i + blocks, ...: rows that lie divided over devices stay where they are.
    parts = [jnp.pad(x, pad).reshape(block, blocks, -1).swapaxes(0, 1) for x in (z, cotangent)]

    def part(z, g):
        p = jax.nn.softmax(dots(z, codebook))
        slope = dots(g, codebook)  # dL/dp
        slope = p * (slope - jnp.sum(p * slope, axis=-1, keepdims=True))
        by_z = jnp.einsum("nk,kd->nd", slope, codebook, precision="highest")
        return by_z, jnp.einsum("nk,nd->kd", slope, z, precision="highest")

    if blocks == 1:
        by_z, by_codes = part(parts[0][0], parts[1][0])
        return by_z[: len(z)], by_codes

    def step(total, arrays):
        by_z, by_codes = part(*arrays)
        return total + by_codes, by_z

    by_codes, by_z = jax.lax.scan(step, jnp.zeros_like(codebook), tuple(parts))
    return by_z.swapaxes(0, 1).reshape(-1, z.shape[-1])[: len(z)], by_codes


soft_zero.defvjp(_forward, _backward)
