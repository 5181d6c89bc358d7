"""``jaxtok compile``: what a config's programs need on a slice of devices, compiled ahead of time without one.

    jaxtok compile --config configs/tadicodec.py:paper --topology v5e:4x4 --mesh data=4,fsdp=4 --batch 128

The numbers are per chip. Nothing is run, no data is read.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from jaxtok.train import topology as slices

ROOFLINE = (
    "Roofline: time = max(FLOPs / peak bf16, main-memory bytes / its speed, bytes sent / link speed), all at full "
    "speed and at once. FLOPs are those of matrix products and convolutions, recomputation included; main-memory bytes "
    "are estimated from the compiled program; bytes sent are those of a ring of n chips: (n - 1)/n of the array, twice "
    "that for an all-reduce."
)


def report(
    config: Any, *, topology: str, mesh: str | Mapping[str, int] = "", batch_size: int = 0
) -> tuple[dict[str, Any], str]:
    """Compiles the train step and the task's further programs; returns the numbers (JSON) and a text for people.

    Args:
      config: as for training; a ConfigDict or nested dicts.
      topology: ``"v5e:4x4"``, ``"v5p:4x4x4"`` (libtpu, extra ``tpu``) or ``"cpu:8"``.
      mesh: ``"data=4,fsdp=4"``; empty takes the config's. It must use every chip.
      batch_size: global; 0 takes the config's.

    Raises:
      ValueError: in one sentence, before any compilation: unknown topology, missing libtpu, a mesh that is not the
        slice, a batch that does not divide.
    """
    described = slices.parse(topology)
    sizes = _mesh_sizes(mesh)
    if batch_size < 0:
        raise ValueError(f"batch_size {batch_size}: expected a positive number, or 0 for the config's")
    slices.surroundings(described)

    from jaxtok.train import ahead, settings, sharding  # these import jax, which reads what was set above

    plain = settings.resolve(config)
    plain["train"] |= {"mesh": sizes or plain["train"]["mesh"]}
    if batch_size:
        plain["train"]["batch_size"] = batch_size
        plain = settings.resolve(plain)
    devices = slices.devices(described)
    placed = sharding.make_mesh(plain["train"]["mesh"], devices)
    if placed.size != described.chips:
        shown = ", ".join(f"{axis}={size}" for axis, size in placed.shape.items())
        raise ValueError(f"mesh {shown}: uses {placed.size} chips, expected the {described.chips} of {topology!r}")
    numbers = {
        "config": ":".join(str(plain[key]) for key in ("slug", "variant") if key in plain),
        "config_hash": ahead.config_hash(plain),
        "topology": topology,
        "device": devices[0].device_kind,
        "devices": placed.size,
        "mesh": dict(placed.shape),
        "batch_size": plain["train"]["batch_size"],
        "accumulate": plain["train"]["accumulate"],
        "versions": ahead.versions(),
        "hbm": described.chip.hbm if described.chip else 0,
        **ahead.measure(plain, placed, described.chip),
    }
    return numbers, render(numbers, described.chip)


def _mesh_sizes(mesh: str | Mapping[str, int]) -> dict[str, int]:
    if not isinstance(mesh, str):
        return dict(mesh)
    sizes = {}
    for item in filter(None, mesh.split(",")):
        found = re.fullmatch(r"\s*(\w+)=(-?\d+)\s*", item)
        if not found or found.group(1) in sizes:
            raise ValueError(f"mesh {mesh!r}: expected axes and sizes such as data=4,fsdp=4, found {item!r}")
        sizes[found.group(1)] = int(found.group(2))
    return sizes


def render(numbers: Mapping[str, Any], chip: slices.Chip | None) -> str:
    """The report as text, per chip."""
    mesh = ", ".join(f"{axis}={size}" for axis, size in numbers["mesh"].items())
    batch = ", ".join(f"{name} {shape}" for name, shape in numbers["batch"].items())
    versions = ", ".join(f"{name} {version}" for name, version in numbers["versions"].items() if version)
    lines = [
        f"{numbers['config'] or 'config'} on {numbers['topology']}: {numbers['devices']} x {numbers['device']}, "
        f"mesh {mesh}, global batch {numbers['batch_size']}, accumulate {numbers['accumulate']}",
        f"batch: {batch}",
        f"config hash {numbers['config_hash']}; {versions}",
        "",
        f"{'held between steps':24}{'scalars':>16}{'in all':>12}{'per chip':>12}",
    ]
    for name in ("parameters", "optimizer", "ema", "frozen"):
        part = numbers[name]
        if part["count"]:
            lines.append(
                f"{name:24}{part['count']:16,d}{_size(part['bytes']):>12}{_size(part['bytes_per_device']):>12}"
            )
    programs = numbers["programs"]
    lines += ["", f"{'per chip':24}" + "".join(f"{name:>12}" for name in programs)]
    for label, values in _rows(numbers, chip).items():
        lines.append(f"{label:24}" + "".join(f"{value:>12}" for value in values))
    for name, program in programs.items():
        lines += _messages(name, program)
    if chip is not None:
        speeds = (
            f"{chip.name}: {chip.flops / 1e12:g} TFLOP/s, {chip.hbm_speed / 1e9:g} GB/s, "
            f"links {chip.link_speed / 1e9:g} GB/s"
        )
        lines += ["", f"{ROOFLINE} {speeds}."]
    if not all(program.get("loops_known", True) for program in programs.values()):
        lines += ["", "A loop's trip count is not known to the compiler: its messages are counted once."]
    return "\n".join(lines)


def _rows(numbers: Mapping[str, Any], chip: slices.Chip | None) -> dict[str, list[str]]:
    programs = list(numbers["programs"].values())
    rows = {}
    for name in ("arguments", "outputs", "temporaries", "aliased", "code", "peak"):
        rows[name] = [_size(program["memory"].get(name)) for program in programs]
    if chip is not None:
        rows[f"fits {chip.hbm / 1e9:g} GB"] = ["yes" if program["fits"] else "NO" for program in programs]
    rows["FLOP"] = [_size(program["flops"], "") for program in programs]
    rows["sent"] = [_size(_sent(program)) for program in programs]
    if chip is not None:
        rows["main-memory traffic"] = [_size(program.get("traffic")) for program in programs]
        for part in ("compute", "memory", "links"):
            rows[f"{part} ms"] = [_milli(program.get("roofline", {}).get(part)) for program in programs]
        rows["time by roofline ms"] = [_milli(program.get("roofline", {}).get("seconds")) for program in programs]
        rows["bound by"] = [program.get("roofline", {}).get("bound", "-") for program in programs]
    rows["compiled in s"] = [f"{program['compile_seconds']:.0f}" for program in programs]
    return rows


def _messages(name: str, program: Mapping[str, Any]) -> list[str]:
    """Tables of one program's collectives."""
    if not program.get("collectives"):
        said = "none" if "collectives" in program else program.get("unread", "not compiled: it does not fit")
        return ["", f"collectives of {name}: {said}"]
    lines = ["", f"{'collectives of ' + name:32} {'times':>8}{'bytes':>12}{'sent':>12}"]
    for kind, row in program["collectives"].items():
        lines.append(f"  {kind:30} {row['count']:8d}{_size(row['bytes']):>12}{_size(row['sent']):>12}")
    lines.append("  the largest:")
    for one in program["largest"]:
        shape = one["shape"] if len(one["shape"]) < 44 else one["shape"][:40] + " ..."
        lines.append(
            f"    {one['kind']} of {one['group']}, {shape}, {one['times']} times, {_size(one['sent'])} sent"
            + (f" ({one['source'][-60:]})" if one["source"] else "")
        )
    return lines


def _sent(program: Mapping[str, Any]) -> float | None:
    if "collectives" not in program:
        return None
    return math.fsum(row["sent"] for row in program["collectives"].values())


def _size(value: float | None, unit: str = "B") -> str:
    """Three to four digits and a decimal prefix: 1.508 GB."""
    if value is None:
        return "-"
    for power, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= power:
            return f"{value / power:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".strip()


def _milli(value: float | None) -> str:
    return "-" if value is None else f"{value * 1e3:.1f}"
