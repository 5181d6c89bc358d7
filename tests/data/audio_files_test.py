import io
import re

import numpy as np
import pytest
import soundfile
from PIL import Image

from jaxtok.data import audio


def test_read_mixes_stereo_to_mono(tmp_path):
    left, right = np.linspace(-0.5, 0.5, 800), np.full(800, 0.25)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    samples, rate = audio.read(tmp_path / "x.wav")
    assert rate == 8000 and samples.dtype == np.float32
    np.testing.assert_allclose(samples, (left + right) / 2, atol=1e-7)


def test_eight_channels_at_192_khz_are_read(tmp_path):
    tone = np.sin(2 * np.pi * 440 * np.arange(192000) / 192000)
    soundfile.write(tmp_path / "x.wav", np.outer(tone, np.arange(8) / 8), 192000, subtype="FLOAT")
    samples, rate = audio.read(tmp_path / "x.wav")
    assert rate == 192000 and samples.shape == (192000,)
    out = audio.resample(samples, rate, 24000)
    wanted = np.sin(2 * np.pi * 440 * np.arange(24000) / 24000) * np.mean(np.arange(8) / 8)
    np.testing.assert_allclose(out[200:-200], wanted[200:-200], atol=2e-3)


def test_files_of_any_length_are_read_block_by_block(tmp_path, monkeypatch):
    waves = np.random.default_rng(0).uniform(-0.5, 0.5, (1000, 3)).astype(np.float32)
    for name, subtype in (("x.wav", "FLOAT"), ("x.ogg", "VORBIS")):
        soundfile.write(tmp_path / name, waves, 16000, subtype=subtype)
        whole, _ = audio.read(tmp_path / name)
        monkeypatch.setattr(audio, "_BLOCK", 300)
        np.testing.assert_array_equal(audio.read(tmp_path / name)[0], whole)
        monkeypatch.undo()
        np.testing.assert_allclose(whole, waves.mean(1), atol=1e-7 if subtype == "FLOAT" else 0.5)


@pytest.mark.parametrize(("rate", "target", "length"), [(16000, 24000, 1601), (44100, 24000, 44100), (48000, 24000, 7)])
def test_resample_keeps_a_tone(rate, target, length):
    out = audio.resample(np.sin(2 * np.pi * 440 * np.arange(length) / rate), rate, target)
    assert out.shape == (audio.resampled_length(length, rate, target),) and out.dtype == np.float32
    wanted = np.sin(2 * np.pi * 440 * np.arange(len(out)) / target)
    np.testing.assert_allclose(out[200:-200], wanted[200:-200], atol=2e-3)


def test_resampled_length_rounds_halves_up():
    assert [audio.resampled_length(n, 16000, 24000) for n in (0, 1, 2, 3)] == [0, 2, 3, 5]
    assert audio.resampled_length(1, 192000, 24000) == 1  # not lost
    assert audio.resample(np.ones(1), 192000, 24000).shape == (1,)


def test_scale_only_scales_down_unless_a_peak_is_asked_for():
    quiet, loud = np.array([0.1, -0.5], np.float32), np.array([0.5, -2.0], np.float32)
    np.testing.assert_array_equal(audio.scale(quiet), quiet)
    np.testing.assert_allclose(audio.scale(loud), [0.25, -1.0])
    np.testing.assert_allclose(audio.scale(quiet, 0.9), [0.18, -0.9], rtol=1e-6)
    np.testing.assert_array_equal(audio.scale(np.zeros(3, np.float32), 0.9), np.zeros(3))


def test_write_wav_round_trip_and_no_leftovers(tmp_path):
    samples = np.sin(np.arange(1000) / 10) * 0.7
    audio.write_wav(tmp_path / "new" / "x.wav", samples, 24000)
    back, rate = audio.read(tmp_path / "new" / "x.wav")
    assert rate == 24000
    np.testing.assert_allclose(back, samples, atol=1 / 32000)
    audio.write_wav(tmp_path / "new" / "x.wav", samples * 3, 24000)
    assert np.abs(audio.read(tmp_path / "new" / "x.wav")[0]).max() <= 1
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.wav"]


def _png(path):
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())


BAD = {
    "missing": (lambda path: None, "no such file"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "empty": (lambda path: path.write_bytes(b""), "is empty"),
    "png": (_png, "it is a PNG picture"),
    "text": (lambda path: path.write_text("hello"), "begins with b'hell'"),
    "nan": (lambda path: soundfile.write(path, np.array([0.0, np.nan]), 8000, subtype="FLOAT"), "NaN or Inf"),
    "none": (lambda path: soundfile.write(path, np.zeros(0), 8000), "no samples"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_get_one_sentence_that_names_them(tmp_path, kind):
    make, message = BAD[kind]
    path = tmp_path / "x.wav"
    make(path)
    with pytest.raises(ValueError, match=re.escape(str(path))) as caught:
        audio.read(path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("samples", "rate"), [(np.zeros((2, 8)), 8000), (np.zeros(0), 8000), (np.array([np.inf]), 8000), (np.zeros(8), 0)]
)
def test_write_refuses_what_is_no_waveform(tmp_path, samples, rate):
    with pytest.raises(ValueError, match=r"x\.wav: found"):
        audio.write_wav(tmp_path / "x.wav", samples, rate)
    assert not list(tmp_path.glob("*.wav"))


def test_a_damaged_ogg_is_called_so(tmp_path):
    (tmp_path / "x.ogg").write_bytes(b"OggS" + bytes(100))
    with pytest.raises(ValueError, match="damaged or unsupported Ogg"):
        audio.read(tmp_path / "x.ogg")
