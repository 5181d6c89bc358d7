"""Keeps activations where their rows are, so that dividing parameters over ``fsdp`` costs gathers of weights alone.

Rows of a batch are divided over data and fsdp, parameters over fsdp. Where both meet in a matrix product the compiler
may keep either division; left alone it kept the weights' one, moved activations between devices in every layer and
computed each row on all devices of a fsdp group. What a module returns is therefore held to its rows; the weights,
which are smaller, are gathered when they are used and their gradients scattered (Rajbhandari et al. 2020, stage 3).
(Where a device has few positions, activations are the smaller ones, and this sends more than the compiler's choice.)
"""

import contextlib
import dataclasses
from collections.abc import Generator, Mapping
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxtok.train.sharding import ROWS


@contextlib.contextmanager
def rows_stay(mesh: Mesh, batch: Mapping[str, Any]) -> Generator[None]:
    """While a program is traced: whatever a Linen module returns with as many rows as ``batch`` stays divided by rows.

    The other axes are left to the compiler and the sharding rules. Changes no value.
    """
    rows = max(getattr(leaf, "shape", ())[:1] or (0,) for leaf in jax.tree.leaves(dict(batch)))[0]
    divided = mesh.shape["data"] * mesh.shape["fsdp"]
    if mesh.shape["fsdp"] == 1 or not rows or rows % divided:
        yield
        return

    def hold(value: Any) -> Any:
        if not isinstance(value, jax.Array) or not value.ndim or value.shape[0] != rows:
            return value
        spec = PartitionSpec(ROWS, *(PartitionSpec.UNCONSTRAINED,) * (value.ndim - 1))
        return jax.lax.with_sharding_constraint(value, NamedSharding(mesh, spec))

    def interceptor(next_fun, args, kwargs, context):
        del context
        return jax.tree.map(hold, next_fun(*args, **kwargs))

    with nn.intercept_methods(interceptor):
        yield


def by_rows(task: Any, mesh: Mesh) -> "RowsStay":
    """The task, traced under :func:`rows_stay`; one that already is comes back as it is."""
    return task if isinstance(task, RowsStay) else RowsStay(task, mesh)


@dataclasses.dataclass(frozen=True)
class RowsStay:
    """A task whose losses, evaluation and programs keep their rows; everything else is the task's own."""

    task: Any
    mesh: Mesh

    def losses(self, params: Any, state: Any, batch: Mapping[str, Any], *args: Any, **fields: Any) -> Any:
        """The task's losses."""
        with rows_stay(self.mesh, batch):
            return self.task.losses(params, state, batch, *args, **fields)

    def evaluate(self, params: Any, state: Any, batch: Mapping[str, Any], *args: Any, **fields: Any) -> Any:
        """The task's evaluation."""
        with rows_stay(self.mesh, batch):
            return self.task.evaluate(params, state, batch, *args, **fields)

    def programs(self, params: Any, batch: Mapping[str, Any]) -> dict[str, tuple[Any, tuple]]:
        """The task's further programs."""

        def held(fn):
            def call(*args):
                with rows_stay(self.mesh, batch):
                    return fn(*args)

            return call

        further = getattr(self.task, "programs", None)  # a task need not have any
        return {name: (held(fn), args) for name, (fn, args) in (further(params, batch) if further else {}).items()}

    @property
    def without(self) -> Any:
        """The task's own ``without``, whose tasks keep their rows, too; no attribute where the task has none."""
        inner = getattr(self.task, "without", None)
        if inner is None:
            raise AttributeError(f"{type(self.task).__name__} has no 'without'")
        return lambda players: RowsStay(inner(players), self.mesh)

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "task"), name)
