import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import discriminators, views

torch = pytest.importorskip("torch")
F = torch.nn.functional
SAMPLES = 700

SMALL = {
    "period": discriminators.multi_period((2, 3), channels=(2, 4, 4)),
    "resolution": discriminators.multi_resolution((64, 128), channels=3),
    "band": discriminators.multi_band((64,), channels=3),
    "stft": discriminators.multi_stft((64, 128), channels=3),
    "scale": discriminators.multi_scale(2, channels=4),
    "dac": discriminators.dac((2,), (64,), window="rectangular", channels=(2, 4, 4), band_channels=3),
}


def audio(seed=0):
    return np.random.default_rng(seed).uniform(-0.7, 0.9, (2, SAMPLES)).astype(np.float32)


def drawn(module):
    """Parameters drawn without compiling ``init``; scales are not the norms of their kernels."""
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(module.init, jax.random.key(0), audio())["params"]

    def draw(leaf):
        limit = 1.5 * math.prod(leaf.shape[:-1]) ** -0.5
        return rng.uniform(-limit, limit, leaf.shape).astype(np.float32)

    return jax.tree.map(draw, shapes)


@pytest.fixture(scope="module", params=list(SMALL))
def ready(request):
    """(name, its parameters, its jitted application)."""
    module = SMALL[request.param]
    return request.param, drawn(module), jax.jit(lambda p, x: module.apply({"params": p}, x))


# The references, in plain PyTorch arithmetic.


