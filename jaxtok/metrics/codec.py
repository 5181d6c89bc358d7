"""The judges of a codec of sound by name, as ``jaxtok evaluate`` asks them, and how their numbers are summed up.

A judge sees each recording alone (its samples, its pitch, the words in it), so that an original is seen once however
many models there are, and then compares what it saw. The protocols stand in the docstrings of the functions.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.data import audio as sound
from jaxtok.metrics import audio, pitch, recognition, speaker, speech
from jaxtok.metrics.judge import Unjudged, package, pair
from jaxtok.signal import windows
from jaxtok.signal.mel import MelFrontEnd

Value = float | tuple[float, float]  # a number, or numerator and denominator of a rate
_MEL = MelFrontEnd()


@dataclasses.dataclass(frozen=True)
class Row:
    """A number's line in the table: its title with unit, and what is better, "lower" or "higher"."""

    title: str
    better: str
    digits: int = 3


@dataclasses.dataclass(frozen=True)
class Judge:
    """What gives one or more rows.

    Attributes:
      rows: by name.
      see: from samples and rate of one recording to what is compared.
      compare: from what was seen of the original and of the reconstruction, and the transcript, to values by row.
      alone: from what was seen of a recording, and the transcript, to values by row; None where it means nothing.
      reads: whether it needs a transcript, in English.
      packages: that it needs, by the names of their distributions.
      check: raises ImportError in one sentence where one is missing.
    """

    rows: Mapping[str, Row]
    see: Callable[[Any, int], Any]
    compare: Callable[[Any, Any, str], Mapping[str, Value]]
    alone: Callable[[Any, str], Mapping[str, Value]] | None = None
    reads: bool = False
    packages: tuple[str, ...] = ()
    check: Callable[[], Any] = lambda: None


def _plain(rate: int) -> Callable[[Any, int], np.ndarray]:
    """Samples at ``rate`` with their level; silence cannot be judged."""

    def see(wave: Any, given: int) -> np.ndarray:
        wave = sound.resample(sound.mono(wave, "audio"), given, rate)
        if not wave.any():
            raise Unjudged("it is silent")
        return wave

    return see


def _distance(name: str, measure: Callable[..., jax.Array], least: int) -> Callable[..., Mapping[str, Value]]:
    """Of two recordings by a function of rows and mask, padded to few lengths so that few programs are compiled."""
    jitted = jax.jit(measure)

    def compare(original: np.ndarray, estimate: np.ndarray, text: str) -> Mapping[str, Value]:
        del text
        a, b = pair(original, estimate)
        if len(a) < least:
            raise Unjudged(f"it is shorter than {least} samples")
        size = windows.padded(len(a), 1 << 30, smallest=1 << 14)
        rows = [np.pad(x, (0, size - len(x)))[None] for x in (a, b)]
        return {name: float(jitted(*rows, (np.arange(size) < len(a))[None])[0])}

    return compare


