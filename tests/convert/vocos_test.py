import pathlib

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxtok
from jaxtok.build import build
from jaxtok.convert import from_file, from_reference
from jaxtok.convert.vocos import params_from
from jaxtok.nn.vocos import Vocos
from jaxtok.signal.log_mel import htk_filters
from jaxtok.signal.stft import hann

GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "vocos.npz"
CONFIG = dict(target="jaxtok.nn.vocos:Vocos", bands=6, width=8, hidden=12, depth=2, n_fft=20, hop=6)
MODULE = Vocos(bands=6, width=8, hidden=12, depth=2, n_fft=20, hop=6)
BLOCK = {
    "dwconv.weight": (8, 1, 7), "dwconv.bias": (8,), "norm.weight": (8,), "norm.bias": (8,), "pwconv1.weight": (12, 8),
    "pwconv1.bias": (12,), "pwconv2.weight": (8, 12), "pwconv2.bias": (8,), "gamma": (8,),
}  # fmt: skip
OUTSIDE = {
    "backbone.embed.weight": (8, 6, 7), "backbone.embed.bias": (8,), "backbone.norm.weight": (8,),
    "backbone.norm.bias": (8,), "backbone.final_layer_norm.weight": (8,), "backbone.final_layer_norm.bias": (8,),
    "head.out.weight": (22, 8), "head.out.bias": (22,),
}  # fmt: skip


def weights():
    """Tensor j of the sorted names is 0.8 sin(0.37 k + 1.3 j), k the flat index; one magnitude is over the limit."""
    shapes = OUTSIDE | {f"backbone.convnext.{i}.{k}": s for i in range(2) for k, s in BLOCK.items()}
    filled = {}
    for j, (name, shape) in enumerate(sorted(shapes.items())):
        filled[name] = (0.8 * np.sin(0.37 * np.arange(np.prod(shape)) + 1.3 * j)).reshape(shape).astype(np.float32)
    filled["head.out.bias"][3] = 9.0
    return filled


def test_released_layout_gives_the_reference_audio():
    params = from_reference("vocos", weights(), CONFIG)
    with np.load(GOLDEN) as golden:
        found = MODULE.apply({"params": params}, golden["mel"])
        np.testing.assert_allclose(found, golden["audio"], atol=1e-4 * np.abs(golden["audio"]).max())


def test_from_a_safetensors_file_with_the_window_buffer(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(weights() | {"head.istft.window": hann(20)}, file)
    found, expected = from_file("vocos", str(file), CONFIG), params_from(weights(), MODULE)
    np.testing.assert_array_equal(found["blocks_1"]["depthwise"]["kernel"], expected["blocks_1"]["depthwise"]["kernel"])


def test_the_front_end_of_the_released_vocoder_is_ours_or_refused():
    name = "feature_extractor.mel_spec.mel_scale.fb"
    heard = {"feature_extractor.mel_spec.spectrogram.window": hann(20), name: htk_filters(20, 24000, 6, 0.0, 12000.0)}
    assert params_from(weights() | heard, MODULE).keys() == params_from(weights(), MODULE).keys()
    with pytest.raises(ValueError, match="spectrogram.window' is not the periodic Hann window of 20 samples"):
        params_from(weights() | heard | {"feature_extractor.mel_spec.spectrogram.window": np.ones(20)}, MODULE)
    with pytest.raises(ValueError, match=f"{name}' does not hold HTK's mel filters at 24000 Hz"):
        params_from(weights() | heard | {name: htk_filters(20, 16000, 6, 0.0, 8000.0)}, MODULE)


def test_the_config_of_tadicodecs_vocoder_has_its_size():
    module = build(jaxtok.get_config("vocos:tadicodec").model)
    shapes = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 4, 128), np.float32))
    block = 1024 * 7 + 1024 + 2 * 1024 + 2 * 1024 * 4096 + 4096 + 1024 + 1024
    outside = 128 * 1024 * 7 + 1024 + 2 * 2 * 1024 + 1024 * 1922 + 1922
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 30 * block + outside == 255_042_434


def without(name):
    return {k: v for k, v in weights().items() if k != name}


@pytest.mark.parametrize("name", sorted(weights()))
def test_every_missing_and_every_misshapen_key_is_named(name):
    with pytest.raises(ValueError, match=f"key '{name}' .* is missing"):
        params_from(without(name), MODULE)
    with pytest.raises(ValueError, match=f"key '{name}' has shape .* expected"):
        params_from(weights() | {name: np.zeros((3, 3), np.float32)}, MODULE)


def test_extra_keys_and_another_window_are_named():
    with pytest.raises(ValueError, match=r"unknown keys 'backbone.convnext.2.gamma'"):
        params_from(weights() | {"backbone.convnext.2.gamma": np.zeros(8, np.float32)}, MODULE)
    with pytest.raises(ValueError, match=r"'head.istft.window' is not the periodic Hann window of 20 samples"):
        params_from(weights() | {"head.istft.window": np.hanning(20).astype(np.float32)}, MODULE)
