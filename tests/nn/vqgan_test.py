"""The VQGAN's networks: against the same blocks in plain PyTorch, and the published size."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn.conv2d import Downsample, GroupNorm, nearest
from jaxtok.nn.vqgan import Decoder, Encoder

SIZE = dict(channels=8, multipliers=(1, 2), blocks=1, z_channels=6, groups=4)


def shaken(module, x, seed=0):
    """Parameters whose every entry matters: none is 0 or 1."""
    params = jax.jit(module.init)(jax.random.key(seed), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(seed + 1), len(leaves))
    return tree.unflatten([leaf + 0.2 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves)])


class Torch:
    """The blocks, written with torch's own functions over our parameters."""

    def __init__(self, params, groups, blocks, levels):
        self.torch = pytest.importorskip("torch", reason="torch is not installed (pip install jaxtok[parity])")
        self.p = jax.tree.map(lambda leaf: self.torch.from_numpy(np.array(leaf)), params)
        self.groups, self.blocks, self.levels = groups, blocks, levels

    def conv(self, p, x, **options):
        kernel = p["kernel"] if p["kernel"].ndim == 4 else p["kernel"][None, None]
        weight = kernel.permute(3, 2, 0, 1)
        options.setdefault("padding", weight.shape[-1] // 2)
        return self.torch.nn.functional.conv2d(x, weight, p["bias"], **options)

    def norm(self, p, x):
        return self.torch.nn.functional.group_norm(x, self.groups, p["scale"], p["bias"], eps=1e-6)

    def res(self, p, x):
        act = self.torch.nn.functional.silu
        h = self.conv(p["conv1"], act(self.norm(p["norm1"], x)))
        h = self.conv(p["conv2"], act(self.norm(p["norm2"], h)))
        return h + (self.conv(p["shortcut"], x) if "shortcut" in p else x)

    def attend(self, p, x):
        q, k, v = (self.conv(p[name], self.norm(p["norm"], x)).flatten(2) for name in ("query", "key", "value"))
        weights = (self.torch.einsum("bci,bcj->bij", q, k) / q.shape[1] ** 0.5).softmax(-1)
        h = self.torch.einsum("bij,bcj->bci", weights, v).reshape(x.shape)
        return x + self.conv(p["out"], h)

    def middle(self, x):
        return self.res(
            self.p["middle_res1"], self.attend(self.p["middle_attention"], self.res(self.p["middle_res0"], x))
        )

    def finish(self, x):
        return self.conv(self.p["conv_out"], self.torch.nn.functional.silu(self.norm(self.p["norm_out"], x)))

    def level(self, level, blocks, x):
        for i in range(blocks):
            x = self.res(self.p[f"level{level}_res{i}"], x)
            if level == self.levels - 1:
                x = self.attend(self.p[f"level{level}_attention{i}"], x)
        return x

    def encode(self, x):
        x = self.conv(self.p["conv_in"], x)
        for level in range(self.levels):
            x = self.level(level, self.blocks, x)
            if level < self.levels - 1:
                padded = self.torch.nn.functional.pad(x, (0, 1, 0, 1))
                x = self.conv(self.p[f"level{level}_downsample"]["conv"], padded, stride=2, padding=0)
        return self.finish(self.middle(x))

    def decode(self, z):
        x = self.middle(self.conv(self.p["conv_in"], z))
        for level in reversed(range(self.levels)):
            x = self.level(level, self.blocks + 1, x)
            if level:
                twice = self.torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
                x = self.conv(self.p[f"level{level}_upsample"]["conv"], twice)
        return self.finish(x)

    def run(self, method, x):
        with self.torch.no_grad():
            return method(self.torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()


def test_encoder_equals_torch():
    x = np.random.default_rng(0).normal(size=(2, 8, 12, 3)).astype(np.float32)
    module = Encoder(**SIZE)
    params = shaken(module, x)
    z, mask = jax.jit(module.apply)({"params": params}, x)
    assert mask is None and z.shape == (2, 4, 6, 6) and z.dtype == jnp.float32
    torch = Torch(params, groups=4, blocks=1, levels=2)
    np.testing.assert_allclose(z, torch.run(torch.encode, x), atol=2e-4, rtol=1e-4)


def test_decoder_equals_torch():
    z = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)
    module = Decoder(**SIZE)
    params = shaken(module, z)
    y = jax.jit(module.apply)({"params": params}, z)
    assert y.shape == (2, 8, 12, 3) and y.dtype == jnp.float32
    torch = Torch(params, groups=4, blocks=1, levels=2)
    np.testing.assert_allclose(y, torch.run(torch.decode, z), atol=2e-4, rtol=1e-4)


def test_norm_keeps_its_statistics_in_float32():
    x = 1000 + jax.random.normal(jax.random.key(0), (2, 4, 4, 8))  # one bfloat16 step there is 4
    module = GroupNorm(groups=2, dtype=jnp.bfloat16)
    out = module.apply({"params": {"scale": jnp.ones(8), "bias": jnp.zeros(8)}}, x)
    assert out.dtype == jnp.bfloat16
    each = np.asarray(x, np.float64).reshape(2, 16, 2, 4)
    expected = (each - each.mean((1, 3), keepdims=True)) / each.std((1, 3), keepdims=True)
    np.testing.assert_allclose(np.asarray(out, np.float64), expected.reshape(x.shape), atol=0.02)
    with pytest.raises(ValueError, match="groups must divide the 8 channels, found 3"):
        GroupNorm(groups=3).init(jax.random.key(0), x)


def test_downsampling_pads_below_and_to_the_right():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[2, 2].set(1.0)  # looks at the lower right corner of its window
    out = Downsample().apply({"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(1)}}}, x)
    np.testing.assert_array_equal(out[0, :, :, 0], [[10, 0], [0, 0]])


def test_nearest_repeats():
    np.testing.assert_array_equal(nearest(jnp.array([[[[1.0], [2.0]]]]))[0, :, :, 0], [[1, 1, 2, 2], [1, 1, 2, 2]])


def test_initialisation_is_torch_s():
    params = jax.jit(Encoder(**SIZE).init)(jax.random.key(0), jnp.zeros((1, 4, 4, 3)))["params"]
    bound = (16 * 9) ** -0.5
    for leaf in jax.tree.leaves(params["middle_res0"]["conv1"]):
        assert np.abs(leaf).max() <= bound
    np.testing.assert_allclose(params["middle_res0"]["conv1"]["kernel"].std(), bound / 3**0.5, rtol=0.05)
    assert np.abs(params["middle_res0"]["conv1"]["bias"]).max() > 0.7 * bound


def test_published_sizes():
    def count(module, x):
        return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(module.init, jax.random.key(0), x)))

    encoder = count(Encoder(), jnp.zeros((1, 32, 32, 3)))
    decoder = count(Decoder(), jnp.zeros((1, 2, 2, 256)))
    assert (encoder, decoder) == (29_298_176, 42_449_795)  # LlamaGen's VQ-16, counted in its own code


def test_bfloat16_and_remat_change_no_parameter():
    x = jnp.zeros((1, 8, 8, 3))
    plain = jax.eval_shape(Encoder(**SIZE).init, jax.random.key(0), x)
    other = Encoder(**SIZE, remat="nothing_saveable", dtype=jnp.bfloat16)
    assert jax.eval_shape(other.init, jax.random.key(0), x) == plain
    params = jax.jit(other.init)(jax.random.key(0), x)
    assert other.apply(params, x)[0].dtype == jnp.float32


def test_wrong_images_are_refused():
    with pytest.raises(ValueError, match=r"multiples of 2, found shape \(1, 7, 8, 3\)"):
        Encoder(**SIZE).init(jax.random.key(0), jnp.zeros((1, 7, 8, 3)))
    with pytest.raises(ValueError, match="images have no padding"):
        Encoder(**SIZE).init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.ones((1, 8, 8), bool))
    with pytest.raises(ValueError, match=r"\[batch, height, width, 6\], found shape \(1, 4, 4, 5\)"):
        Decoder(**SIZE).init(jax.random.key(0), jnp.zeros((1, 4, 4, 5)))
