"""Reads the text of a compiled program (HLO): computations, instructions, and how often each of them runs.

Pure text, so that it serves what any compiler prints. The loops of a program are followed with their trip counts, which
the compiler states (CPU) or which stand in the loop's condition (TPU).
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

# Bytes of one element; what is not named has the digits of its name in bits (f32, s8, bf16, u64, c64).
_WIDTHS: Mapping[str, float] = {"pred": 1, "s4": 0.5, "u4": 0.5, "s2": 0.25, "u2": 0.25, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\](\{[^{}]*\})?")
_CALLED = re.compile(r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of a type: ``dims`` on one device, ``bytes`` without padding, ``fast`` when it lies on chip (VMEM)."""

    dtype: str
    dims: tuple[int, ...]
    fast: bool

    @property
    def bytes(self) -> int:
        """Elements times their width."""
        width = _WIDTHS.get(self.dtype)
        if width is None:
            digits = re.search(r"\d+", self.dtype)
            width = int(digits.group()) / 8 if digits else 0
        return math.ceil(math.prod(self.dims) * width)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """``name = arrays opcode(operands), attributes``; a tuple's arrays stand in order."""

    name: str
    opcode: str
    arrays: tuple[Array, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        """Of all results."""
        return sum(array.bytes for array in self.arrays)

    @property
    def called(self) -> tuple[str, ...]:
        """Names of the computations that it calls."""
        branches = [name for group in _BRANCHES.findall(self.attributes) for name in re.findall(r"[\w.-]+", group)]
        return (*_CALLED.findall(self.attributes), *branches)

    def attribute(self, name: str) -> str:
        """A computation's name or a number among the attributes; "" when there is none."""
        found = re.search(rf"\b{name}=%?([\w.-]+)", self.attributes)
        return found.group(1) if found else ""


Computation = Mapping[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """Computations by name, each a mapping of instructions by name, and which one the program begins with."""

    computations: Mapping[str, Computation]
    entry: str


@dataclasses.dataclass(frozen=True)
class Visit:
    """An instruction of the program proper (not inside a fusion), and how often it runs; 0 is never, 1 once.

    ``known`` is False inside a loop whose trip count is not known: there one pass is counted.
    """

    instruction: Instruction
    computation: str
    times: int
    known: bool


def parse(text: str) -> Module:
    """The module of ``compiled.as_text()``.

    Raises:
      ValueError: when the text has no entry computation.
    """
    computations: dict[str, dict[str, Instruction]] = {}
    entry, inside = "", None
    for line in text.splitlines():
        if line.startswith("}"):
            inside = None
        elif inside is None and line.endswith("{") and " -> " in line:
            name = re.match(r"(ENTRY )?%?([\w.-]+)", line)
            if name:
                inside = computations.setdefault(name.group(2), {})
                entry = name.group(2) if name.group(1) else entry
        elif inside is not None and " = " in line:
            instruction = _instruction(line)
            inside[instruction.name] = instruction
    if not entry:
        raise ValueError("compiled program: expected HLO text with an ENTRY computation, found none")
    return Module(computations, entry)


def _instruction(line: str) -> Instruction:
    left, right = line.strip().split(" = ", 1)
    end = _closing(right, 0) if right.startswith("(") else right.index(" ")
    kind, rest = right[:end], right[end:].lstrip()
    opening = rest.index("(")
    closing = _closing(rest, opening)
    inner = rest[opening + 1 : closing - 1]
    return Instruction(
        name=left.removeprefix("ROOT ").lstrip("%"),
        opcode=rest[:opening],
        arrays=tuple(_array(*found) for found in _ARRAY.findall(kind)),
        operands=tuple(re.findall(r"%([\w.-]+)", inner)),
        literal=inner,
        attributes=rest[closing:],
        root=left.startswith("ROOT "),
    )


def _array(dtype: str, dims: str, layout: str) -> Array:
    sizes = tuple(int(size) for size in dims.split(",") if size)
    # Memory space 0 (not written) is the device's main memory; a TPU's S(1) is its vector memory, others hold scalars.
    return Array(dtype, sizes, re.search(r"S\([1-46-9]\)", layout) is not None)


def _closing(text: str, start: int) -> int:
    """The place after the parenthesis that closes the one at ``start``."""
    depth = 0
    for place in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    raise ValueError(f"compiled program: a parenthesis is not closed in {text[:80]!r}")


def visits(module: Module) -> Iterator[Visit]:
    """Every instruction that runs, outside fusions, with the product of the trip counts of the loops around it."""
    stack = [(module.entry, 1, True)]
    while stack:
        name, times, known = stack.pop()
        computation = module.computations[name]
        for instruction in computation.values():
            yield Visit(instruction, name, times, known)
            if instruction.opcode == "while":
                count = trip_count(module, computation, instruction)
                stack.append((instruction.attribute("body"), times * (count or 1), known and count is not None))
            elif instruction.opcode in ("call", "conditional", "async-start"):
                stack += [(called, times, known) for called in instruction.called]


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """How often a while loop's body runs; None when the text does not tell."""
    stated = re.search(r'known_trip_count"?\s*[:=]\s*\{\s*"?n"?\s*[:=]\s*"?(\d+)', loop.attributes)
    if stated:
        return int(stated.group(1))
    condition = module.computations[loop.attribute("condition")]
    compare = next((found for found in condition.values() if found.root), None)
    names = {name: name for name in condition}
    if compare is not None and compare.opcode == "fusion":  # the comparison stands inside; its parameters are operands
        inner = module.computations[compare.called[0]]
        names = {
            item.name: compare.operands[int(item.literal)] for item in inner.values() if item.opcode == "parameter"
        }
        condition = {**condition, **inner}
        compare = next((found for found in inner.values() if found.root), None)
    if compare is None or compare.opcode != "compare" or compare.attribute("direction") not in ("LT", "LE"):
        return None
    counter, bound = (condition.get(names.get(name, name)) for name in compare.operands)
    if counter is None or bound is None or counter.opcode != "get-tuple-element" or bound.opcode != "constant":
        return None
    first = _initial(computation, loop, int(counter.attribute("index")))
    count = int(bound.literal) - (first or 0) + (compare.attribute("direction") == "LE")
    return max(count, 0)


def _initial(computation: Computation, loop: Instruction, index: int) -> int | None:
    """The constant that a loop's counter starts from."""
    found = computation.get(loop.operands[0])
    if found is not None and found.opcode == "tuple":
        found = computation.get(found.operands[index])
    while found is not None and found.opcode in ("copy", "bitcast", "convert"):
        found = computation.get(found.operands[0])
    return int(found.literal) if found is not None and re.fullmatch(r"-?\d+", found.literal or "") else None
