"""Equal blocks one after another."""

from typing import Any

import flax.linen as nn
import jax

from jaxtok.nn.remat import remat as recompute


def repeat(
    block: Any, depth: int, x: Any, *shared: Any, name: str = "blocks", scan: bool = True, remat: str = "",
    **fields: Any,
) -> Any:  # fmt: skip
    """The outcome of ``depth`` blocks, each with its own parameters; called within a module's compact method.

    What the blocks record by ``sow`` in "intermediates" is stacked, too.

    Args:
      block: a Linen module class or a ``functools.partial`` of one; ``block(**fields)(x, *shared)`` answers the new x.
      depth: blocks; with 0 there is no parameter.
      x: what goes through: an array or a pytree of arrays.
      *shared: given to every block as it is.
      name: of the stacked parameters, or the beginning ``name_0``, ``name_1``, ... of unstacked ones.
      scan: True stacks the blocks' parameters along a first axis and compiles one of them.
      remat: see :mod:`jaxtok.nn.remat`.
      **fields: of the block.

    Raises:
      ValueError: for a negative depth, or an unknown name of ``remat``.
    """
    if depth < 0:
        raise ValueError(f"depth must not be negative, found {depth}")
    if hasattr(block, "func"):  # a partial: the class can be transformed, the partial cannot
        block, fields = block.func, {**block.keywords, **fields}
    made = recompute(block, remat, scanned=scan)
    if not scan:
        for i in range(depth):
            x = made(name=f"{name}_{i}", **fields)(x, *shared)
        return x
    if depth == 0:
        return x
    stack = nn.scan(
        lambda module, x, *shared: (module(x, *shared), None), variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True}, length=depth, in_axes=(nn.broadcast,) * len(shared),
    )  # fmt: skip
    return stack(made(name=name, **fields), x, *shared)[0]


def recorded(state: Any, name: str = "blocks", *, key: str = "tokens") -> list[jax.Array]:
    """What each block of :func:`repeat` recorded: arrays [B, T, D], the first block's first.

    >>> import jax, jax.numpy as jnp
    >>> from jaxtok.nn.dit import DiT
    >>> model, x, t = DiT(depth=2, width=8, heads=2), jnp.ones((1, 4, 4, 3)), jnp.zeros(1)
    >>> variables = model.init(jax.random.key(0), x, t)
    >>> out, state = model.apply(variables, x, t, mutable=["intermediates"])
    >>> [h.shape for h in recorded(state)]
    [(1, 4, 8), (1, 4, 8)]

    Args:
      state: what ``module.apply(..., mutable=["intermediates"])`` answers beside its output.
      name: of the blocks.
      key: of the record.

    Raises:
      ValueError: when there is no such record.
    """
    found = state.get("intermediates", {})
    if name in found and key in found[name]:
        return list(found[name][key][0])
    unrolled = [f"{name}_{i}" for i in range(len(found)) if key in found.get(f"{name}_{i}", {})]
    if not unrolled:
        raise ValueError(f"no block of {name!r} recorded {key!r}; found records of {sorted(found)}")
    return [found[block][key][0] for block in unrolled]
