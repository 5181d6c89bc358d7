import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.signal import resample


def test_down_by_eight_takes_the_middle_of_each_group():
    ramp = jnp.arange(80.0)[None, :, None]
    np.testing.assert_array_equal(resample.linear(ramp, 10)[0, :, 0], 3.5 + 8 * np.arange(10))


def test_up_by_eight_interpolates_between_centres():
    up = resample.linear(jnp.array([0.0, 1.0])[None, :, None], 16)[0, :, 0]
    expected = np.concatenate([np.zeros(4), np.arange(1, 16, 2) / 16, np.ones(4)])
    np.testing.assert_allclose(up, expected, atol=1e-7)


def test_no_positions_is_refused():
    with pytest.raises(ValueError, match="at least one position"):
        resample.linear(jnp.zeros((1, 0, 3)), 4)
