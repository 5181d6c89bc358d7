"""The encoder of voices against PyTorch's LSTM with the released weights."""

import numpy as np
import pytest

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
