"""The encoder of voices against PyTorch's LSTM with the released weights, and against Resemblyzer itself."""

import numpy as np
import pytest

from jaxtok.data import recordings
from jaxtok.metrics import speaker

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")


@pytest.fixture(scope="module")
def weights():
    try:
        return speaker._weights()
    except ImportError as error:
        pytest.skip(str(error))


def test_the_file_is_what_torch_reads(weights):
    theirs = torch.load(speaker._file(), map_location="cpu", weights_only=True)["model_state"]
    assert list(theirs) == list(weights)
    for name, tensor in theirs.items():
        np.testing.assert_array_equal(weights[name], tensor.numpy())


def test_encoder_equals_torch(weights):
    lstm = torch.nn.LSTM(40, 256, 3, batch_first=True)
    lstm.load_state_dict({name[5:]: torch.tensor(w.copy()) for name, w in weights.items() if name.startswith("lstm.")})
    mel = np.abs(np.random.default_rng(0).standard_normal((2, 160, 40))).astype(np.float32) * 1e-2
    with torch.no_grad():
        hidden = lstm(torch.tensor(mel))[1][0][-1]
        raw = torch.relu(
            hidden @ torch.tensor(weights["linear.weight"].copy()).T + torch.tensor(weights["linear.bias"].copy())
        )
        expected = (raw / raw.norm(dim=1, keepdim=True)).numpy()
    np.testing.assert_allclose(speaker.encode(weights, mel), expected, atol=1e-5)


def test_embedding_equals_resemblyzers(weights):
    reason = "needs resemblyzer with all that it requires"
    theirs = pytest.importorskip("resemblyzer", reason=reason, exc_type=ImportError)
    encoder = theirs.VoiceEncoder("cpu", verbose=False)
    found, _ = recordings.find(["samples:speech"], limit=2)
    for recording in found:
        wave, rate = recording.read()
        assert rate == 16000
        for level in (1.0, 0.02):  # left as it is, and raised
            expected = encoder.embed_utterance(theirs.preprocess_wav(level * wave))
            np.testing.assert_allclose(speaker.embedding(level * wave, rate), expected, atol=1e-4)
