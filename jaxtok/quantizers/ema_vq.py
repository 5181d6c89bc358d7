"""Vector quantization with a codebook of moving averages (van den Oord et al., arXiv 1711.00937, appendix A.1)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.quantizers import codes as codes_lib
from jaxtok.quantizers import estimators, usage
from jaxtok.quantizers.nearest import Search, nearest, unit
from jaxtok.quantizers.quantized import Quantized, distortion, masked_mean, vectors
from jaxtok.quantizers.vq import check_sizes


class EMAVQ(nn.Module):
    """q = e_k with k = argmin |z - e_k|^2, where E follows the mean of the vectors assigned to each code.

    After the look-up, N <- g N + (1 - g) n and M <- g M + (1 - g) s with the counts n and sums s of the global batch,
    N' = (N + eps)/(sum N + K eps) sum N, E = M / N'. Then a code with N_k < ``revive`` is put on a random vector of
    the batch. loss = commitment mean |z - sg(q)|^2. E has no gradient: it lives in the collection "codebook", which
    moves when ``train`` is True and the collection is mutable.

    >>> import jax, jaxtok.quantizers as jq
    >>> q, z = jq.EMAVQ(size=64, width=8), jax.random.normal(jax.random.key(0), (2, 50, 8))
    >>> variables = q.init(jax.random.key(1), z)
    >>> y, moved = q.apply(variables, z, train=True, mutable=["codebook"])
    >>> sorted(moved["codebook"])
    ['counts', 'embedding', 'started', 'sums']

    Attributes:
      size: K.
      width: D.
      decay: g; 0.99 in most papers, 0.8 in vector-quantize-pytorch.
      commitment: weight of the loss.
      cosine: unit vectors throughout (z, E and the averages).
      revive: threshold of N_k (an average count per batch) below which a code is replaced; 0 for never. Counts begin
        at 1, so none is replaced in the first log(revive)/log(decay) steps: 160 for 0.2 and 0.99.
      kmeans: Lloyd iterations on the first training batch that begin the codebook; 0 begins with uniform draws.
      estimator: from :mod:`jaxtok.quantizers.estimators`.
      search: exact nearest neighbours.
    """

    size: int
    width: int
    decay: float = 0.99
    commitment: float = 0.25
    cosine: bool = False
    revive: float = 0.0
    kmeans: int = 0
    epsilon: float = 1e-5
    estimator: estimators.Estimator = estimators.straight_through
    search: Search = nearest

    def __post_init__(self):
        check_sizes("EMAVQ", self.size, self.width)
        if not 0 <= self.decay < 1:
            raise ValueError(f"EMAVQ: expected decay in [0, 1), found {self.decay}")
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
        """False: the averages move once per call."""
        return False

    def setup(self):
        """The moving state."""

        def start():
            bound = math.sqrt(6 / (self.size * self.width))
            shape = (self.size, self.width)
            draw = jax.random.uniform(self.make_rng("params"), shape, jnp.float32, -bound, bound)
            return unit(draw) if self.cosine else draw

        self.embedding = self.variable("codebook", "embedding", start)
        self.counts = self.variable("codebook", "counts", lambda: jnp.ones(self.size))
        self.sums = self.variable("codebook", "sums", lambda: jnp.copy(self.embedding.value))  # may be donated
        self.started = self.variable("codebook", "started", lambda: jnp.asarray(self.kmeans == 0))

    def codebook(self) -> jax.Array:
        """The code vectors [K, D]."""
        return jnp.asarray(self.embedding.value)  # NumPy's, as weights are loaded, cannot be indexed by what is traced

    def __call__(
        self, z: jax.Array, *, mask: jax.Array | None = None, rng: jax.Array | None = None, train: bool = False
    ) -> Quantized:
        """Quantizes z [..., D]; ``mask`` bool [...] keeps padding out of everything. Codes are int32 [..., 1].

        In training, ``revive`` and ``kmeans`` need ``rng``.
        """
        z = vectors(z, self.width, "EMAVQ")
        z = unit(z) if self.cosine else z
        flat, weight = self._flat(z, mask)
        moving = train and not self.is_initializing() and self.is_mutable_collection("codebook")
        if moving and (self.revive or self.kmeans) and rng is None:
            raise ValueError("EMAVQ: training with revive or kmeans needs rng (a jax.random.key), found None")
        noise = replace = None
        if rng is not None:
            noise, begin, replace = jax.random.split(rng, 3)
            if moving and self.kmeans:
                self._begin(flat, weight, begin)
        book = self.codebook()
        index = self.search(z, book)
        q = book[index]
        if moving:
            self._move(flat, weight, index.reshape(-1), replace)
        error = masked_mean(jnp.square(z - jax.lax.stop_gradient(q)), mask)
        counts = usage.count(index, self.size, mask)
        metrics = {"commitment": error, **distortion(z, q, mask), "perplexity": usage.perplexity(counts)}
        latents = self.estimator(z, q, noise if train else None)
        return Quantized(latents, index[..., None], jnp.asarray(self.commitment * error, jnp.float32), metrics)

    def encode(self, z: jax.Array) -> jax.Array:
        """Codes int32 [..., 1] of z [..., D]."""
        z = vectors(z, self.width, "EMAVQ")
        return self.search(unit(z) if self.cosine else z, self.codebook())[..., None]

    def decode(self, codes: jax.Array) -> jax.Array:
        """Code vectors float32 [..., D] of codes int32 [..., 1]."""
        codes_lib.check(codes, self.size, 1, "EMAVQ")
        return self.codebook()[codes[..., 0]]

    def _flat(self, z: jax.Array, mask: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """Vectors [N, D] without gradient, and 1 or 0 for each."""
        flat = jax.lax.stop_gradient(z).reshape(-1, self.width)
        weight = jnp.ones(len(flat)) if mask is None else mask.reshape(-1).astype(jnp.float32)
        return jnp.where(weight[:, None] > 0, flat, 0.0), weight

    def _means(self, flat: jax.Array, weight: jax.Array, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Counts [K] and sums [K, D] of the vectors of each code."""
        counts = jnp.zeros(self.size).at[index].add(weight)
        return counts, jnp.zeros((self.size, self.width)).at[index].add(flat * weight[:, None])

    def _begin(self, flat: jax.Array, weight: jax.Array, rng: jax.Array) -> None:
        """k-means on the first batch that has a vector."""

        def fit():
            book = sample(flat, weight, self.size, rng)

            def step(_, state):
                book, _ = state
                counts, sums = self._means(flat, weight, self.search(flat, book))
                means = sums / jnp.maximum(counts, 1.0)[:, None]
                means = unit(means) if self.cosine else means
                return jnp.where(counts[:, None] > 0, means, book), counts

            return jax.lax.fori_loop(0, self.kmeans, step, (book, jnp.zeros(self.size)))

        def keep():
            return self.embedding.value, self.counts.value

        now = ~self.started.value & (weight.sum() > 0)
        self.embedding.value, self.counts.value = jax.lax.cond(now, fit, keep)
        self.sums.value = jnp.where(now, self.embedding.value * self.counts.value[:, None], self.sums.value)
        self.started.value = self.started.value | now

    def _move(self, flat: jax.Array, weight: jax.Array, index: jax.Array, rng: jax.Array | None) -> None:
        """One step of the averages, then revival; none where no vector counts."""
        new, sums = self._means(flat, weight, index)
        counts = self.decay * self.counts.value + (1 - self.decay) * new
        sums = self.decay * self.sums.value + (1 - self.decay) * sums
        total = counts.sum()
        smooth = (counts + self.epsilon) / (total + self.size * self.epsilon) * total
        book = sums / smooth[:, None]
        book = unit(book) if self.cosine else book
        if self.revive and rng is not None:
            dead = counts < self.revive
            book = jnp.where(dead[:, None], sample(flat, weight, self.size, rng), book)
            counts = jnp.where(dead, self.revive, counts)
            sums = jnp.where(dead[:, None], book * self.revive, sums)
        any_ = weight.sum() > 0
        self.embedding.value = jnp.where(any_, book, self.embedding.value)
        self.counts.value = jnp.where(any_, counts, self.counts.value)
        self.sums.value = jnp.where(any_, sums, self.sums.value)


def sample(flat: jax.Array, weight: jax.Array, count: int, rng: jax.Array) -> jax.Array:
    """``count`` of the vectors [N, D] whose weight is 1: without repetition as far as there are as many."""
    order = jax.random.uniform(rng, (len(flat),)) + jnp.where(weight > 0, 0.0, 2.0)
    ranked = jnp.argsort(order)  # those that count come first, in random order
    return flat[ranked[jnp.arange(count) % jnp.maximum(weight.sum().astype(jnp.int32), 1)]]
