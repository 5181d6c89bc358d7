"""SimVQ: a frozen table under one learned linear map (Zhu et al., arXiv 2411.02038)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxtok.quantizers.vq import VQ


class SimVQ(VQ):
    """:class:`VQ` whose codebook is C W + b: C [K, D] drawn from N(0, 1/D) and frozen, W and b learned.

    All codes move together with W, so none dies. C lies in the collection "codebook", outside of the parameters, where
    no optimizer and no weight decay reaches it. For use elsewhere, :func:`jaxtok.quantizers.export` stores C W + b.

    >>> import jax, jaxtok.quantizers as jq
    >>> y, variables = jq.SimVQ(size=512, width=8).init_with_output(jax.random.key(0), jax.numpy.ones((2, 5, 8)))
    >>> {name: sorted(values) for name, values in variables.items()}
    {'codebook': ['embedding'], 'params': ['map']}

    Attributes:
      bias: of the map; True in the authors' code.
    """

    bias: bool = True

    def setup(self):
        """The frozen table and the map."""
        init = self.init_embedding or nn.initializers.normal(self.width**-0.5)
        shape = (self.size, self.width)
        self.embedding = self.variable("codebook", "embedding", lambda: init(self.make_rng("params"), shape))
        self.map = nn.Dense(
            self.width, use_bias=self.bias, kernel_init=nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
            bias_init=_torch_bias(self.width), precision="highest",
        )  # fmt: skip

    def table(self) -> jax.Array:
        """C W + b, [K, D]."""
        return self.map(self.embedding.value)


def _torch_bias(width: int) -> Any:
    """U(-D^-0.5, D^-0.5), as PyTorch draws a linear layer's bias."""

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -1 / math.sqrt(width), 1 / math.sqrt(width))

    return init
