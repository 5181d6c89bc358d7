"""Audio files to arrays and back: every reader of sound in the package goes through here."""

import io
import math
import os
from typing import Any

import numpy as np
from etils import epath

from jaxtok.files import write_whole

_MAGIC = {
    b"\x89PNG": "it is a PNG picture",
    b"\xff\xd8\xff": "it is a JPEG picture",
    b"PK\x03\x04": "it is a ZIP archive",
    b"%PDF": "it is a PDF",
    b"RIFF": "a damaged or unsupported WAV",
    b"OggS": "a damaged or unsupported Ogg",
    b"fLaC": "a damaged FLAC",
}


_BLOCK = 1 << 20  # samples per channel that are decoded at once


def decode(data: bytes, name: str) -> tuple[np.ndarray, int]:
    """Decodes the bytes of an audio file (WAV, FLAC, Ogg/Opus, Ogg/Vorbis, MP3) and mixes it to mono.

    Args:
      data: the whole file.
      name: how errors call it.

    Returns:
      float32 [L] mono and its rate in Hz.

    Raises:
      ValueError: in one sentence, when the data are no audio, hold no samples, or hold NaN or Inf.
    """
    import soundfile

    if not data:
        raise ValueError(f"{name}: the file is empty, expected audio")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:  # by blocks, so that many channels are never held at once
            rate = file.samplerate
            blocks = file.blocks(_BLOCK, dtype="float32", always_2d=True)
            parts = [block.mean(axis=1, dtype=np.float32) if np.isfinite(block).all() else None for block in blocks]
    except (soundfile.LibsndfileError, TypeError) as error:
        raise ValueError(f"{name}: not readable as audio ({_kind(data)}), expected WAV, FLAC, Ogg or MP3") from error
    if not parts:
        raise ValueError(f"{name}: holds no samples")
    finite = [part for part in parts if part is not None]
    if len(finite) < len(parts):
        raise ValueError(f"{name}: holds NaN or Inf samples, expected finite ones")
    return np.concatenate(finite), int(rate)


def _kind(data: bytes) -> str:
    """Names what the bytes look like, for an error message."""
    for magic, kind in _MAGIC.items():
        if data.startswith(magic):
            return kind
    return f"it begins with {data[:4]!r}"


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """Reads an audio file, local or remote (``gs://``), and mixes it to mono.

    Returns:
      float32 [L] mono, nominally in [-1, 1], and its rate in Hz.

    Raises:
      ValueError: in one sentence naming the file, when it is missing, a folder, empty, no audio, or not finite.
    """
    file = epath.Path(path)
    if not file.exists():
        raise ValueError(f"{os.fspath(path)}: no such file, expected an audio file")
    if file.is_dir():
        raise ValueError(f"{os.fspath(path)}: is a folder, expected an audio file")
    return decode(file.read_bytes(), os.fspath(path))


def mono(audio: Any, name: str) -> np.ndarray:
    """Checks an array of samples: float32 [L] of floats as they are, or of integers divided by their type's maximum.

    Args:
      audio: [L].
      name: how errors call it.

    Raises:
      ValueError: in one sentence, for other shapes and types, no samples, or NaN or Inf.
    """
    wave: np.ndarray = np.asarray(audio)
    if wave.ndim != 1:
        raise ValueError(f"{name}: expected mono audio [samples], found shape {wave.shape}; mix channels first")
    if wave.size == 0:
        raise ValueError(f"{name}: expected audio, found no samples")
    if np.issubdtype(wave.dtype, np.integer):
        return wave.astype(np.float32) / np.float32(np.iinfo(wave.dtype).max)
    if not np.issubdtype(wave.dtype, np.floating):
        raise ValueError(f"{name}: expected floating-point or integer samples, found {wave.dtype}")
    if not np.isfinite(wave).all():
        raise ValueError(f"{name}: found NaN or Inf among the samples")
    return wave.astype(np.float32)


def resample(audio: np.ndarray, rate: int, target: int) -> np.ndarray:
    """Resamples [L] from ``rate`` to ``target`` Hz with soxr's high quality; the length is ``resampled_length``.

    Raises:
      ValueError: when a rate is not positive or the audio is not one-dimensional.
    """
    import soxr

    if rate <= 0 or target <= 0:
        raise ValueError(f"resample: found rates {rate} and {target} Hz, expected positive ones")
    if audio.ndim != 1:
        raise ValueError(f"resample: found audio of shape {audio.shape}, expected one dimension (mono)")
    if rate == target or audio.size == 0:
        return audio.astype(np.float32, copy=False)
    out = soxr.resample(audio.astype(np.float32, copy=False), rate, target)
    return fit_length(out, resampled_length(len(audio), rate, target))


def resampled_length(length: int, rate: int, target: int) -> int:
    """How many ``length`` samples at ``rate`` become at ``target`` Hz, halves rounded up; at least 1 of any."""
    return max(math.floor(length * target / rate + 0.5), min(length, 1))


def fit_length(audio: np.ndarray, length: int) -> np.ndarray:
    """Cuts or zero-pads [L] at its end to ``length`` samples."""
    return audio[:length] if len(audio) >= length else np.pad(audio, (0, length - len(audio)))


def scale(audio: np.ndarray, peak: float = 0.0) -> np.ndarray:
    """Scales down audio whose peak is over 1; with ``peak`` > 0 brings every peak to that value instead."""
    top = float(np.max(np.abs(audio), initial=0.0))
    if peak > 0.0 and top > 1e-4:
        return audio * np.float32(peak / top)
    return audio / np.float32(top) if top > 1.0 else audio


def write_wav(path: str | os.PathLike[str], audio: Any, rate: int) -> None:
    """Writes [L] as a 16-bit mono WAV; peaks over 1 are scaled down rather than clipped; never leaves half a file.

    Raises:
      ValueError: when the audio is not [L], is empty or not finite, or the rate is not positive.
    """
    import soundfile

    samples = np.asarray(audio, dtype=np.float32)
    if samples.ndim != 1 or samples.size == 0:
        raise ValueError(f"{os.fspath(path)}: found audio of shape {samples.shape} to write, expected [L] with L > 0")
    if not np.isfinite(samples).all():
        raise ValueError(f"{os.fspath(path)}: found NaN or Inf in the audio to write, expected finite samples")
    if rate <= 0:
        raise ValueError(f"{os.fspath(path)}: found rate {rate} Hz to write, expected a positive one")
    buffer = io.BytesIO()
    soundfile.write(buffer, scale(samples), int(rate), format="WAV", subtype="PCM_16")
    write_whole(path, buffer.getvalue())
