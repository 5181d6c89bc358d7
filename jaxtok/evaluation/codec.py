"""How good codecs of sound are: what ``jaxtok evaluate --input`` does with models of speech and of waveforms.

One protocol (that of the benchmark "Discrete Audio Tokens", arXiv 2506.10274): every recording goes through tokens and
back, the judges of :mod:`jaxtok.metrics.codec` compare it with its reconstruction, and one table shows for each model
what the tokens cost (tokens and bits a second) beside what they keep. A recording that a judge has no number for counts
as failed, with the reason; nothing else is put in its place.
"""

import dataclasses
import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtok.data.recordings import Recording
from jaxtok.evaluation import codec_runs
from jaxtok.evaluation.codec_runs import Model
from jaxtok.metrics import codec
from jaxtok.metrics.judge import Unjudged
from jaxtok.models.speech import SpeechModel

TOGETHER = 8  # recordings that go through a model at once


@dataclasses.dataclass
class _Scores:
    """Of one model, or of the originals: values and failures by row, each with the recording's position."""

    values: dict[str, dict[int, codec.Value]]
    failures: dict[str, dict[int, str]]

    @classmethod
    def of(cls, judges: Mapping[str, codec.Judge]) -> "_Scores":
        rows = [row for judge in judges.values() for row in judge.rows]
        return cls({row: {} for row in rows}, {row: {} for row in rows})

    def add_all(
        self, judges: Mapping[str, codec.Judge], first: int, recordings: Sequence[Recording],
        seen: Sequence[Any], found: Sequence[Any] | None = None,
    ) -> None:  # fmt: skip
        """What the judges say of recordings from the position ``first`` on, by what they saw."""
        for i, recording in enumerate(recordings):
            for judge in judges.values():
                if found is not None or judge.alone is not None:
                    self.add(judge, first + i, recording, seen[i], found and found[i])

    def add(self, judge: codec.Judge, position: int, recording: Recording, seen: Any, found: Any = None) -> None:
        """What a judge says of an original (by what it saw of it) beside a reconstruction, or of the original alone."""
        if judge.reads and not _english(recording):
            return
        try:
            text, original = recording.text or "", _good(judge, seen, "the recording")
            if found is None:
                answers = judge.alone(original, text) if judge.alone else {}
            else:
                answers = judge.compare(original, _good(judge, found, "the reconstruction"), text)
        except Unjudged as error:
            for row in judge.rows:
                self.failures[row][position] = str(error)
            return
        for row, value in answers.items():
            self.values[row][position] = value


def measure(
    models: Mapping[str, Model], recordings: Sequence[Recording], judges: Mapping[str, codec.Judge], *,
    absent: Mapping[str, str] | None = None, settings: Mapping[str, Any] | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Puts recordings through models and asks the judges.

    Args:
      models: by name.
      recordings: in the order of the results.
      judges: by name, see :func:`jaxtok.metrics.codec.chosen`.
      absent: judges that were not asked, and why.
      settings: of models that sample, such as ``steps`` and ``guidance``.
      seed: of their noise; each recording has a key of its own, by its position.

    Returns:
      Plain numbers: ``recordings``, ``seconds``, ``rows``, ``models`` (each with ``codec`` and ``scores``),
      ``original`` (scores), ``absent``, ``packages``, ``device``.

    Raises:
      ValueError: when there is no recording or model, when some recordings have transcripts and a model that reads
        text lacks others, or for a recording that cannot be read.
    """
    if not recordings or not models:
        raise ValueError("evaluate: expected at least one model and one recording")
    judges, absent = _applicable(judges, recordings, dict(absent or {}))
    _check_texts(models, recordings)
    keys = jax.random.split(jax.random.key(seed), len(recordings))
    scores = {name: _Scores.of(judges) for name in models}
    original, counts, seconds = _Scores.of(judges), {name: {} for name in models}, []
    for first in range(0, len(recordings), TOGETHER):
        chunk = recordings[first : first + TOGETHER]
        sounds = [recording.read() for recording in chunk]
        seconds += [len(wave) / rate for wave, rate in sounds]
        seen = [_look(judges, *sound) for sound in sounds]
        original.add_all(judges, first, chunk, seen)
        for name, model in models.items():
            part = keys[first : first + len(chunk)]
            again = codec_runs.through(model, sounds, chunk, part, settings or {}, counts[name])
            found = [_look(judges, wave, model.rate) for wave in again]
            scores[name].add_all(judges, first, chunk, seen, found)
    order, packages = np.argsort(seconds), {package for judge in judges.values() for package in judge.packages}
    typical = recordings[int(order[len(order) // 2])]
    return {
        "recordings": [recording.name for recording in recordings],
        "seconds": seconds,
        "rows": {name: dataclasses.asdict(row) for judge in judges.values() for name, row in judge.rows.items()},
        "models": {
            name: {
                "codec": codec_runs.costs(model, counts[name]) | codec_runs.times(model, typical, settings or {}),
                "scores": _summaries(scores[name], recordings),
            }
            for name, model in models.items()
        },
        "original": _summaries(original, recordings),
        "absent": absent,
        "packages": {name: _version(name) for name in sorted(packages)},
        "device": jax.devices()[0].device_kind,
    }


def _applicable(
    judges: Mapping[str, codec.Judge], recordings: Sequence[Recording], absent: dict[str, str]
) -> tuple[dict[str, codec.Judge], dict[str, str]]:
    """Without those that read, where no recording is English or has a transcript."""
    kept = {}
    for name, judge in judges.items():
        if judge.reads and not any(recording.text and _english(recording) for recording in recordings):
            absent[name] = f"{name} needs English recordings with transcripts, found none"
        else:
            kept[name] = judge
    return kept, absent


def _check_texts(models: Mapping[str, Model], recordings: Sequence[Recording]) -> None:
    readers = SpeechModel, codec_runs.Swapped
    reader = next((name for name, model in models.items() if isinstance(model, readers)), None)
    without = [recording.name for recording in recordings if not recording.text]
    if reader and without and len(without) < len(recordings):
        raise ValueError(f"{without[0]}: has no transcript, expected one as others have, for the model {reader}")


def _english(recording: Recording) -> bool:
    """Whether its words are English, or may be."""
    return recording.language.lower().split("-")[0] in ("", "en")


def _look(judges: Mapping[str, codec.Judge], wave: np.ndarray | Unjudged, rate: int) -> dict[Any, Any]:
    """What each judge sees of a recording, by its way of looking; an Unjudged where it cannot."""
    seen = {}
    for judge in judges.values():
        if judge.see not in seen:
            try:
                seen[judge.see] = wave if isinstance(wave, Unjudged) else judge.see(wave, rate)
            except Unjudged as error:
                seen[judge.see] = error
    return seen


def _good(judge: codec.Judge, seen: Mapping[Any, Any], what: str) -> Any:
    if isinstance(seen[judge.see], Unjudged):
        raise Unjudged(f"{what}: {seen[judge.see]}")
    return seen[judge.see]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _summaries(scores: _Scores, recordings: Sequence[Recording]) -> dict[str, Any]:
    """By row: mean, error, judged, failed; the values in order (None where there is none) and the failures by name."""
    found = {}
    for row, values in scores.values.items():
        failures = {recordings[i].name: reason for i, reason in scores.failures[row].items()}
        if values or failures:
            total = codec.summary(list(values.values()), len(failures))
            found[row] = dataclasses.asdict(total) | {
                "values": [values.get(i) for i in range(len(recordings))], "failures": failures,
            }  # fmt: skip
    return found
