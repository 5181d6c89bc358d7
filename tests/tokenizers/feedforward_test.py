"""A tokenizer of any modality: what it hands to whom."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.quantizers import BSQ, EMAVQ
from jaxtok.tokenizers.feedforward import FeedForwardTokenizer


class Halve(nn.Module):
    """[B, T, C] -> [B, T / 2, 2 C], and the mask of pairs."""

    def __call__(self, x, mask=None):
        return x.reshape(len(x), -1, 2 * x.shape[-1]), None if mask is None else mask[:, ::2]


class Double(nn.Module):
    def __call__(self, z, mask=None):
        x = z.reshape(len(z), 2 * z.shape[1], -1)
        return x if mask is None else jnp.where(mask[..., None], x, 0.0)


X = jax.random.normal(jax.random.key(0), (2, 8, 3))
MASK = jnp.arange(8) < jnp.array([[8], [4]])


def test_parts_are_composed_without_linear_maps():
    module = FeedForwardTokenizer(Halve(), BSQ(bits=6), Double())
    (tokens, y), variables = module.init_with_output(jax.random.key(0), X)
    assert jax.tree.leaves(variables) == []
    np.testing.assert_array_equal(y, BSQ(bits=6)(X.reshape(2, 4, 6)).latents.reshape(2, 8, 3))
    latents = module.apply({}, tokens.codes, method=lambda m, codes: m.quantizer.decode(codes))
    np.testing.assert_allclose(module.apply({}, latents, method="decode"), y, atol=1e-6)


def test_linear_maps_stand_around_the_quantizer():
    module = FeedForwardTokenizer(Halve(), BSQ(bits=4), Double(), pre=4, post=6)
    (tokens, y), variables = module.init_with_output(jax.random.key(0), X)
    params = variables["params"]
    assert params["pre_linear"]["kernel"].shape == (6, 4) and params["post_linear"]["kernel"].shape == (4, 6)
    assert tokens.latents.shape == (2, 4, 4) and y.shape == X.shape
    z = X.reshape(2, 4, 6) @ params["pre_linear"]["kernel"] + params["pre_linear"]["bias"]
    np.testing.assert_array_equal(tokens.codes, BSQ(bits=4).encode(z))
    np.testing.assert_array_equal(tokens.codes, module.apply(variables, X, method="encode").codes)


def test_padding_reaches_encoder_quantizer_and_decoder():
    module = FeedForwardTokenizer(Halve(), EMAVQ(size=8, width=6), Double())
    variables = module.init(jax.random.key(0), X)

    def run(x):
        return module.apply(variables, x, mask=MASK, train=True, method="encode", mutable=["codebook"])

    (tokens, moved), (other, after) = run(X), run(jnp.where(MASK[..., None], X, 9.0))
    np.testing.assert_array_equal(tokens.loss, other.loss)
    np.testing.assert_array_equal(*(tree["codebook"]["quantizer"]["embedding"] for tree in (moved, after)))
    assert float(moved["codebook"]["quantizer"]["counts"].sum()) != 8.0  # 6 tokens are no padding
    y = module.apply(variables, tokens.latents, mask=MASK, method="decode")
    assert (np.asarray(y)[1, 4:] == 0).all() and (np.asarray(y)[0] != 0).all()


def test_codebooks_stand_still_outside_training():
    module = FeedForwardTokenizer(Halve(), EMAVQ(size=8, width=6), Double())
    variables = module.init(jax.random.key(0), X)
    _, kept = module.apply(variables, X, method="encode", mutable=["codebook"])
    jax.tree.map(np.testing.assert_array_equal, kept["codebook"], variables["codebook"])
