"""Vector quantization with a codebook that is learned by gradient (van den Oord et al., arXiv 1711.00937)."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.quantizers import codes as codes_lib
from jaxtok.quantizers import entropy, estimators, usage
from jaxtok.quantizers.nearest import Search, nearest, unit
from jaxtok.quantizers.quantized import Quantized, distortion, masked_mean, vectors

NORMALIZE = ("none", "search", "all")


def uniform(size: int) -> Callable[..., Any]:
    """The initializer U(-1/K, 1/K) of VQGAN's codebook."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1 / size, 1 / size)

    return init


class VQ(nn.Module):
    """q = e_k with k = argmin |z - e_k|^2 over a learned codebook E [K, D].

    loss = to_codes mean |q - sg(z)|^2 + commitment mean |z - sg(q)|^2, over all elements of the positions that count,
    + entropy (H_s - H_c) of softmax(-|z - e|^2 / temperature), see :mod:`~jaxtok.quantizers.entropy`.
    Gradient to z: ``estimator`` (the identity by default) and commitment; to E: the first term.

    >>> import jax, jaxtok.quantizers as jq
    >>> y, variables = jq.VQ(size=512, width=8).init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 8)))
    >>> y.latents.shape, y.codes.shape
    ((2, 5, 8), (2, 5, 1))

    Attributes:
      size: K.
      width: D.
      commitment: weight of the term that moves z; 0.25 in most papers.
      to_codes: weight of the term that moves the codes; 0 with the estimator DiVeQ, which moves them itself.
      legacy: True weighs the terms the other way round, commitment on the codebook's term (the default of taming
        transformers and of many that copied it).
      normalize: "none"; "search" compares unit vectors but returns and trains the raw ones (MAGVIT's latent_normalize,
        DAC); "all" makes z and E unit vectors throughout (ViT-VQGAN).
      estimator: from :mod:`jaxtok.quantizers.estimators`.
      entropy: weight of the entropy term; 0.1 in MAGVIT. Costs N K exponentials.
      temperature: of its softmax.
      init_embedding: initializer of E; None for U(-1/K, 1/K).
      search: exact nearest neighbours; :func:`jaxtok.quantizers.nearest.OverMesh` divides E over devices.
    """

    size: int
    width: int
    commitment: float = 0.25
    to_codes: float = 1.0
    legacy: bool = False
    normalize: str = "none"
    estimator: estimators.Estimator = estimators.straight_through
    entropy: float = 0.0
    temperature: float = 0.01
    init_embedding: Callable[..., Any] | None = None
    search: Search = nearest

    def __post_init__(self):
        check_sizes(type(self).__name__, self.size, self.width)
        if self.normalize not in NORMALIZE:
            raise ValueError(f"{type(self).__name__}: normalize must be one of {NORMALIZE}, found {self.normalize!r}")
        super().__post_init__()

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.size

    @property
    def num_codebooks(self) -> int:
        """1."""
        return 1

    @property
    def accumulable(self) -> bool:
        """Whether, without masks, gradients of micro-batches add up: the loss is a plain mean over positions."""
        return self.entropy == 0

    def setup(self):
        """The stored table."""
        init = self.init_embedding or uniform(self.size)
        self.embedding = self.param("embedding", init, (self.size, self.width), jnp.float32)

    def table(self) -> jax.Array:
        """[K, D], before any normalization; what a subclass with another parametrization replaces."""
        return jnp.asarray(self.embedding)  # NumPy's, as weights are loaded, cannot be indexed by what is traced

    def codebook(self) -> jax.Array:
        """The code vectors [K, D] that ``decode`` gives."""
        return unit(self.table()) if self.normalize == "all" else self.table()

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., D]; ``mask`` bool [...] keeps padding out of losses. Codes are int32 [..., 1].

        ``rng`` is needed by no estimator but DiVeQ's, in training.
        """
        z = vectors(z, self.width, type(self).__name__)
        z = unit(z) if self.normalize == "all" else z
        book = self.codebook()
        index = self._search(z, book)
        q = book[index]
        loss, metrics = distances(z, q, mask, commitment=self.commitment, to_codes=self.to_codes, legacy=self.legacy)
        if self.entropy:
            pair = (unit(z), unit(book)) if self.normalize == "search" else (z, book)
            sample, mean = entropy.of_codes(*pair, mask, temperature=self.temperature)
            loss += self.entropy * (sample - mean)
            metrics |= {"entropy_sample": sample, "entropy_codebook": mean}
        metrics["perplexity"] = usage.perplexity(usage.count(index, self.size, mask))
        return Quantized(self.estimator(z, q, rng if train else None), index[..., None], loss, metrics)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., 1] of z [..., D]."""
        z = vectors(z, self.width, type(self).__name__)
        return self._search(unit(z) if self.normalize == "all" else z, self.codebook())[..., None]

    def decode(self, codes: jax.Array) -> jax.Array:
        """Code vectors float32 [..., D] of codes int32 [..., 1]."""
        codes_lib.check(codes, self.size, 1, type(self).__name__)
        return self.codebook()[codes[..., 0]]

    def _search(self, z: jax.Array, book: jax.Array) -> jax.Array:
        if self.normalize == "search":
            z, book = unit(z), unit(book)
        return self.search(z, book)


def distances(
    z: jax.Array,
    q: jax.Array,
    mask: jax.Array | None,
    *,
    commitment: float,
    to_codes: float = 1.0,
    legacy: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss of a codebook that learns by gradient, and metrics; see :class:`VQ`."""
    codes_term = masked_mean(jnp.square(q - jax.lax.stop_gradient(z)), mask)
    to_z = masked_mean(jnp.square(z - jax.lax.stop_gradient(q)), mask)
    weights = (commitment, to_codes) if legacy else (to_codes, commitment)
    loss = weights[0] * codes_term + weights[1] * to_z
    return loss, {"commitment": to_z, **distortion(z, q, mask)}


def check_sizes(name: str, size: int, width: int) -> None:
    """Refuses a codebook of fewer than 2 codes or no channels."""
    if size < 2 or width < 1:
        raise ValueError(f"{name}: expected size >= 2 and width >= 1, found {size} and {width}")


def export(quantizer: VQ, variables: Any) -> tuple[VQ, dict[str, Any]]:
    """A plain :class:`VQ` with the codebook that ``quantizer`` (SimVQ, FVQ, VQ) computes, evaluated once.

    Returns:
      The module and its variables; its codes and latents are those of ``quantizer``.
    """
    plain = VQ(
        size=quantizer.size, width=quantizer.width, commitment=quantizer.commitment,
        to_codes=quantizer.to_codes, legacy=quantizer.legacy,
        normalize=quantizer.normalize, estimator=quantizer.estimator, entropy=quantizer.entropy,
        temperature=quantizer.temperature, search=quantizer.search,
    )  # fmt: skip
    with jax.default_matmul_precision("highest"):
        return plain, {"params": {"embedding": quantizer.apply(variables, method="table")}}
