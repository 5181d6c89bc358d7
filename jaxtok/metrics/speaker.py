"""Whether a reconstruction keeps the voice: cosine of speaker embeddings by the GE2E encoder of Resemblyzer.

The encoder (Wan et al., "Generalized end-to-end loss for speaker verification", arXiv 1710.10467; three LSTM layers of
width 256) is computed here with numpy from the weights in the package resemblyzer, which is never imported, so that
neither PyTorch nor the packages that it asks for are needed.
"""

import functools
import pathlib
from typing import Any

import numpy as np

from jaxtok import torch_file
from jaxtok.metrics.judge import Unjudged, folder, heard, package
from jaxtok.signal.mel import mel_filters

RATE = 16000
INSTALL = "pip install 'jaxtok[eval]' && pip install --no-deps resemblyzer"
_LOUDNESS = -30.0  # dBFS
_VAD, _SMOOTH, _LONGEST = 480, 8, 6  # samples a decision; decisions averaged; decisions of silence that are kept
_N_FFT, _HOP, _BANDS = 400, 160, 40
_FRAMES, _PER_SECOND, _COVERAGE = 160, 1.3, 0.75  # of a partial utterance
_LAYERS = 3


def embedding(audio: Any, rate: int) -> np.ndarray:
    """The voice of a recording, a unit vector float32 [256] without negative entries.

    Protocol, Resemblyzer's: resampled to 16 kHz (here by soxr), raised to -30 dBFS where it is quieter, silences
    longer than 0.2 s cut out by WebRTC's voice activity detector (mode 3, 30 ms), mel energies in 40 bands (25 ms every
    10 ms), embeddings of stretches of 1.6 s, 1.3 a second, averaged. A recording in which the detector finds no voice
    has no embedding.

    Args:
      audio: [samples].
      rate: in Hz.

    Raises:
      Unjudged: when it is silent or holds no voice.
      ImportError: when the weights or the detector are missing, with the way to install them.
    """
    weights = _weights()
    wave = voiced(louder(heard(audio, rate, RATE)))
    if not len(wave):
        raise Unjudged("no voice is found in it")
    starts = partials(len(wave))
    wave = np.pad(wave, (0, max(0, (starts[-1] + _FRAMES) * _HOP - len(wave))))
    mel = _mel(wave)
    parts = encode(weights, np.stack([mel[start : start + _FRAMES] for start in starts]))
    mean = parts.mean(0)
    return mean / np.linalg.norm(mean)


def check() -> None:
    """Raises ImportError, in one sentence, where the weights or the detector are missing."""
    package("webrtcvad", "speaker similarity", install=INSTALL)
    _file()


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two embeddings: 1 for the same voice; different voices of one sex reach about 0.8."""
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def louder(wave: np.ndarray) -> np.ndarray:
    """Raised to -30 dBFS where it is quieter."""
    level = 10 * np.log10(np.mean(np.square(wave, dtype=np.float64)))
    return wave * np.float32(10 ** (max(0.0, _LOUDNESS - level) / 20))


def voiced(wave: np.ndarray) -> np.ndarray:
    """Without silences longer than about 0.2 s; cut to whole decisions of 30 ms."""
    detector = package("webrtcvad", "speaker similarity", install=INSTALL).Vad(3)
    wave = wave[: len(wave) // _VAD * _VAD]
    pcm = np.clip(np.rint(wave * 32767), -32768, 32767).astype(np.int16).reshape(-1, _VAD)
    if not len(pcm):
        return wave
    flags = [detector.is_speech(piece.tobytes(), RATE) for piece in pcm]
    padded = np.concatenate([np.zeros((_SMOOTH - 1) // 2), flags, np.zeros(_SMOOTH // 2)])
    share = np.convolve(padded, np.ones(_SMOOTH), "valid") / _SMOOTH
    near = np.convolve(np.rint(share), np.ones(_LONGEST + 1))[_LONGEST // 2 :][: len(flags)]
    return wave[np.repeat(near > 0.5, _VAD)]


def partials(samples: int) -> list[int]:
    """First frames of the stretches that are embedded; the last one where at least 3/4 of it are there."""
    frames = -(-(samples + 1) // _HOP)
    step = round(RATE / _PER_SECOND / _HOP)
    starts = list(range(0, max(1, frames - _FRAMES + step + 1), step))
    covered = (samples - starts[-1] * _HOP) / (_FRAMES * _HOP)
    return starts[:-1] if covered < _COVERAGE and len(starts) > 1 else starts


def encode(weights: dict[str, np.ndarray], mel: np.ndarray) -> np.ndarray:
    """Unit vectors float32 [N, 256] of mel energies [N, T, 40]: relu of a projection of the last layer's last output.

    Args:
      weights: by PyTorch's names; gates in the order input, forget, cell, output.
      mel: of stretches of equal length.
    """
    x = mel
    for layer in range(_LAYERS):
        kernel, recurrent = (weights[f"lstm.weight_{part}_l{layer}"].T for part in ("ih", "hh"))
        bias = weights[f"lstm.bias_ih_l{layer}"] + weights[f"lstm.bias_hh_l{layer}"]
        entering, outputs = x @ kernel + bias, []
        output = cell = np.zeros((len(x), len(recurrent)), np.float32)
        for t in range(x.shape[1]):
            enter, forget, new, leave = np.split(entering[:, t] + output @ recurrent, 4, axis=-1)
            cell = _sigmoid(forget) * cell + _sigmoid(enter) * np.tanh(new)
            output = _sigmoid(leave) * np.tanh(cell)
            outputs.append(output)
        x = np.stack(outputs, axis=1)
    found = np.maximum(x[:, -1] @ weights["linear.weight"].T + weights["linear.bias"], 0)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _mel(wave: np.ndarray) -> np.ndarray:
    """Mel energies [1 + L // hop, 40]: power spectra about multiples of the hop, zeros outside, slaney's filters."""
    padded = np.pad(wave, _N_FFT // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, _N_FFT)[::_HOP]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(_N_FFT) / _N_FFT)
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    return (power @ mel_filters(_N_FFT, RATE, _BANDS, 0.0, RATE / 2)).astype(np.float32)


@functools.lru_cache(maxsize=1)
def _weights() -> dict[str, np.ndarray]:
    file = _file()
    return torch_file.read(file.read_bytes(), str(file))["model_state"]


def _file() -> pathlib.Path:
    file = folder("resemblyzer", "speaker similarity", install=INSTALL) / "pretrained.pt"
    if not file.is_file():
        raise ImportError(f"speaker similarity needs the weights {file}, found no such file; {INSTALL}")
    return file