def _mel_distance(x: jax.Array, y: jax.Array, mask: jax.Array) -> jax.Array:
    lengths = mask.sum(1)
    mels = [_MEL(rows, lengths=lengths) for rows in (x, y)]
    frames = jnp.arange(mels[0].shape[1]) < (lengths // _MEL.hop)[:, None]
    return audio.mel_distance(*mels, frames, frontend=_MEL)


def _filtered(original: np.ndarray, estimate: np.ndarray) -> float:
    a, b = (jnp.asarray(x)[None] for x in pair(original, estimate))
    return float(audio.ci_sdr(a, b)[0])


def _judge_speech(name: str, measure: Callable[[Any, Any, int], float]) -> Callable[..., Mapping[str, Value]]:
    return lambda original, estimate, text: {name: measure(original, estimate, speech.RATE)}


def _error_rate(found: list[str], text: str) -> Mapping[str, Value]:
    words = recognition.words_of(text)
    return {"word_error_rate": (recognition.edits(words, found), len(words))}


def _opinion(seen: Mapping[str, float], text: str) -> Mapping[str, Value]:
    del text
    return {f"dnsmos_{name}": value for name, value in seen.items()}


_SPEECH = _plain(speech.RATE)

JUDGES: dict[str, Judge] = {
    "mel_distance": Judge(
        {"mel_distance": Row("mel distance below 8 kHz, nats", "lower")},
        _plain(_MEL.sample_rate), _distance("mel_distance", _mel_distance, _MEL.n_fft),
    ),
    "multi_scale_mel": Judge(
        {"multi_scale_mel": Row("multi-scale mel distance, 16 kHz", "lower")},
        _SPEECH, _distance("multi_scale_mel", audio.multi_scale_mel_distance, 1025),
    ),
    "stft_distance": Judge(
        {"stft_distance": Row("STFT distance, 16 kHz", "lower")},
        _SPEECH, _distance("stft_distance", audio.stft_distance, audio.RESOLUTIONS[0]),
    ),
    "si_sdr": Judge(
        {"si_sdr": Row("SI-SDR, dB", "higher", 2)}, _SPEECH, _distance("si_sdr", audio.si_sdr, 1),
    ),
    "sdr": Judge({"sdr": Row("SDR, dB", "higher", 2)}, _SPEECH, _distance("sdr", audio.sdr, 1)),
    "ci_sdr": Judge(
        {"ci_sdr": Row("CI-SDR, 512 taps, dB", "higher", 2)},
        _SPEECH, lambda original, estimate, text: {"ci_sdr": _filtered(original, estimate)},
    ),
    "pesq": Judge(
        {"pesq": Row("PESQ, wideband", "higher", 2)}, _SPEECH, _judge_speech("pesq", speech.pesq),
        packages=("pesq",), check=functools.partial(package, "pesq", "PESQ"),
    ),
    "stoi": Judge(
        {"stoi": Row("STOI", "higher")}, _SPEECH, _judge_speech("stoi", speech.stoi),
        packages=("pystoi",), check=functools.partial(package, "pystoi", "STOI"),
    ),
    "dnsmos": Judge(
        {
            "dnsmos_overall": Row("DNSMOS P.835 overall", "higher", 2),
            "dnsmos_signal": Row("DNSMOS P.835 signal", "higher", 2),
            "dnsmos_background": Row("DNSMOS P.835 background", "higher", 2),
            "dnsmos_p808": Row("DNSMOS P.808", "higher", 2),
        },
        speech.dnsmos, lambda original, estimate, text: _opinion(estimate, text), alone=_opinion,
        packages=("speechmos", "onnxruntime", "librosa"),
        check=functools.partial(package, "speechmos.dnsmos", "DNSMOS"),
    ),
    "speaker_similarity": Judge(
        {"speaker_similarity": Row("speaker similarity (GE2E), cosine", "higher")},
        speaker.embedding, lambda original, estimate, text: {"speaker_similarity": speaker.cosine(original, estimate)},
        packages=("resemblyzer", "webrtcvad-wheels"), check=speaker.check,
    ),
    "word_error_rate": Judge(
        {"word_error_rate": Row("word error rate (pocketsphinx, English)", "lower")},
        recognition.recognise, lambda original, estimate, text: _error_rate(estimate, text), alone=_error_rate,
        reads=True, packages=("pocketsphinx",),
        check=functools.partial(package, "pocketsphinx", "word error rate"),
    ),
    "pitch_error": Judge(
        {"pitch_error": Row("pitch error where both are voiced, cents", "lower", 1)},
        pitch.track, lambda original, estimate, text: {"pitch_error": pitch.cents(original, estimate)},
        packages=("librosa",), check=functools.partial(package, "librosa", "pitch error"),
    ),
    "voicing_error": Judge(
        {"voicing_error": Row("voicing error, share of frames", "lower")},
        pitch.track, lambda original, estimate, text: {"voicing_error": pitch.voicing(original, estimate)},
        packages=("librosa",), check=functools.partial(package, "librosa", "voicing error"),
    ),
}  # fmt: skip


def chosen(names: Sequence[str]) -> tuple[dict[str, Judge], dict[str, str]]:
    """The judges of these names, and why the others that were meant cannot judge.

    Args:
      names: of JUDGES; empty for all whose packages are installed.

    Raises:
      ValueError: for a name that there is not.
      ImportError: when a judge that was named lacks a package.
    """
    for name in names:
        if name not in JUDGES:
            raise ValueError(f"--metrics: no metric named {name!r}, known: {', '.join(JUDGES)}")
    found, absent = {}, {}
    for name in names or JUDGES:
        try:
            JUDGES[name].check()
            found[name] = JUDGES[name]
        except ImportError as error:
            if names:
                raise
            absent[name] = str(error)
    return found, absent


@dataclasses.dataclass(frozen=True)
class Summary:
    """Of one number over recordings: ``mean`` (None of none), its standard ``error`` (None below two), and how many."""

    mean: float | None
    error: float | None
    judged: int
    failed: int


def summary(values: Sequence[Value], failed: int = 0) -> Summary:
    """The mean and its standard error; of rates, all numerators over all denominators (with its linearised error).

    Rates are what word error rates are: edits over words. With equal denominators both are the plain ones.

    Args:
      values: a number per recording, or a pair.
      failed: recordings without a number.
    """
    if not values:
        return Summary(None, None, 0, failed)
    pairs = np.asarray([value if isinstance(value, tuple) else (value, 1.0) for value in values], np.float64)
    total, count = pairs[:, 1].sum(), len(pairs)
    mean = pairs[:, 0].sum() / total
    rest = pairs[:, 0] - mean * pairs[:, 1]
    error = float(np.sqrt((rest**2).sum() * count / (count - 1)) / total) if count > 1 else None
    return Summary(float(mean), error, count, failed)
