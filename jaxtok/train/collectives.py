"""The messages between devices that a compiled program really sends, with the loops around them counted.

Bytes are those of one device. What travels on its links is that of a ring of n devices: (n - 1)/n of the whole for an
all-gather, a reduce-scatter or an all-to-all, twice that for an all-reduce, all of it for a permutation.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator

from jaxtok.train import hlo

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of ``KINDS``.
      shape: such as ``"bf16[4,2000,1024]"``: the larger of operand and result on one device.
      bytes: of that array.
      group: devices that take part together.
      times: how often it runs in one call of the program.
      source: the operation of the traced program that it comes from, as far as the compiler tells.
    """

    kind: str
    shape: str
    bytes: int
    group: int
    times: int
    source: str

    @property
    def sent(self) -> float:
        """Bytes on one device's links, per call of the program."""
        share = (self.group - 1) / self.group
        whole = {"all-reduce": 2 * share, "collective-permute": 1.0}.get(self.kind, share)
        return self.times * self.bytes * whole


def of_module(module: hlo.Module, devices: int) -> list[Collective]:
    """All collectives of a program for so many devices, in the order of the text.

    TPU programs repeat an asynchronous collective in each fusion that overlaps with it; it is counted once.
    """
    found, seen = [], set()
    for visit in hlo.visits(module):
        for instruction, scope, scattered in _candidates(module, visit):
            collective = _collective(module.computations[scope], instruction, visit.times, devices, scattered)
            if collective is None:
                continue
            channel = instruction.attribute("channel_id")
            key = (visit.computation, collective.kind, channel, collective.shape)
            if scope == visit.computation or key not in seen:
                found.append(collective)
            seen.add(key)
    return found


def _candidates(module: hlo.Module, visit: hlo.Visit) -> Iterator[tuple[hlo.Instruction, str, bool]]:
    """The instruction itself, or what a fusion holds, with the computation it stands in."""
    if visit.instruction.opcode != "fusion":
        yield visit.instruction, visit.computation, False
        return
    for name in visit.instruction.called:
        scattered = name.startswith("all-reduce-scatter")
        for instruction in module.computations[name].values():
            yield instruction, name, scattered


def _collective(
    scope: hlo.Computation, instruction: hlo.Instruction, times: int, devices: int, scattered: bool
) -> Collective | None:
    kind = instruction.opcode.removesuffix("-start")
    if kind not in KINDS:
        return None
    operands = [array for name in instruction.operands if name in scope for array in scope[name].arrays]
    results = list(instruction.arrays)
    if instruction.opcode.endswith("-start"):  # operands, results and perhaps a context in one tuple
        results = results[len(operands) : 2 * len(operands)] or results
    larger = max(results, operands, key=_total)
    return Collective(
        kind="reduce-scatter" if scattered and kind == "all-reduce" else kind,
        shape=", ".join(f"{array.dtype}[{','.join(map(str, array.dims))}]" for array in larger),
        bytes=_total(larger),
        group=_group(instruction.attributes, devices) if kind != "collective-permute" else 2,
        times=times,
        source=_source(instruction.attributes),
    )


def _total(arrays: Iterable[hlo.Array]) -> int:
    return sum(array.bytes for array in arrays)


def _group(attributes: str, devices: int) -> int:
    """Devices of one group, from any of the forms that compilers print."""
    listed = re.search(r"replica_groups=\{\{([\d,]+)\}", attributes)
    if listed:
        return listed.group(1).count(",") + 1
    counted = re.search(r"replica_groups=\[([\d,]+)\]<=", attributes)
    if counted:
        return int(counted.group(1).split(",")[-1])
    named = re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", attributes)
    if named:
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", named.group(1))}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", named.group(2))
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    return devices


def _source(attributes: str) -> str:
    found = re.search(r'op_name="([^"]*)"', attributes)
    return found.group(1) if found else ""


def by_kind(collectives: Iterable[Collective]) -> dict[str, dict[str, float]]:
    """Per kind: ``count`` (how often one runs), ``bytes`` (times trip count), ``sent`` on one device's links."""
    table: dict[str, dict[str, float]] = {}
    for one in collectives:
        row = table.setdefault(one.kind, {"count": 0, "bytes": 0, "sent": 0.0})
        row["count"] += one.times
        row["bytes"] += one.times * one.bytes
        row["sent"] += one.sent
    return {kind: table[kind] for kind in KINDS if kind in table}


def largest(collectives: Iterable[Collective], count: int) -> list[Collective]:
    """Those that send most, equal ones (shape and source) added up."""
    merged: dict[tuple, Collective] = {}
    for one in collectives:
        key = (one.kind, one.shape, one.group, one.source)
        times = one.times + (merged[key].times if key in merged else 0)
        merged[key] = dataclasses.replace(one, times=times)
    return sorted(merged.values(), key=lambda one: -one.sent)[:count]
