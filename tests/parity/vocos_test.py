"""The Vocos generator against plain PyTorch arithmetic, and the file of golden values that it made.

``python tests/parity/vocos_test.py`` writes ``tests/golden/vocos.npz`` again.
"""

import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
F = torch.nn.functional

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "vocos.npz"
BANDS, WIDTH, HIDDEN, DEPTH, N_FFT, HOP, FRAMES = 6, 8, 12, 2, 20, 6, 11


def shapes():
    block = {
        "dwconv.weight": (WIDTH, 1, 7), "dwconv.bias": (WIDTH,), "norm.weight": (WIDTH,), "norm.bias": (WIDTH,),
        "pwconv1.weight": (HIDDEN, WIDTH), "pwconv1.bias": (HIDDEN,), "pwconv2.weight": (WIDTH, HIDDEN),
        "pwconv2.bias": (WIDTH,), "gamma": (WIDTH,),
    }  # fmt: skip
    outside = {
        "backbone.embed.weight": (WIDTH, BANDS, 7), "backbone.embed.bias": (WIDTH,),
        "backbone.norm.weight": (WIDTH,), "backbone.norm.bias": (WIDTH,),
        "backbone.final_layer_norm.weight": (WIDTH,), "backbone.final_layer_norm.bias": (WIDTH,),
        "head.out.weight": (N_FFT + 2, WIDTH), "head.out.bias": (N_FFT + 2,),
    }  # fmt: skip
    return outside | {f"backbone.convnext.{i}.{k}": s for i in range(DEPTH) for k, s in block.items()}


def weights():
    """Tensor j of the sorted names is 0.8 sin(0.37 k + 1.3 j), k the flat index; one magnitude is over the limit."""
    filled = {}
    for j, (name, shape) in enumerate(sorted(shapes().items())):
        filled[name] = (0.8 * np.sin(0.37 * np.arange(np.prod(shape)) + 1.3 * j)).reshape(shape).astype(np.float32)
    filled["head.out.bias"][3] = 9.0
    return filled


def mel():
    t, f = np.arange(FRAMES)[:, None], np.arange(BANDS)
    return np.stack([np.sin(0.3 * t + 0.7 * f) + 0.1 * f, np.cos(0.5 * t - 0.2 * f)]).astype(np.float32)


def reference(state, x):
    w = {k: torch.from_numpy(v).double() for k, v in state.items()}
    x = torch.from_numpy(x).double().transpose(1, 2)

    def norm(x, name):
        y = F.layer_norm(x.transpose(1, 2), (WIDTH,), w[f"{name}.weight"], w[f"{name}.bias"], eps=1e-6)
        return y.transpose(1, 2)

    x = norm(F.conv1d(x, w["backbone.embed.weight"], w["backbone.embed.bias"], padding=3), "backbone.norm")
    for i in range(DEPTH):
        p = f"backbone.convnext.{i}"
        y = F.conv1d(x, w[f"{p}.dwconv.weight"], w[f"{p}.dwconv.bias"], padding=3, groups=WIDTH)
        y = norm(y, f"{p}.norm").transpose(1, 2)
        y = F.linear(F.gelu(F.linear(y, w[f"{p}.pwconv1.weight"], w[f"{p}.pwconv1.bias"])), w[f"{p}.pwconv2.weight"])
        x = x + ((y + w[f"{p}.pwconv2.bias"]) * w[f"{p}.gamma"]).transpose(1, 2)
    x = norm(x, "backbone.final_layer_norm").transpose(1, 2)
    out = F.linear(x, w["head.out.weight"], w["head.out.bias"])
    bins = N_FFT // 2 + 1
    spectrum = torch.polar(out[..., :bins].exp().clamp(max=100), out[..., bins:])
    window = torch.hann_window(N_FFT, dtype=torch.float64)
    frames = torch.fft.irfft(spectrum, N_FFT) * window
    audio = torch.zeros(len(x), (FRAMES - 1) * HOP + N_FFT, dtype=torch.float64)
    envelope = torch.zeros(audio.shape[1], dtype=torch.float64)
    for t in range(FRAMES):
        audio[:, t * HOP : t * HOP + N_FFT] += frames[:, t]
        envelope[t * HOP : t * HOP + N_FFT] += window**2
    trim = (N_FFT - HOP) // 2
    return (audio / envelope)[:, trim:-trim].float().numpy()


def test_generator_matches_torch():
    from jaxtok.convert import from_reference
    from jaxtok.nn.vocos import Vocos

    state = weights() | {"head.istft.window": torch.hann_window(N_FFT).numpy()}
    config = dict(
        target="jaxtok.nn.vocos:Vocos", bands=BANDS, width=WIDTH, hidden=HIDDEN, depth=DEPTH, n_fft=N_FFT, hop=HOP
    )
    params = from_reference("vocos", state, config)
    module = Vocos(**{k: v for k, v in config.items() if k != "target"})
    found = module.apply({"params": params}, mel())
    expected = reference(weights(), mel())
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_golden_file_is_what_torch_gives():
    with np.load(GOLDEN) as golden:
        np.testing.assert_allclose(golden["audio"], reference(weights(), mel()), atol=1e-5)
        np.testing.assert_array_equal(golden["mel"], mel())


if __name__ == "__main__":
    np.savez_compressed(GOLDEN, audio=reference(weights(), mel()), mel=mel())
