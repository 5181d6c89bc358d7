import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.diffusion import times


def test_shifts_compose_and_keep_the_ends():
    t = np.linspace(0, 1, 11)
    np.testing.assert_allclose(times.shift(times.shift(t, 3.0), 2.0), times.shift(t, 6.0), atol=1e-12)
    np.testing.assert_allclose(times.shift(times.shift(t, 3.0), 1 / 3), t, atol=1e-12)
    assert times.shift(0.5, 3.0) == 0.75
    np.testing.assert_allclose(times.shift(0.5, 0.3), 0.230769, atol=1e-6)
    assert all(times.shift(np.float32([0, 1]), q).tolist() == [0, 1] for q in np.arange(0.1, 12, 0.01))


def test_shifts_by_size():
    found = [times.shift_of_tokens(n) for n in (256, 1024, 4096)]
    np.testing.assert_allclose(found, [np.exp(0.5), np.exp(0.63), 3.158], rtol=1e-4)
    found = [times.shift_of_size(4 * 32 * 32), times.shift_of_size(32 * 256), times.shift_of_size(768 * 256)]
    np.testing.assert_allclose(found, [1, 1.414, 6.928], atol=5e-4)
    np.testing.assert_allclose(times.shift(0.001, found[2]), 0.00689, atol=1e-5)  # where RAE's grid ends


def test_draws_have_their_quantiles(compute, make_keys):
    def draw(keys):
        draws = times.logit_normal(keys), times.log_normal_sigma(keys), times.mode(keys)
        return *draws, times.stratified(keys[0], 16), times.evenly(jnp.arange(5), 4)

    t, sigma, middle, even, fixed = compute(draw, make_keys(20000))
    found = np.quantile(t, [0.1, 0.25, 0.5, 0.75, 0.9])
    np.testing.assert_allclose(found, [0.2173, 0.3375, 0.5, 0.6625, 0.7827], atol=0.01)
    assert abs(np.mean((t > 0.25) & (t < 0.75)) - 0.728) < 0.01
    np.testing.assert_allclose([np.log(sigma).mean(), np.log(sigma).std()], [-1.2, 1.2], atol=0.03)
    found = np.quantile(middle, [0.0, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(found, [0.0, 0.38358, 0.5, 0.61641, 1.0], atol=0.01)
    np.testing.assert_array_equal(np.floor(even * 16), np.arange(16))
    np.testing.assert_allclose(fixed, [0.125, 0.375, 0.625, 0.875, 0.125])


def test_grids():
    sigmas = times.karras_sigmas(18)
    np.testing.assert_allclose(sigmas[:6], [80, 57.586, 40.786, 28.375, 19.352, 12.910], rtol=1e-4)
    np.testing.assert_allclose(sigmas[-4:], [0.022935, 0.007528, 0.002, 0.0], rtol=1e-4)
    found = times.flow_match_grid(28, 3.0)
    np.testing.assert_allclose(found[[0, 1, 2, -3, -2, -1]], [1, 0.98738, 0.97411, 0.11091, 0.0089286, 0], atol=1e-5)
    once = times.shift(times.uniform_grid(28), 3.0)
    np.testing.assert_allclose(once[[1, -2, -1]], [0.987805, 0.1, 0.0], atol=1e-6)
    data_time = 1 - times.shift(times.uniform_grid(249), 1 / 0.3)  # LightningDiT's 250 points
    np.testing.assert_allclose(data_time[[1, 125]], [0.001208, 0.232198], atol=1e-6)
    sit = times.uniform_grid(250, last=0.04)
    assert len(sit) == 251
    np.testing.assert_allclose([sit[0] - sit[1], sit[-2], sit[-1]], [0.003855, 0.04, 0.0], atol=1e-6)
    stretched = times.stretch(once, 0.1)
    np.testing.assert_allclose(stretched[[0, -2, -1]], [1.0, 0.1, 0.0], atol=1e-6)


def test_indices_of_a_table():
    assert times.indices(50)[:3].tolist() == [999, 979, 959]
    assert times.indices(50, spacing="leading")[:3].tolist() == [981, 961, 941]
    assert times.indices(50, spacing="linspace")[:3].tolist() == [999, 979, 958]
    for steps in range(1, 1001):
        found = times.indices(steps)
        assert len(found) == steps and found[0] == 999 and found.min() >= 0 and (np.diff(found) < 0).all()
    assert times.lcm_indices(4).tolist() == [999, 759, 499, 259]
    assert times.lcm_indices(8).tolist() == [999, 879, 759, 639, 499, 379, 259, 139]
    assert times.lcm_indices(50)[np.array([0, 16, 32, 45])].tolist() == [999, 679, 359, 99]


def test_a_padded_grid_is_that_of_its_count():
    make = functools.partial(times.indices, spacing="respaced")
    both = jax.jit(lambda n: (times.padded_grid(n, 12), times.padded_grid(n, 12, make, least=2)))
    for count in (2, 7, 12):
        grid, table = both(count)
        expected = np.append(times.uniform_grid(count), np.zeros(12 - count, np.float32))
        np.testing.assert_array_equal(grid, expected)
        assert table.tolist() == make(count).tolist() + [0] * (12 - count)
    np.testing.assert_array_equal(times.padded_grid(5, 5, times.karras_sigmas, least=2), times.karras_sigmas(5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: times.uniform_grid(0), "at least 1 step"),
        (lambda: times.flow_match_grid(0), "at least 1 step"),
        (lambda: times.indices(0), "expected 1 to 1000 steps, found 0"),
        (lambda: times.indices(5, spacing="even"), "spacing must be"),
        (lambda: times.shift(0.5, 0.0), "shift must be positive"),
        (lambda: times.indices(1000, spacing="leading"), "leaves the table of 1000 levels"),
        (lambda: times.karras_sigmas(1), "at least 2 steps"),
        (lambda: times.lcm_indices(51), "expected 1 to 50 steps"),
        (lambda: times.padded_grid(9, 8), "expected 1 to 8 steps, found 9"),
        (lambda: times.padded_grid(9, 8, least=9), "expected 1 <= least <= most"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
