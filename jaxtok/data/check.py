"""``jaxtok data check``: walks a source and names every bad record, without stopping at the first."""

import collections
import dataclasses

import numpy as np

from jaxtok.data import audio, sources

SHORTEST = 0.1  # seconds
SILENT = 1e-3  # the highest absolute sample of what counts as silent (-60 dB of full scale)
CLIPPED = 0.01  # the share of samples at full scale that counts as clipped


@dataclasses.dataclass(frozen=True)
class Problem:
    """One thing that is wrong with one record."""

    position: int
    file: str
    kind: str  # unreadable, empty transcript, too short, silent, clipped, wrong rate, wrong length, no transcript
    detail: str

    def __str__(self) -> str:
        return f"{self.file}: {self.kind}: {self.detail}"


@dataclasses.dataclass(frozen=True)
class Report:
    """What ``check`` found: ``str()`` lists every problem, then one line of totals."""

    source: str
    records: int
    seconds: float
    rates: dict[int, int]
    problems: tuple[Problem, ...]

    @property
    def bad(self) -> int:
        """The number of files with a problem."""
        return len({problem.file for problem in self.problems})

    def __str__(self) -> str:
        rates = ", ".join(f"{count} at {rate} Hz" for rate, count in sorted(self.rates.items()))
        total = f"{self.source}: {self.records} records, {self.seconds / 3600:.2f} h, {self.bad} bad"
        return "\n".join([*(str(problem) for problem in self.problems), f"{total} ({rates or 'none readable'})"])


def check(source: str, *, rate: int = 0) -> Report:
    """Walks a source (``sources.open_source``) and names every bad record.

    Args:
      source: as in a config, such as ``folder:/data/mine``.
      rate: the expected rate in Hz; 0 takes the rate of most files, and names the others.

    Raises:
      ValueError: when the source as a whole cannot be opened.
    """
    opened = sources.open_source(source)
    problems: list[Problem] = []
    rates: dict[int, int] = {}
    total = 0.0
    for position in range(len(opened.index)):
        found, length, found_rate = examine(opened, position)
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
    if isinstance(opened, sources.FolderSource):
        problems += [Problem(-1, file, "no transcript", "the TSV does not name it") for file in opened.unnamed()]
    return Report(source, len(opened.index), total, dict(counts), tuple(problems))


def examine(source: sources.Source, position: int) -> tuple[list[Problem], float, int]:
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
