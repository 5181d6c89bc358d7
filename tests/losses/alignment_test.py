import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.losses import alignment


def drawn(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def test_repa_is_the_mean_negative_cosine_of_real_tokens():
    a, b = drawn(0, 2, 3, 5), drawn(1, 2, 3, 5)
    mask = np.array([[1, 1, 1], [1, 0, 0]], bool)
    cosines = (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)
    repa = jax.jit(alignment.repa)
    np.testing.assert_allclose(repa(a, b, mask=mask), [-cosines[0].mean(), -cosines[1, 0]], rtol=1e-5)
    np.testing.assert_allclose(repa(a, 3 * a), [-1, -1], rtol=1e-6)
    grads = jax.jit(jax.grad(lambda a, b: alignment.repa(a, b).sum(), argnums=(0, 1)))(a, b)
    assert np.abs(grads[0]).max() > 0 and (np.asarray(grads[1]) == 0).all()
    with pytest.raises(ValueError, match=r"features: expected the shape of projected, \(2, 3, 5\)"):
        alignment.repa(a, b[..., :4])


def test_projector_has_three_layers():
    module = alignment.Projector(out=768)
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), jnp.zeros((1, 4, 1152))))
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == 1152 * 2048 + 2048 + 2048 * 2048 + 2048 + 2048 * 768 + 768


def test_distances_do_not_change_when_the_teacher_turns():
    """Card of VA-VAE, (a): an orthogonal transform of f has loss 0, whatever the margin."""
    f = drawn(0, 2, 6, 4)
    turn, _ = np.linalg.qr(drawn(1, 4, 4))
    distances = jax.jit(alignment.distance_matrix)
    np.testing.assert_allclose(distances(f @ turn, f, margin=0.0), 0.0, atol=1e-6)
    z, g = drawn(2, 1, 3, 5), drawn(3, 1, 3, 4)  # widths differ
    unit = [x[0] / np.linalg.norm(x[0], axis=-1, keepdims=True) for x in (z, g)]
    excess = np.maximum(np.abs(unit[0] @ unit[0].T - unit[1] @ unit[1].T) - 0.25, 0)
    np.testing.assert_allclose(distances(z, g), [excess.mean()], rtol=1e-4)
    mask = np.array([[1, 1, 0]], bool)
    np.testing.assert_allclose(distances(z, g, mask=mask), [excess[:2, :2].mean()], rtol=1e-4)
    with pytest.raises(ValueError, match=r"expected \(1, 3\) vectors"):
        alignment.distance_matrix(z, g[:, :2])


def test_a_cosine_within_the_margin_costs_nothing():
    f = np.array([[[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]]], np.float32)
    angle = np.deg2rad([59.0, 60.0, 90.0])  # cosines .515, .5, 0
    z = np.stack([np.cos(angle), np.sin(angle)], -1)[None].astype(np.float32)
    np.testing.assert_allclose(alignment.marginal_cosine(z, f), [0.5 / 3], rtol=1e-5)
    np.testing.assert_allclose(alignment.marginal_cosine(z[:, :1], f[:, :1]), [0.0])
    np.testing.assert_allclose(alignment.marginal_cosine(z, f, margin=0.0), [(3 - np.cos(angle).sum()) / 3], rtol=1e-5)


def test_no_gradient_within_the_margins():
    f = drawn(0, 1, 5, 4)
    z = f + 0.02 * drawn(1, 1, 5, 4)
    within = lambda z, m: alignment.distance_matrix(z, f, margin=m).sum() + alignment.marginal_cosine(z, f).sum()  # noqa: E731
    slope = jax.jit(jax.grad(within))
    assert (np.asarray(slope(z, 0.25)) == 0).all()
    assert np.abs(slope(z, 0.0)).max() > 0


def test_weighted_loss_has_a_tenth_of_the_first_losss_gradient():
    """Card of VA-VAE, (a), at one kernel in the middle of a network; the weight itself is a constant."""
    params = {"first": {"kernel": drawn(0, 4, 5)}, "last": {"kernel": drawn(1, 5, 3)}}
    x, target = drawn(2, 7, 4), drawn(3, 7, 5)

    def losses(params):
        z = jnp.tanh(x @ params["first"]["kernel"])
        aligned = alignment.marginal_cosine(z[None], target[None], margin=0.0).sum()
        return jnp.square(z @ params["last"]["kernel"]).sum(), aligned

    def of(kernel):
        return losses(alignment.replaced(params, "first/kernel", kernel))

    def weight(params, **options):
        return alignment.adaptive_weight(of, alignment.replaced(params, "first/kernel"), **options)

    def norm(f, params):
        return jnp.linalg.norm(jax.grad(f)(params)["first"]["kernel"])

    @jax.jit
    def run(params):
        found, constant = jax.value_and_grad(weight)(params)
        first, second = (norm(lambda p, i=i: losses(p)[i], params) for i in range(2))
        return found * second / first, weight(params, weight=0.5, limit=2.0), constant

    share, limited, constant = run(params)
    np.testing.assert_allclose(share, 0.1, rtol=1e-3)
    np.testing.assert_allclose(limited, 1.0)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(constant))
    with pytest.raises(ValueError, match=r"path: expected a leaf at 'third', found \['kernel'\]"):
        alignment.replaced(params, "first/third")
    with pytest.raises(ValueError, match="found a branch of"):
        alignment.replaced(params, "first")
