"""Compiles a config's programs for a mesh of devices that need not be there, and measures what comes out."""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from jaxtok.build import build
from jaxtok.data.abstract import abstract_batch
from jaxtok.train import collectives, flops, hlo, roofline, settings, sharding
from jaxtok.train.program import Program, make_program, make_task
from jaxtok.train.state import count
from jaxtok.train.topology import Chip

Numbers = dict[str, Any]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
LARGEST = 8  # collectives that are listed singly


def measure(config: Mapping[str, Any], mesh: Mesh, chip: Chip | None) -> Numbers:
    """Compiles the train step and the task's further programs, one after another; see :func:`compiled` for each.

    Args:
      config: resolved; its mesh is not looked at.
      mesh: of present or described devices.
      chip: for capacity and roofline; None leaves them out.

    Raises:
      ValueError: for a batch or sharding that does not fit the mesh, before anything is compiled.
    """
    settings.check_rows(config["train"], mesh.shape["data"] * mesh.shape["fsdp"], 1)
    task = make_task(config, mesh)
    batch = like_batch(config, mesh)
    program = make_program(config, task, mesh, batch)
    state, frozen = program.like
    calls = {"train": (program.step, (state, frozen, batch, program.stop))}
    calls |= further_programs(task, state.ema or state.params, batch, mesh)
    return {
        "batch": {name: f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]" for name, leaf in batch.items()},
        **held(program),
        "programs": {name: compiled(fn, args, mesh.size, chip) for name, (fn, args) in calls.items()},
    }


def like_batch(config: Mapping[str, Any], mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes, dtypes and shardings of the largest global batch: from the config, or from a source of its own kind."""
    data, size = config["data"], config["train"]["batch_size"]
    if "target" in data:  # a source that makes its own batches: the first one tells
        first = next(build(data).training(batch_size=size, seed=config["seed"]))
        shapes = {name: (np.shape(value), np.asarray(value).dtype) for name, value in first.items()}
        shapes = {name: entry for name, entry in shapes.items() if entry[1].kind not in "OUSV"}
    else:
        shapes = abstract_batch(data, size)
    rows = sharding.rows(mesh)
    return {name: jax.ShapeDtypeStruct(shape, dtype, sharding=rows) for name, (shape, dtype) in shapes.items()}


def further_programs(task: Any, params: Any, batch: Mapping[str, Any], mesh: Mesh) -> dict[str, tuple[Any, tuple]]:
    """The task's ``programs``, jitted: what has the batch's rows is divided by rows, the rest is on every device."""
    if not hasattr(task, "programs"):
        return {}
    size = next(iter(batch.values())).shape[0]

    def place(leaf: Any) -> NamedSharding:
        rows = len(leaf.shape) > 0 and leaf.shape[0] == size
        return sharding.rows(mesh) if rows else sharding.replicated(mesh)

    def placed(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or place(leaf))

    calls = {}
    for name, (fn, args) in task.programs(params, batch).items():
        args = jax.tree.map(placed, args)
        out = jax.tree.map(place, jax.eval_shape(fn, *args))
        calls[name] = (jax.jit(fn, out_shardings=out), args)
    return calls


def held(program: Program) -> Numbers:
    """Scalars and bytes of what a run holds between steps, in all and on one device."""
    state, frozen = program.like
    parts = {"parameters": state.params, "optimizer": state.opt, "ema": state.ema, "frozen": frozen}
    return {name: size(tree) for name, tree in parts.items()}


def size(tree: Any) -> Numbers:
    """``count`` of scalars, ``bytes`` in all, ``bytes_per_device`` under the leaves' shardings."""
    leaves = jax.tree.leaves(tree)
    share = [np.prod(leaf.sharding.shard_shape(leaf.shape), dtype=int) * leaf.dtype.itemsize for leaf in leaves]
    return {
        "count": count(tree),
        "bytes": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
        "bytes_per_device": int(sum(share)),
    }


def compiled(fn: Any, args: tuple, devices: int, chip: Chip | None) -> Numbers:
    """Numbers of one jitted program on one device.

    ``flops`` counts matrix products with loop lengths; ``memory`` is the compiler's (arguments, outputs, temporaries,
    aliased, code, and their sum ``peak``); ``collectives`` by kind with bytes times trip count; ``roofline`` in
    seconds. A program that the compiler refuses for want of memory has ``fits`` False and the memory that it asked
    for; one whose text cannot be read has ``unread``, the reason, and its memory.
    """
    traced = fn.trace(*args)
    numbers: Numbers = {"flops": flops.of_jaxpr(traced.jaxpr) / devices}
    lowered, start = traced.lower(), time.perf_counter()
    try:
        result = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = _refused(str(error))
        if needed is None:
            raise
        return numbers | {"compile_seconds": _since(start), "memory": {"peak": needed}, "fits": False}
    numbers["compile_seconds"] = _since(start)
    numbers["memory"] = memory(result.memory_analysis())
    if chip is not None:
        numbers["fits"] = numbers["memory"]["peak"] <= chip.hbm
    try:
        text = result.as_text()
    except jax.errors.JaxRuntimeError:  # a libtpu newer than jaxlib writes programs that jaxlib cannot read
        return numbers | {"unread": "this jaxlib cannot read what this libtpu compiles (pip install 'jax[tpu]')"}
    module = hlo.parse(text)
    found = collectives.of_module(module, devices)
    numbers["collectives"] = collectives.by_kind(found)
    numbers["largest"] = [
        dataclasses.asdict(one) | {"sent": one.sent} for one in collectives.largest(found, LARGEST)
    ]  # fmt: skip
    numbers["loops_known"] = all(visit.known for visit in hlo.visits(module))
    if chip is not None:
        traffic = roofline.traffic(module)
        least = roofline.time(chip, flops=numbers["flops"], traffic=traffic, sent=sum(one.sent for one in found))
        numbers["traffic"] = traffic
        numbers["roofline"] = dataclasses.asdict(least) | {"seconds": least.seconds, "bound": least.bound}
    return numbers


def memory(stats: Any) -> Numbers:
    """Bytes on one device; ``peak`` is what must be there at once: all of them, an output that aliases counted once."""
    found = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return found | {"peak": sum(found.values()) - 2 * found["aliased"]}


def _refused(message: str) -> int | None:
    """The bytes that a program needs, from the sentence with which the compiler refuses it; None for another error."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm", message)
    return int(float(found.group(1)) * _UNITS[found.group(2)]) if found else None


def _since(start: float) -> float:
    return round(time.perf_counter() - start, 1)


def config_hash(config: Mapping[str, Any]) -> str:
    """Of what a program is made of: model, task, shapes of examples, optimizers. Same hash, same report."""
    train = {key: config["train"][key] for key in ("accumulate", "ema", "sharding", "players", "frozen")}
    examples = {key: value for key, value in config["data"].get("examples", {}).items() if key != "text"}
    named = settings.leaves({"model": config["model"], "task": config["task"], "examples": examples, "train": train})
    kept = {key: value for key, value in named.items() if ".schedule." not in key}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Of the packages that decide what is compiled."""
    found = {}
    for package in ("jax", "jaxlib", "flax", "libtpu"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = ""
    return found
