import jax
import jax.numpy as jnp
import numpy as np

from jaxtok.diffusion import consistency, paths, predictions, samplers, times

PATH = paths.Discrete(paths.sqrt_linear_betas())


def _constant(value, kind):
    return predictions.estimator(lambda x, k: jnp.full_like(x, value), kind, PATH)


def test_boundary_scales(compute):
    skip, out = compute(consistency.boundary_scales, np.array([0, 19]))
    np.testing.assert_allclose(skip, [1.0, 6.925e-6], rtol=1e-4)
    np.testing.assert_allclose(out, [0.0, 0.9999965], rtol=1e-6)
    skip, out = compute(consistency.edm_boundary_scales, np.float32([0.002, 0.502]))
    np.testing.assert_allclose(skip, [1.0, 0.5], rtol=1e-5)
    np.testing.assert_allclose(out, [0.0, 0.25 / np.hypot(0.502, 0.5)], rtol=1e-5, atol=1e-7)


def test_a_consistency_function_is_the_identity_at_the_boundary(compute, make_keys):
    function = consistency.consistent(_constant(0.5, "noise"))
    x, keys = np.array([[1.0, -2.0], [1.0, -2.0]], np.float32), make_keys(2)

    def both(x, k):
        return function(x, k), samplers.consistency(function, x, times.lcm_indices(1), PATH, keys)

    found, end = compute(both, x, np.array([0, 999]))
    np.testing.assert_array_equal(found[0], x[0])
    np.testing.assert_allclose(end[1], found[1], rtol=1e-6)
    np.testing.assert_allclose(compute(function, x, np.array([0, 500]))[1, 0], 1.093182, atol=1e-5)


def test_teacher_steps(compute):
    """The guided DDIM step by hand in float64, from 499 to 479, and from 19 to 0, where the level is index 0's."""
    x, k, weight = np.float32([[1.0], [0.7]]), np.array([499, 19]), np.float32([5.0, 15.0])
    teacher, without = _constant(0.5, "noise"), _constant(0.2, "noise")
    state, then = compute(lambda x: consistency.teacher_step(teacher, without, x, k, weight, PATH), x)
    assert then.tolist() == [479, 0]
    now, after, w = PATH.alpha_bar[k], PATH.alpha_bar[then], weight.astype(float)
    strong, weak = ((x[:, 0] - np.sqrt(1 - now) * e) / np.sqrt(now) for e in (0.5, 0.2))
    expected = np.sqrt(after) * (strong + w * (strong - weak)) + np.sqrt(1 - after) * (0.5 + w * 0.3)
    np.testing.assert_allclose(state[:, 0], expected, rtol=2e-5)


def test_draws_lie_on_the_grid(compute, make_keys):
    k, w = compute(consistency.teacher_draw, make_keys(4000))
    assert set(np.unique(k)) == set(range(19, 1000, 20))
    assert 5.0 <= w.min() < 5.05 and 14.95 < w.max() <= 15.0
    np.testing.assert_allclose(w.mean(), 10.0, atol=0.2)


def test_the_distillation_loss(compute):
    """0 for the consistency function of data at one point; its gradient reaches the student alone."""
    point, x, k = np.float32(0.3), np.float32([[1.0, 0.5], [0.7, -1.0]]), np.array([499, 19])
    perfect = _constant(point, "data")

    def losses(student, average):
        stepped = consistency.teacher_step(perfect, perfect, x, k, np.float32([5.0, 9.0]), PATH)

        def loss(student, average, huber):
            functions = [lambda x, k, p=p: jnp.full_like(x, p) for p in (student, average)]
            return consistency.distillation_loss(*functions, x, k, stepped, huber=huber).sum()

        return jax.value_and_grad(loss, (0, 1))(student, average, 0.001), loss(student, average, 0)

    (value, slopes), square = compute(losses, point, point)
    assert value == 0.0 and slopes == (0.0, 0.0) and square == 0.0
    (value, slopes), square = compute(losses, np.float32(0.4), point)
    steep = np.hypot(0.1, 0.001)
    np.testing.assert_allclose([value, *slopes, square], [2 * (steep - 0.001), 0.2 / steep, 0.0, 0.02], rtol=1e-4)
    np.testing.assert_allclose(consistency.pseudo_huber(np.array([0.0, 1.0]), 0.75), [0.0, 0.5])
