import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import attention, query_vit
from jaxtok.nn.perceiver import Perceiver
from jaxtok.nn.query_vit import QueryDecoder, QueryEncoder, QueryTrunk
from jaxtok.nn.vit import ViT


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_published_size_of_vit(count):
    """ViT-B/16 has 85,798,656 without the head, of which one row of 768 is the class token's position."""
    assert count(ViT(12, 768, 12, prefix=1, learned=True), jnp.zeros((1, 224, 224, 3))) == 85_798_656 - 768


def test_masks():
    full, one_way, causal = (f(2, 3).astype(int) for f in (query_vit.full, query_vit.one_way, query_vit.causal))
    assert full.all()
    assert one_way.tolist() == [[1, 1, 0, 0, 0]] * 2 + [[1] * 5] * 3
    assert causal.tolist() == [[1, 1, 0, 0, 0]] * 2 + [[1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]


def test_who_depends_on_whom(filled):
    """The gradient of each token's output by each token's input is zero where the mask says so, in two layers."""
    trunk = QueryTrunk(depth=2, heads=2, mask=query_vit.causal, attention=attention.xla)
    patches, queries = drawn(1, 1, 2, 8), drawn(2, 1, 3, 8)
    variables = filled(trunk, patches, queries)

    def outputs(both):
        out = trunk.apply(variables, both[:, :2], both[:, 2:])
        return jnp.concatenate(out, axis=1)[0] @ jnp.arange(1.0, 9.0)

    jacobian = jax.jit(jax.jacrev(outputs))(np.concatenate([patches, queries], axis=1))[:, 0]
    np.testing.assert_array_equal(np.abs(jacobian).max(-1) > 0, query_vit.causal(2, 3))


def test_image_to_queries_and_back_with_hidden_tails(filled):
    encoder = QueryEncoder(QueryTrunk(1, 2, query_vit.causal), width=8, queries=4, patch=2)
    decoder = QueryDecoder(QueryTrunk(1, 2), width=8, queries=4)
    x, keep = drawn(1, 2, 4, 6, 3), np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
    encoding, latents = filled(encoder, x), drawn(2, 2, 4, 5)
    decoding = filled(decoder, latents, 2, 3)

    @jax.jit
    def run(latents):
        long = decoder.apply(decoding, latents, 2, 3, query_mask=keep)
        return encoder.apply(encoding, x), long, decoder.apply(decoding, latents[:, :2], 2, 3)

    codes, long, short = (np.asarray(a) for a in run(latents))
    assert codes.shape == (2, 4, 8) and long.shape == (2, 2, 3, 8)
    np.testing.assert_allclose(long[1], short[1], atol=1e-5)  # two hidden latents are as good as none
    assert np.abs(long[0] - short[0]).max() > 1e-3
    with pytest.raises(ValueError, match="expected at most 4 latents, found 5"):
        decoder.apply(decoding, np.zeros((1, 5, 5), np.float32), 2, 3)
    with pytest.raises(ValueError, match=r"window: \(2, 2\) must divide the grid \(4, 5\)"):
        encoder.apply(encoding, np.zeros((1, 4, 5, 3), np.float32))


def test_perceiver_does_not_see_padding(filled):
    module, x = Perceiver(queries=3, width=8, depth=2, heads=2, head_dim=4, out=5), drawn(1, 2, 6, 4)
    variables, mask = filled(module, x), np.array([[1] * 6, [1] * 4 + [0] * 2], bool)
    run = jax.jit(lambda x: module.apply(variables, x, mask=mask))
    out, changed = np.asarray(run(x)), x.copy()
    changed[:, 4:] = 3
    assert out.shape == (2, 3, 5)
    found = np.asarray(run(changed))
    np.testing.assert_array_equal(found[1], out[1])
    assert np.abs(found[0] - out[0]).max() > 1e-3
    with pytest.raises(ValueError, match=r"Perceiver: expected \[batch, tokens, channels\]"):
        module.apply(variables, x[0])
