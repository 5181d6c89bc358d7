"""How long a program takes at least on a chip, by a roofline that is stated with each number.

time = max(FLOPs / peak, bytes of main memory / its speed, bytes sent / speed of the links), each per chip: all three
at full speed and at the same time. Real programs are slower; the number compares designs.
"""

import dataclasses

from jaxtok.train import hlo
from jaxtok.train.topology import Chip

# These move no data of their own; the results of the asynchronous ones are counted where they start.
_FREE = frozenset(
    ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all",
     "partition-id", "replica-id", "iota", "opt-barrier", "async-start", "async-update", "async-done")
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds at least, of each resource; ``bound`` names the one that takes longest."""

    compute: float
    memory: float
    links: float

    @property
    def seconds(self) -> float:
        """The roofline."""
        return max(self.compute, self.memory, self.links)

    @property
    def bound(self) -> str:
        """compute, memory or links."""
        return max(("compute", "memory", "links"), key=lambda name: getattr(self, name))


def time(chip: Chip, *, flops: float, traffic: float, sent: float) -> Time:
    """The roofline of one call, from what one chip computes, moves and sends."""
    return Time(flops / chip.flops, traffic / chip.hbm_speed, sent / chip.link_speed)


def traffic(module: hlo.Module) -> float:
    """Bytes that one device moves to and from main memory in one call, loops counted; an estimate from the text.

    Every instruction outside fusions reads its operands and writes its results once; what lies on chip is free. Of a
    slice only the slice is read, of an update in place only the update is written.
    """
    total = 0.0
    for visit in hlo.visits(module):
        instruction, scope = visit.instruction, module.computations[visit.computation]
        if instruction.opcode in _FREE or instruction.opcode.endswith("-done"):
            continue
        total += visit.times * (_read(module, scope, instruction) + _written(module, scope, instruction))
    return total


def _read(module: hlo.Module, scope: hlo.Computation, instruction: hlo.Instruction) -> int:
    """Bytes of main memory that an instruction reads; an operand given twice is read once."""
    total = 0
    for place, name in enumerate(instruction.operands):
        operand = scope.get(name)
        if operand is None or name in instruction.operands[:place] or operand.opcode in ("tuple", "constant"):
            continue
        whole = sum(array.bytes for array in operand.arrays if not array.fast)
        total += min(whole, _used(module, scope, instruction, place, whole))
    return total


def _used(module: hlo.Module, scope: hlo.Computation, user: hlo.Instruction, place: int, whole: int) -> int:
    """How much of operand ``place`` of ``user`` it reads."""
    if place == 0 and user.opcode in ("dynamic-slice", "slice", "gather"):
        return user.bytes
    if place == 0 and user.opcode in ("dynamic-update-slice", "scatter"):
        return 0
    if user.opcode != "fusion":
        return whole
    inner = module.computations[user.called[0]]
    parameter = next((x for x in inner.values() if x.opcode == "parameter" and x.literal == str(place)), None)
    return min(whole, _uses(module, inner, parameter.name, whole)) if parameter else whole


def _uses(module: hlo.Module, scope: hlo.Computation, name: str, whole: int) -> int:
    total = 0
    for user in scope.values():
        for place in (place for place, operand in enumerate(user.operands) if operand == name):
            if user.opcode in ("bitcast", "get-tuple-element"):
                total += _uses(module, scope, user.name, whole)
            elif not (user.opcode == "tuple" and user.root):  # handed through, not read
                total += _used(module, scope, user, place, whole)
            if total >= whole:
                return whole
    return total


def _written(module: hlo.Module, scope: hlo.Computation, instruction: hlo.Instruction) -> int:
    """Bytes of main memory that an instruction writes."""
    if instruction.opcode.endswith("-start"):  # a tuple of what is read, what is written, and a context
        return sum(array.bytes for array in instruction.arrays[:1] if not array.fast)
    roots, names = [instruction], scope
    if instruction.opcode == "fusion":
        names = module.computations[instruction.called[0]]
        root = next(item for item in names.values() if item.root)
        roots = [names[name] for name in root.operands] if root.opcode == "tuple" else [root]
    arrays = list(instruction.arrays)
    if len(roots) != len(arrays):
        return sum(array.bytes for array in arrays if not array.fast)
    return sum(_new(names, root, array) for root, array in zip(roots, arrays) if not array.fast)


def _new(scope: hlo.Computation, root: hlo.Instruction, array: hlo.Array) -> int:
    while root.opcode == "bitcast" and root.operands[0] in scope:
        root = scope[root.operands[0]]
    if root.opcode == "parameter":  # handed through
        return 0
    if root.opcode == "dynamic-update-slice" and root.operands[1] in scope:
        return min(array.bytes, scope[root.operands[1]].bytes)
    return array.bytes
