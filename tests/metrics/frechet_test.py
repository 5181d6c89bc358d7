"""The Frechet distance against closed forms."""

import numpy as np
import pytest

from jaxtok.metrics import frechet

RNG = np.random.default_rng(0)


def _moments(mean, covariance):
    return frechet.Moments(np.asarray(mean, float), np.asarray(covariance, float), 10)


def test_closed_forms():
    one, other = _moments([0, 0], np.diag([4.0, 9.0])), _moments([3, 4], np.diag([1.0, 16.0]))
    assert frechet.distance(one, other) == pytest.approx(25 + (2 - 1) ** 2 + (3 - 4) ** 2)  # commuting covariances
    turned = np.array([[2.0, 1.0], [1.0, 2.0]])  # eigenvalues 3 and 1; of its product with diag(4, 1): 5 +- sqrt(13)
    expected = 5 + 4 - 2 * (np.sqrt(5 + np.sqrt(13)) + np.sqrt(5 - np.sqrt(13)))
    assert frechet.distance(_moments([0, 0], np.diag([4.0, 1.0])), _moments([0, 0], turned)) == pytest.approx(expected)
    assert frechet.distance(one, one) == pytest.approx(0, abs=1e-9)
    flat = _moments([0, 0], np.diag([4.0, 0.0]))  # a singular covariance needs nothing on its diagonal
    assert frechet.distance(flat, one) == pytest.approx(9)
    assert frechet.distance(one, other) == pytest.approx(frechet.distance(other, one))


def test_moments_are_numpy_s_and_few_rows_are_far():
    x = RNG.normal(size=(4000, 3)) @ RNG.normal(size=(3, 3)) + 1
    found = frechet.moments(x)
    np.testing.assert_allclose(found.mean, x.mean(0))
    np.testing.assert_allclose(found.covariance, np.cov(x.T))
    assert frechet.distance(frechet.moments(x[:20]), found) > frechet.distance(frechet.moments(x[:2000]), found)


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (np.zeros((1, 3)), "at least 2 rows"),
        (np.zeros(3), r"expected \[N, D\]"),
        (np.full((3, 2), np.nan), "found 6 that are not"),
    ],
)
def test_bad_features(features, said):
    with pytest.raises(ValueError, match=said):
        frechet.moments(features)
    with pytest.raises(ValueError, match="one width, found 2 and 3"):
        frechet.distance(_moments([0, 0], np.eye(2)), _moments([0, 0, 0], np.eye(3)))