def torch_conv(params, x, strides, dilation=None):
    kernel = torch.tensor(np.asarray(params["kernel"])).moveaxis((-1, -2), (0, 1))
    if "scale" in params:
        norm = kernel.square().sum(tuple(range(1, kernel.ndim)), keepdim=True).sqrt()
        kernel = kernel / norm * torch.tensor(np.asarray(params["scale"])).reshape(norm.shape)
    dilation = dilation or (1,) * (x.ndim - 2)
    padding = [(size - 1) * wide // 2 for size, wide in zip(kernel.shape[2:], dilation)]
    conv = F.conv2d if x.ndim == 4 else F.conv1d
    bias = torch.tensor(np.asarray(params["bias"]))
    return conv(x, kernel, bias, strides, padding, dilation, groups=x.shape[1] // kernel.shape[1])


def torch_stack(params, parts, steps, dilations=None, slope=0.1):
    """Logits [B, positions...] and all hidden layers; ``steps`` one per layer."""
    hidden, dilations = [], dilations or [None] * len(steps)
    for i, (step, dilation) in enumerate(zip(steps, dilations)):
        names = [f"part{p}_conv{i}" if len(parts) > 1 else f"conv{i}" for p in range(len(parts))]
        parts = [F.leaky_relu(torch_conv(params[n], x, step, dilation), slope) for n, x in zip(names, parts)]
        hidden += parts
    joined = torch.cat(parts, -1)
    return torch_conv(params["last"], joined, (1,) * (joined.ndim - 2))[:, 0], hidden


def torch_fold(x, period, missing):
    return F.pad(x[:, None], (0, missing), "reflect").reshape(len(x), 1, -1, period)


def torch_spectrum(x, n, window, center=True):
    window = torch.hann_window(n) if window == "hann" else torch.ones(n)
    return torch.stft(x, n, n // 4, window=window, center=center, return_complex=True)


def torch_bands(params, x, n, window):
    x = torch.view_as_real(torch_spectrum(x, n, window)).permute(0, 3, 2, 1)
    cuts = [int(edge * x.shape[-1]) for edge in (0, 0.1, 0.25, 0.5, 0.75, 1.0)]
    return torch_stack(params, [x[..., a:b] for a, b in itertools.pairwise(cuts)], [1, (1, 2), (1, 2), (1, 2), 1])


def levelled(x):
    x = x - x.mean(-1, keepdim=True)
    return 0.8 * x / (x.abs().amax(-1, keepdim=True) + 1e-9)


def expected(name, params, x):
    """Per member (logits, hidden layers)."""
    member = [params[f"members_{i}"] for i in range(len(params))]
    steps = [(3, 1), (3, 1), 1]
    if name == "period":
        return [torch_stack(m, [torch_fold(x, p, -SAMPLES % p)], steps) for m, p in zip(member, (2, 3))]
    if name == "resolution":
        steps = [(2, 2), (2, 1), (2, 2), (2, 1), (2, 2)]
        return [torch_stack(m, [torch_spectrum(x, n, "ones").abs()[:, None]], steps) for m, n in zip(member, (64, 128))]
    if name == "band":
        return [torch_bands(member[0], levelled(x), 64, "hann")]
    if name == "dac":
        folded = torch_stack(member[0], [torch_fold(levelled(x), 2, 2)], steps)
        return [folded, torch_bands(member[1], levelled(x), 64, "ones")]
    if name == "stft":
        found = []
        for m, n in zip(member, (64, 128)):
            z = torch_spectrum(x, n, "hann", center=False) / torch.hann_window(n).square().sum().sqrt()
            z = torch.view_as_real(z).permute(0, 3, 2, 1)
            dilations = [(1, 1), (1, 1), (2, 1), (4, 1), (1, 1)]
            found.append(torch_stack(m, [z], [1, (1, 2), (1, 2), (1, 2), 1], dilations, slope=0.2))
        return found
    half = F.avg_pool1d(x[:, None], 4, 2, 1, count_include_pad=False)
    steps = [(1,), (4,), (4,), (4,), (4,), (1,)]
    return [torch_stack(m, [y], steps, slope=0.2) for m, y in zip(member, (x[:, None], half))]


def test_all_equal_their_pytorch_references(ready):
    name, params, apply = ready
    found, reference = apply(params, audio()), expected(name, params, torch.tensor(audio()))
    assert len(found) == len(reference) == len(params)
    for judged, (logits, hidden) in zip(found, reference):
        np.testing.assert_allclose(judged.logits, logits, atol=2e-5)
        layers = jax.tree.leaves(judged.features)
        assert len(layers) == len(hidden)
        for ours, theirs in zip(layers, hidden):  # channels last here, first there
            np.testing.assert_allclose(ours, theirs.moveaxis(1, -1), atol=5e-5, err_msg=name)


def test_a_row_is_judged_alone(ready):
    _, params, apply = ready
    other = np.stack([audio(1)[0], audio()[1]])
    for a, b in zip(jax.tree.leaves(apply(params, audio())), jax.tree.leaves(apply(params, other))):
        np.testing.assert_allclose(a[1], b[1], atol=1e-6)
        assert np.abs(a[0] - b[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["resolution", "band"])
def test_gradients_reach_all_and_are_finite_in_silence(name):
    """Magnitudes and peaks of 0 have slopes that need care."""

    def total(params, x):
        return sum(jnp.sum(jnp.square(j.logits)) for j in SMALL[name].apply({"params": params}, x))

    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    for leaf in jax.tree.leaves(gradient(drawn(SMALL[name]), audio())):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0
    for leaf in jax.tree.leaves(gradient(drawn(SMALL[name]), np.zeros_like(audio()))):
        assert np.isfinite(leaf).all()


def counted(*layers):
    """Parameters of weight-normalised convolutions (window, in, out): kernel, bias and scale."""
    return sum(math.prod(window) * before * after + 2 * after for window, before, after in layers)


def test_published_sizes_and_shapes():
    tall, wide = [(5, 1)] * 5, [(3, 9)] * 4
    period = counted(*zip(tall, (1, 32, 128, 512, 1024), (32, 128, 512, 1024, 1024)), ((3, 1), 1024, 1))
    stack = counted(*zip(wide, (2, 32, 32, 32), (32,) * 4), ((3, 3), 32, 32))
    magnitude = counted(((7, 5), 1, 64), *[((5, 3), 64, 64)] * 2, *[((3, 3), 64, 64)] * 2, ((3, 3), 64, 1))
    grouped = zip([(41,)] * 4, (4, 4, 4, 4), (64, 256, 1024, 1024))  # four channels in for each channel out
    scale = counted(((15,), 1, 16), *grouped, ((5,), 1024, 1024), ((3,), 1024, 1))
    sizes = {
        "multi_period": (5 * period, [(2, 102, 2), (2, 68, 3), (2, 41, 5), (2, 29, 7), (2, 19, 11)]),
        "multi_resolution": (3 * magnitude, [(2, 17, 9), (2, 33, 5), (2, 9, 17)]),
        "multi_band": (3 * (5 * stack + counted(((3, 3), 32, 1))), [(2, 33, 130), (2, 65, 66), (2, 129, 34)]),
        "multi_stft": (3 * (stack + counted(((3, 3), 32, 1)) - 32), [(2, 61, 65), (2, 29, 129), (2, 125, 33)]),
        "multi_scale": (3 * scale, [(2, 64), (2, 32), (2, 16)]),
    }
    assert 5 * period == 41_105_770  # HiFi-GAN's
    for name, (size, shapes) in sizes.items():
        module = getattr(discriminators, name)()
        params = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((2, 16384), jnp.float32))
        found = jax.eval_shape(module.apply, params, jax.ShapeDtypeStruct((2, 16384), jnp.float32))
        assert sum(leaf.size for leaf in jax.tree.leaves(params)) == size, name
        assert [judged.logits.shape for judged in found] == shapes, name


def test_weight_norm_starts_as_the_plain_convolution_and_has_the_length_apart():
    layer = discriminators.Conv(discriminators.Layer(3, (5,), (2,)))
    x = jax.random.normal(jax.random.key(0), (2, 20, 4))
    params = jax.jit(layer.init)(jax.random.key(1), x)["params"]
    apply = jax.jit(lambda p: layer.apply({"params": p}, x))
    plain = F.conv1d(
        torch.tensor(np.asarray(x)).mT, torch.tensor(np.asarray(params["kernel"])).permute(2, 1, 0),
        torch.tensor(np.asarray(params["bias"])), 2, 2,
    )  # fmt: skip
    np.testing.assert_allclose(apply(params), plain.mT, atol=1e-5)
    assert np.abs(params["kernel"]).max() <= 20**-0.5 and np.abs(params["bias"]).max() <= 20**-0.5
    np.testing.assert_allclose(apply(params | {"kernel": 7 * params["kernel"]}), apply(params), atol=1e-5)
    double = apply(params | {"scale": 2 * params["scale"]}) - params["bias"]
    np.testing.assert_allclose(double, 2 * (apply(params) - params["bias"]), atol=1e-5)


def test_half_precision_keeps_parameters_and_logits_in_float32():
    module = discriminators.multi_period((2, 3), channels=(2, 4, 4), dtype=jnp.bfloat16)
    params = drawn(module)
    judged, exact = (jax.jit(m.apply)({"params": params}, audio())[0] for m in (module, SMALL["period"]))
    assert judged.logits.dtype == jnp.float32 and judged.features[0].dtype == jnp.bfloat16
    np.testing.assert_allclose(judged.logits, exact.logits, atol=0.02)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}


def test_a_panel_names_its_ensembles_and_hashes():
    one, other = (discriminators.Panel({"b": SMALL["band"], "a": SMALL["period"]}) for _ in range(2))
    assert one == other and hash(one) == hash(other)
    found = jax.eval_shape(lambda: one.init_with_output(jax.random.key(0), jnp.zeros((1, SAMPLES))))
    judged, variables = found
    assert {name: len(ensemble) for name, ensemble in judged.items()} == {"a": 2, "b": 1}
    assert sorted(variables["params"]) == ["ensembles_a", "ensembles_b"]


def test_bad_audio_is_refused():
    with pytest.raises(ValueError, match=r"audio: expected \[batch, samples\], found shape \(1, 99, 1\)"):
        SMALL["period"].init(jax.random.key(0), jnp.zeros((1, 99, 1)))
    with pytest.raises(ValueError, match="audio: expected more than 32 samples for n_fft 64, found 32"):
        SMALL["band"].init(jax.random.key(0), jnp.zeros((1, 32)))
    with pytest.raises(ValueError, match="audio: expected more than 3 samples, found 3"):
        views.Period(3, always=True)(jnp.zeros((1, 3)))
    with pytest.raises(ValueError, match="window: expected one of hann, rectangular, found 'hamming'"):
        views.Bands(64, 16, "hamming")(jnp.zeros((1, 99)))
