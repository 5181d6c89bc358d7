"""Linear maps in the forms that are quickest on CPUs.

:func:`rows` is a ``dot_general`` for Flax's dense layers: with all leading axes as one, the kernel's gradient sums over
a single axis, where over two XLA copies the transposed activations first (a tenth of a transformer's training step).

:class:`OutFirst` keeps kernels [out, in], which reads memory fastest when there are few rows: a product is then as fast
as its weights arrive. They are the left factor, read row by row: on one core XLA takes 1.5 times as long for 1 row from
a kernel [in, out], and 3 times for 4 to 16 rows.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

FEW_ROWS = 32


def rows(x: jax.Array, kernel: jax.Array, dimensions: Any, **options: Any) -> jax.Array:
    """:func:`jax.lax.dot_general` as a product of two matrices where it is one, of last axes with first ones."""
    (last, first), (batch, _) = dimensions
    count = len(last)
    if batch or tuple(last) != tuple(range(x.ndim - count, x.ndim)) or tuple(first) != tuple(range(count)):
        return jax.lax.dot_general(x, kernel, dimensions, **options)
    before, after, inputs = x.shape[: x.ndim - count], kernel.shape[count:], math.prod(kernel.shape[:count])
    matrices = x.reshape(-1, inputs), kernel.reshape(inputs, -1)
    return jax.lax.dot_general(*matrices, (((1,), (0,)), ((), ())), **options).reshape(*before, *after)


Dense = functools.partial(nn.Dense, dot_general=rows)
DenseGeneral = functools.partial(nn.DenseGeneral, dot_general=rows)


class OutFirst(nn.Module):
    """:class:`flax.linen.DenseGeneral` over the last axes, with its kernel as one matrix [out, in].

    Attributes:
      features: output sizes, one number or several.
      axis: the axes that are summed over: the last one or the last ones.
      use_bias: adds a ``bias`` of the output sizes.
    """

    features: int | Sequence[int]
    axis: int | Sequence[int] = -1
    use_bias: bool = True
    kernel_init: Callable[..., Any] = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., out]; begins with the values that DenseGeneral begins with."""
        count = 1 if isinstance(self.axis, int) else len(self.axis)
        sizes = (self.features,) if isinstance(self.features, int) else tuple(self.features)
        before, inputs, outputs = x.shape[:-count], math.prod(x.shape[-count:]), math.prod(sizes)
        initial = lambda key, shape, dtype: self.kernel_init(key, shape[::-1], dtype).T  # noqa: E731
        kernel = self.param("kernel", initial, (outputs, inputs), self.param_dtype).astype(self.dtype)
        rows = x.reshape(-1, inputs).astype(self.dtype)
        if len(rows) <= FEW_ROWS:
            barrier = jax.lax.optimization_barrier  # or the compiler would swap the factors back
            y = barrier(kernel @ barrier(rows.T)).T
        else:
            y = jax.lax.dot_general(rows, kernel, (((1,), (1,)), ((), ())))
        y = y.reshape(*before, *sizes)
        if self.use_bias:
            y = y + self.param("bias", nn.initializers.zeros, sizes, self.param_dtype).astype(self.dtype)
        return y


def out_first(kernel: jax.Array, inputs: int = 1) -> jax.Array:
    """A kernel of :class:`flax.linen.DenseGeneral` with ``inputs`` input axes, as :class:`OutFirst` keeps it."""
    return kernel.reshape(math.prod(kernel.shape[:inputs]), -1).T
