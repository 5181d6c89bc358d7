"""TaDiCodec beside its arithmetic in PyTorch with the same random weights: codes, and eight steps with text."""

import importlib.util
import pathlib

import jax
import numpy as np
import pytest

from jaxtok.build import build
from jaxtok.convert import from_reference
from jaxtok.tokenizers.diffusion import FlowSampler

torch = pytest.importorskip("torch", reason="needs the extra 'parity'")
FILE = pathlib.Path(__file__).parents[2] / "experiments/benchmarks/tadicodec_reference.py"
SIZES = dict(WIDTH=32, HEADS=2, HIDDEN=48, BITS=6, BANDS=10, VOCABULARY=50)
FRAMES, PADDED, STEPS = 40, 64, 8


@pytest.fixture(scope="module")
def reference():
    """The published arithmetic at a small size."""
    spec = importlib.util.spec_from_file_location("tadicodec_reference", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    vars(module).update(SIZES)
    torch.manual_seed(0)
    codec = module.Codec(2, 2).eval()
    for name, value in codec.named_parameters():
        torch.nn.init.normal_(value, 1.0 if name.endswith("to_weight.bias") else 0.0, 0.1)
    return codec


@pytest.fixture(scope="module")
def ours(reference):
    size = dict(width=32, heads=2, hidden=48, depth=2)
    config = dict(
        target="jaxtok.tokenizers.diffusion:DiffusionTokenizer",
        encoder=dict(target="jaxtok.papers.tadicodec:Encoder", bits=6, **size),
        quantizer=dict(target="jaxtok.quantizers.bsq:BSQ", bits=6),
        decoder=dict(target="jaxtok.papers.tadicodec:PrefixDecoder", bands=10, vocabulary=50, **size),
    )
    arrays = {name: value.detach().numpy() for name, value in reference.state_dict().items()}
    return build(config), from_reference("tadicodec", arrays, config)


def test_codes_and_eight_steps_with_text_also_beside_padding(reference, ours):
    module, params = ours
    rng = np.random.default_rng(1)
    mel, start = (rng.standard_normal((1, FRAMES, 10)).astype(np.float32) for _ in range(2))
    text = rng.integers(0, 50, (1, 7))
    with torch.inference_mode():
        codes = reference.encode(torch.from_numpy(mel))
        expected = reference.decode(codes, torch.from_numpy(text), torch.from_numpy(start), STEPS).numpy()

    def padded(x, length):
        return np.pad(x, ((0, 0), (0, length - x.shape[1]), (0, 0)))

    @jax.jit
    def run(params, mel, start, text, mask, text_mask):
        tokens = module.apply({"params": params}, mel, mask=mask, method="encode")
        again = module.apply(
            {"params": params}, tokens.latents, mask=mask, cond={"text_ids": text, "text_mask": text_mask}, start=start,
            sampler=FlowSampler(steps=STEPS, guidance=2.0, rescale=0.75), method="decode",
        )  # fmt: skip
        return tokens.codes[..., 0], again

    for frames, letters in ((FRAMES, 7), (PADDED, 12)):
        real, read = np.arange(frames)[None] < FRAMES, np.arange(letters)[None] < 7
        ids = np.pad(text, ((0, 0), (0, letters - 7)), constant_values=3)
        found, out = run(params, padded(mel, frames), padded(start, frames), ids, real, read)
        np.testing.assert_array_equal(found[:, : FRAMES // 8], codes)
        np.testing.assert_allclose(out[:, :FRAMES], expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected - start).max() > 0.5
