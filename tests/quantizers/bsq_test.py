import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.quantizers import BSQ

LN2 = np.log(2.0)


def _corners(d):
    return BSQ(bits=d).decode(jnp.arange(2**d)[:, None])


def test_indices_are_big_endian_and_round_trip():
    q = BSQ(bits=14)
    everything = jnp.arange(2**14)[:, None]
    vectors = q.decode(everything)
    np.testing.assert_array_equal(q.encode(vectors), everything)
    np.testing.assert_array_equal(jnp.sign(vectors[0]), -np.ones(14))
    np.testing.assert_array_equal(jnp.sign(vectors[8192]), [1] + [-1] * 13)
    np.testing.assert_array_equal(jnp.sign(vectors[16383]), np.ones(14))
    np.testing.assert_allclose(jnp.linalg.norm(vectors, axis=-1), 1.0, rtol=1e-6)


def test_little_endian_reverses_the_bits():
    z = jnp.array([[0.3, -0.2, -0.1]])
    assert int(BSQ(bits=3).encode(z)[0, 0]) == 4
    assert int(BSQ(bits=3, order="little").encode(z)[0, 0]) == 1


def test_forward_equals_decode_of_encode():
    z = jax.random.normal(jax.random.key(0), (5, 7, 36))
    q = BSQ(bits=36, word=18, group=9)
    out = q(z)
    assert out.codes.shape == (5, 7, 2) and out.codes.dtype == jnp.int32
    np.testing.assert_array_equal(out.codes, q.encode(z))
    np.testing.assert_allclose(q.decode(out.codes), out.latents, atol=1e-7)


def test_zero_counts_as_negative():
    assert int(BSQ(bits=2).encode(jnp.array([[0.0, 1.0]]))[0, 0]) == 1


def test_gradient_of_the_sum_is_one_over_root_d():
    z = jax.random.normal(jax.random.key(1), (3, 14))
    u = z / jnp.linalg.norm(z, axis=-1, keepdims=True)
    from jaxtok.quantizers.bsq import binarize

    np.testing.assert_allclose(jax.grad(lambda u: binarize(u).sum())(u), 14**-0.5, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda u: binarize(u, "identity").sum())(u), 1.0, rtol=1e-6)


def test_entropies_at_the_corners():
    every = BSQ(bits=14)(_corners(14))
    np.testing.assert_allclose(every.metrics["entropy_sample"], 9.56265, atol=2e-5)
    np.testing.assert_allclose(every.metrics["entropy_codebook"], 14 * LN2, atol=2e-5)
    np.testing.assert_allclose(every.loss, -0.141414, atol=2e-5)
    single = BSQ(bits=14)(jnp.ones((6, 14)))
    np.testing.assert_allclose(single.loss, 0.0, atol=2e-5)


def test_joint_entropy_is_at_most_the_sum_over_groups():
    z = jax.random.normal(jax.random.key(2), (64, 9)) + jnp.linspace(-1, 1, 9)
    by_group = {g: float(BSQ(bits=9, group=g, temperature=20.0)(z).metrics["entropy_codebook"]) for g in (9, 3, 1)}
    assert by_group[9] < by_group[3] < by_group[1]
    u = np.asarray(z / jnp.linalg.norm(z, axis=-1, keepdims=True), np.float64)
    logits = u @ np.asarray(_corners(9), np.float64).T * 2 * 20.0  # softmax over all 512 codes, as defined
    p = np.exp(logits - logits.max(-1, keepdims=True))
    mean = (p / p.sum(-1, keepdims=True)).mean(0)
    np.testing.assert_allclose(by_group[9], -(mean * np.log(mean)).sum(), rtol=1e-5)


def test_entropy_loss_moves_a_corner_and_survives_extremes():
    q = BSQ(bits=4)
    grad = jax.grad(lambda z: q(z).loss)
    corner = jnp.array([[1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.2]])
    assert float(jnp.abs(grad(corner)).max()) > 1e-4
    for z in (jnp.zeros((2, 4)), jnp.full((2, 4), 1e4), jnp.full((2, 4), 1e-30)):
        assert bool(jnp.isfinite(grad(z)).all()) and bool(jnp.isfinite(q(z).loss))


def test_mask_keeps_padding_out_of_the_loss():
    z = jax.random.normal(jax.random.key(3), (2, 5, 6))
    mask = jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    q = BSQ(bits=6, commitment=0.25, group=3)
    real = q(jnp.concatenate([z[0], z[1, :2]]))
    padded = q(jnp.where(mask[..., None], z, 7.0), mask=mask)
    np.testing.assert_allclose(padded.loss, real.loss, atol=2e-6)  # the difference of two entropies near 4


def test_bfloat16_input_gives_the_codes_of_its_float32_cast():
    z = jax.random.normal(jax.random.key(4), (50, 14)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(BSQ(bits=14).encode(z), BSQ(bits=14).encode(z.astype(jnp.float32)))


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(bits=36), "word at most 31"),
        (dict(bits=14, group=4), "group must divide bits"),
        (dict(bits=14, gradient="ste"), "gradient must be one of"),
    ],
)
def test_bad_fields_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        BSQ(**fields)


def test_wrong_width_is_refused():
    with pytest.raises(ValueError, match="expected 14 channels"):
        BSQ(bits=14)(jnp.zeros((2, 13)))
