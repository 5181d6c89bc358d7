"""``jaxtok data check``: walks a source and names every bad record, without stopping at the first."""

import collections
import dataclasses
from typing import Any

import numpy as np

from jaxtok.data import audio, picture, sources

SHORTEST = 0.1  # seconds
SILENT = 1e-3  # the highest absolute sample of what counts as silent (-60 dB of full scale)
CLIPPED = 0.01  # the share of samples at full scale that counts as clipped


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one record."""

    position: int
    file: str
    kind: str  # unreadable, unnamed, empty transcript, too short, silent, clipped, wrong rate or length, no transcript
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``check`` found: ``str()`` lists every problem, then one line of totals.

    ``seconds`` and files by rate in Hz (``rates``) are of speech, files by (width, height) (``sizes``) of images and
    grids of tokens, or by (length, codes a place) of sequences.
    """

    source: str
    records: int
    problems: tuple[Problem, ...]
    seconds: float = 0.0
    rates: dict[int, int] = dataclasses.field(default_factory=dict)
    sizes: dict[tuple[int, int], int] = dataclasses.field(default_factory=dict)
    kind: str = "utterances"

    @property
    def bad(self) -> int:
        """The number of files with a problem."""
        return len({problem.file for problem in self.problems})

    def __str__(self) -> str:
        if self.kind != "utterances":
            common = collections.Counter(self.sizes).most_common(3)
            facts = ", ".join(f"{count} of {width}x{height}" for (width, height), count in common)
            total = f"{self.source}: {self.records} {self.kind}, {self.bad} bad"
        else:
            facts = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(self.rates.items()))
            total = f"{self.source}: {self.records} records, {self.seconds / 3600:.2f} h, {self.bad} bad"
        return "\n".join([*(str(problem) for problem in self.problems), f"{total} ({facts or 'none readable'})"])


def check(source: str, *, rate: int = 0) -> Report:
    """Walks a source (``sources.open_source``) and names every bad record.

    Args:
      source: as in a config, such as ``folder:/data/mine``.
      rate: the expected rate of speech in Hz; 0 takes the rate of most files, and names the others.

    Raises:
      ValueError: when the source as a whole cannot be opened.
    """
    opened = sources.open_source(source)
    kinds = {"images": examine_image, "token grids": examine_tokens, "token sequences": examine_tokens}
    examine = kinds.get(opened.index.kind)
    return _pictures(opened, examine) if examine else _utterances(opened, rate)


def _pictures(opened: sources.Source, examine: Any) -> Report:
    problems: list[Problem] = []
    sizes: collections.Counter[tuple[int, int]] = collections.Counter()
    for position in range(len(opened.index)):
        found, size = examine(opened, position)
        problems += found
        sizes.update([size] if size else [])
    problems += _unnamed(opened, "unnamed")
    return Report(opened.name, len(opened.index), tuple(problems), sizes=dict(sizes), kind=opened.index.kind)


def examine_image(source: sources.Source, position: int) -> tuple[list[Problem], tuple[int, int] | None]:
    """Everything wrong with one image by itself, and its width and height (None: unreadable)."""
    file = source.index.file[position]
    try:
        pixels = picture.decode(source.record(position).image, file)
    except ValueError as error:
        return [Problem(position, file, "unreadable", str(error).removeprefix(f"{file}: "))], None
    return [], (pixels.shape[1], pixels.shape[0])


def examine_tokens(source: sources.Source, position: int) -> tuple[list[Problem], tuple[int, int] | None]:
    """Everything wrong with one grid or sequence of tokens, and its width and height or its length and codes a place.

    The size is None for what cannot be read.
    """
    file = source.index.file[position]
    try:
        shape = source.record(position).tokens.shape
    except ValueError as error:
        return [Problem(position, file, "unreadable", str(error))], None
    return [], (shape[0], shape[1]) if len(shape) == 2 else (shape[2], shape[1])


def _unnamed(opened: Any, kind: str) -> list[Problem]:
    """The files of a folder that its TSV does not name."""
    described = isinstance(opened, sources.FolderSource) or getattr(opened, "described", False)
    files = opened.unnamed() if described else []
    return [Problem(-1, file, kind, "the TSV does not name it") for file in files]


def _utterances(opened: sources.Source, rate: int) -> Report:
    problems: list[Problem] = []
    rates: dict[int, int] = {}
    total = 0.0
    for position in range(len(opened.index)):
        found, length, found_rate = examine_utterance(opened, position)
        problems += found
        total += length
        if found_rate:
            rates[position] = found_rate
    counts = collections.Counter(rates.values())
    expected = rate or (counts.most_common(1)[0][0] if counts else 0)
    for position, found_rate in rates.items():
        if found_rate != expected:
            detail = f"{found_rate} Hz, expected {expected} Hz"
            problems.append(Problem(position, opened.index.file[position], "wrong rate", detail))
    problems.sort(key=lambda problem: problem.position)
    problems += _unnamed(opened, "no transcript")
    return Report(opened.name, len(opened.index), tuple(problems), total, dict(counts))


def examine_utterance(source: sources.Source, position: int) -> tuple[list[Problem], float, int]:
    """Everything wrong with one record by itself, its exact length in seconds, and its rate in Hz (0: unreadable)."""
    file = source.index.file[position]

    def problem(kind: str, detail: str) -> Problem:
        return Problem(position, file, kind, detail)

    found = []
    if source.index.words[position] == 0:
        found.append(problem("empty transcript", "the text has no word"))
    try:
        samples, rate = audio.decode(source.record(position).audio, file)
    except ValueError as error:
        return [problem("unreadable", str(error).removeprefix(f"{file}: ")), *found], 0.0, 0
    length, size = len(samples) / rate, np.abs(samples)
    if length < SHORTEST:
        found.append(problem("too short", f"{length:.3f} s, expected at least {SHORTEST} s"))
    if size.max() < SILENT:
        found.append(problem("silent", f"the highest sample is {size.max():.1e}, expected at least {SILENT}"))
    if (share := float((size >= 0.999).mean())) > CLIPPED:
        found.append(problem("clipped", f"{share:.1%} of the samples are at full scale, expected up to {CLIPPED:.0%}"))
    stated = float(source.index.seconds[position])
    if stated > 0 and abs(stated - length) > 0.02:
        found.append(problem("wrong length", f"{length:.3f} s, but the index states {stated:.3f} s"))
    return found, length, rate
