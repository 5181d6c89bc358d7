"""Slices of devices by name, the chips' data sheets, and descriptions of devices that are not there.

Nothing here imports jax before :func:`surroundings` has set what it reads from the environment when it starts.
"""

import dataclasses
import importlib.util
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Chip:
    """A chip's data sheet (cloud.google.com/tpu/docs, 2026): per chip, links summed over all of them in one direction.

    Attributes:
      name: as in a topology.
      axes: of its torus.
      flops: dense bfloat16 peak, FLOP/s.
      hbm: bytes of main memory, in units of 1e9, which leaves what the runtime keeps for itself.
      hbm_speed: bytes per second of main memory.
      link_speed: bytes per second that a chip can send to its neighbours.
      accelerator: prefix of the accelerator's type; ``cores`` is what its number counts per chip.
      options: of the topology's description.
    """

    name: str
    axes: int
    flops: float
    hbm: float
    hbm_speed: float
    link_speed: float
    accelerator: str
    cores: int = 1
    options: tuple[tuple[str, str], ...] = ()


# v4 is taken as one device per chip (its two cores as one), like the others.
CHIPS: Mapping[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip("v4", 3, 275e12, 32e9, 1228e9, 300e9, "v4", 2, (("chip_config_name", "megacore"),)),
        Chip("v5e", 2, 197e12, 16e9, 819e9, 200e9, "v5litepod"),
        Chip("v5p", 3, 459e12, 95e9, 2765e9, 600e9, "v5p", 2),
        Chip("v6e", 2, 918e12, 32e9, 1640e9, 400e9, "v6e"),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice: its name, how many chips, and their data sheet (None for CPU devices, whose speed is not known)."""

    name: str
    chips: int
    chip: Chip | None


def parse(name: str) -> Topology:
    """The slice of ``"v5e:4x4"``, ``"v5p:4x4x4"`` or ``"cpu:8"``.

    Raises:
      ValueError: for another form, an unknown chip, or a shape that its torus does not have.
    """
    kind, _, shape = name.partition(":")
    if kind == "cpu" and re.fullmatch(r"[1-9]\d*", shape):
        return Topology(name, int(shape), None)
    chip = CHIPS.get(kind)
    if chip is None or not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", shape):
        raise ValueError(
            f"topology {name!r}: expected a chip ({', '.join(CHIPS)}) and a shape, such as v5e:4x4 or v5p:4x4x4, or "
            "cpu:8"
        )
    sizes = [int(size) for size in shape.split("x")]
    if len(sizes) != chip.axes:
        example = "x".join("4" * chip.axes)
        raise ValueError(f"topology {name!r}: a {kind} slice has {chip.axes} axes, such as {kind}:{example}")
    return Topology(name, math.prod(sizes), chip)


def surroundings(topology: Topology) -> None:
    """Sets what jax and libtpu read from the environment when they start; call it before jax is imported.

    Raises:
      ValueError: when libtpu is needed and missing.
    """
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = "cpu"  # no search for accelerators: nothing is run
    if topology.chip is None:
        flag, flags = "--xla_force_host_platform_device_count", os.environ.get("XLA_FLAGS", "")
        if flag not in flags:
            os.environ["XLA_FLAGS"] = f"{flags} {flag}={topology.chips}".strip()
        return
    if "TPU_LIBRARY_PATH" not in os.environ and importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"topology {topology.name!r} needs libtpu, which is not installed (pip install 'jaxtok[tpu]'); "
            "without it there is --topology cpu:8"
        )
    os.environ |= {
        "TPU_SKIP_MDS_QUERY": "1",  # or libtpu asks a server that only cloud machines have
        "TPU_ACCELERATOR_TYPE": f"{topology.chip.accelerator}-{topology.chips * topology.chip.cores}",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is opened, so that several compilers may work at once
    }


def devices(topology: Topology) -> Sequence[Any]:
    """The slice's devices, present (cpu) or described (TPU).

    Raises:
      ValueError: when this process has too few, or libtpu knows no such slice.
    """
    import jax

    if topology.chip is None:
        found = jax.devices("cpu")
        if len(found) < topology.chips:
            raise ValueError(
                f"topology {topology.name!r}: this process has {len(found)} CPU devices; start it with "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={topology.chips}"
            )
        return found[: topology.chips]
    from jax.experimental import topologies

    try:
        described = topologies.get_topology_desc(topology.name, platform="tpu", **dict(topology.chip.options))
    except jax.errors.JaxRuntimeError as error:
        said = str(error).splitlines()[0]
        raise ValueError(f"topology {topology.name!r}: libtpu does not describe it ({said})") from error
    if len(described.devices) != topology.chips:
        raise ValueError(
            f"topology {topology.name!r}: libtpu describes {len(described.devices)} devices, "
            f"expected one for each of {topology.chips} chips"
        )
    return described.devices
