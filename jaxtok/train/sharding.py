"""Meshes, and which array lies how on them: by rules on paths, outside the modules."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxtok.train.state import TrainState, Tree, flatten, path_name

AXES = ("data", "fsdp", "tensor")
ROWS = ("data", "fsdp")  # the batch is divided over both
FLOOR = 2**14  # smaller arrays are replicated: dividing them costs more in messages than it saves in bytes

Rules = Sequence[tuple[str, Sequence[str]]]


def make_mesh(sizes: Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the axes data, fsdp and tensor.

    Args:
      sizes: devices per axis; one may be -1 and takes what is left. A missing axis is 1.
      devices: default all; where the product is smaller, the first ones (in one process only).

    Raises:
      ValueError: for an unknown axis or sizes that do not fit the devices.
    """
    devices = list(jax.devices() if devices is None else devices)
    unknown = [axis for axis in sizes if axis not in AXES]
    if unknown:
        raise ValueError(f"config key 'train.mesh.{unknown[0]}' does not exist: a mesh has the axes {', '.join(AXES)}")
    shape = [int(sizes.get(axis, 1)) for axis in AXES]
    if shape.count(-1) > 1 or any(size < 1 and size != -1 for size in shape):
        raise ValueError(f"config key 'train.mesh': sizes must be positive and at most one -1, found {_show(shape)}")
    if -1 in shape:
        rest = math.prod(size for size in shape if size != -1)
        if len(devices) % rest:
            raise ValueError(f"config key 'train.mesh': {len(devices)} devices do not divide by {_show(shape)}")
        shape[shape.index(-1)] = len(devices) // rest
    used = math.prod(shape)
    if used > len(devices) or (used < len(devices) and jax.process_count() > 1):
        raise ValueError(f"config key 'train.mesh': {_show(shape)} needs {used} devices, found {len(devices)}")
    if (shape[0] * shape[1]) % jax.process_count():
        raise ValueError(
            f"config key 'train.mesh': data * fsdp = {shape[0] * shape[1]} must be a multiple of "
            f"the {jax.process_count()} processes, so that each holds its own rows"
        )
    # Auto: the compiler places what the rules leave open (explicit mode rejects gathers from codebooks and more).
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices[:used])


def _show(shape: Sequence[int]) -> str:
    return ", ".join(f"{axis}={size}" for axis, size in zip(AXES, shape))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def rows(mesh: Mesh, *, before: int = 0) -> NamedSharding:
    """An array whose axis ``before`` counts examples."""
    return NamedSharding(mesh, PartitionSpec(*(None,) * before, ROWS))


def state_shardings(mesh: Mesh, state: TrainState, rules: Rules = ()) -> TrainState:
    """The sharding of every leaf of a state (arrays or shapes).

    The first rule whose pattern fullmatches a parameter's path gives its spec, one axis name or "" per axis ("a+b"
    for two); the running mean and the moments of a parameter lie as it does. Without a rule the largest axis that
    divides goes over fsdp, and arrays below ``FLOOR`` are replicated.

    Raises:
      ValueError: for a rule that matches nothing, names an unknown axis, or does not divide.
    """
    for pattern, spec in rules:
        if not any(re.fullmatch(pattern, path) for path in flatten(state.params)):
            raise ValueError(f"config key 'train.sharding': pattern {pattern!r} matches no parameter")
        _check_axes(pattern, spec)
    shapes = {path: leaf.shape for path, leaf in flatten(state.params).items()}
    params = {path: (shape, _spec(mesh, path, shape, rules)) for path, shape in shapes.items()}

    def of_param(path, leaf):
        return NamedSharding(mesh, params[path_name(path)][1])

    def of_moment(path, leaf):
        # The path of a moment ends with its parameter's: "main/1/0/mu/encoder/kernel".
        names = path_name(path).split("/")
        for start in range(len(names)):
            found = params.get("/".join(names[start:]))
            if found and found[0] == leaf.shape:
                return NamedSharding(mesh, found[1])
        return NamedSharding(mesh, automatic(mesh, leaf.shape))

    def by_path(fn, tree):
        return jax.tree_util.tree_map_with_path(fn, tree)

    return TrainState(
        step=replicated(mesh),  # ty: ignore[invalid-argument-type]
        bad=replicated(mesh),  # ty: ignore[invalid-argument-type]
        params=by_path(of_param, state.params),
        ema=by_path(of_param, state.ema),
        opt=by_path(of_moment, state.opt),
        state=tree_shardings(mesh, state.state),
    )


def tree_shardings(mesh: Mesh, tree: Tree) -> Tree:
    """The automatic sharding of every leaf."""
    return jax.tree.map(lambda leaf: NamedSharding(mesh, automatic(mesh, leaf.shape)), tree)


def automatic(mesh: Mesh, shape: Sequence[int], floor: int = FLOOR) -> PartitionSpec:
    """The largest axis that divides over fsdp (the last of equals); replicated below ``floor`` elements."""
    size = mesh.shape["fsdp"]
    axes = [axis for axis, length in enumerate(shape) if length % size == 0 and length >= size]
    if size == 1 or math.prod(shape) < floor or not axes:
        return PartitionSpec()
    best = max(axes, key=lambda axis: (shape[axis], axis))
    return PartitionSpec(*(("fsdp" if axis == best else None) for axis in range(best + 1)))


def _spec(mesh: Mesh, path: str, shape: Sequence[int], rules: Rules) -> PartitionSpec:
    names = next((spec for pattern, spec in rules if re.fullmatch(pattern, path)), None)
    if names is None:
        return automatic(mesh, shape)
    said = f"config key 'train.sharding': {path!r} of shape {tuple(shape)} cannot be divided by {tuple(names)}"
    if len(names) > len(shape):
        raise ValueError(f"{said}, which has more axes")
    entries = [tuple(name.split("+")) if name else () for name in names]
    for length, axes in zip(shape, entries):
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if length % parts:
            raise ValueError(f"{said}: {length} is no multiple of {parts}")
    return PartitionSpec(*(axes or None for axes in entries))


def _check_axes(pattern: str, spec: Sequence[str]) -> None:
    for name in spec:
        for axis in name.split("+") if name else ():
            if axis not in AXES:
                raise ValueError(
                    f"config key 'train.sharding': {pattern!r} names the axis {axis!r}, expected {', '.join(AXES)}"
                )


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A process's rows as global arrays; entries that are no numbers (names, texts) are left out.

    Raises:
      ValueError: when the global number of rows does not divide over the mesh.
    """
    sharding, processes = rows(mesh), jax.process_count()
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    placed = {}
    for name, value in batch.items():
        value = np.asarray(value)
        if value.dtype.kind in "OUSV":
            continue
        count = value.shape[0] * processes if value.ndim else 0
        if count % parts or not count:
            raise ValueError(
                f"batch entry {name!r} has {count} rows in all, expected a multiple of data * fsdp = {parts}"
            )
        placed[name] = jax.make_array_from_process_local_data(sharding, value, (count, *value.shape[1:]))
    return placed


def place(mesh: Mesh, value: Any) -> jax.Array:
    """The same host value on every device of the mesh."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, replicated(mesh), lambda index: value[index])


def flags_like(mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of ``flags``."""
    return jax.ShapeDtypeStruct((mesh.size,), np.int32, sharding=_per_device(mesh))


def flags(mesh: Mesh, value: int) -> jax.Array:
    """int32 [devices]: this process's value on each of its devices."""
    values = np.full(mesh.size, value, np.int32)
    return jax.make_array_from_callback((mesh.size,), _per_device(mesh), lambda index: values[index])


def _per_device(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec(AXES))
