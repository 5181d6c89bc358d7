import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.nn import merge


def test_the_best_tokens_go_through_and_all_others_stay_as_they_are():
    rng = np.random.default_rng(0)
    x, scores = rng.standard_normal((2, 6, 3), dtype=np.float32), rng.standard_normal((2, 6), dtype=np.float32)
    scores[0] = [1, 3, -np.inf, 3, 2, 3]

    @jax.jit
    def run(x, scores):
        places = merge.select(scores, 4)
        out = merge.through(lambda tokens, places: 2 * tokens + places[..., None], x, places)
        same = merge.scatter(x, places, merge.gather(x, places))
        return places, merge.complement(places, 6), out, same, merge.gather(out, places)

    places, others, out, same, chosen = (np.asarray(a) for a in run(x, scores))
    assert places[0].tolist() == [1, 3, 4, 5] and others[0].tolist() == [0, 2]
    assert sorted([*places[1], *others[1]]) == list(range(6))
    assert set(others[1]) == set(np.argsort(scores[1])[:2])
    np.testing.assert_array_equal(same, x)
    for i in range(2):
        np.testing.assert_array_equal(out[i, others[i]], x[i, others[i]])
        np.testing.assert_allclose(out[i, places[i]], 2 * x[i, places[i]] + places[i][:, None], rtol=1e-6)
        np.testing.assert_array_equal(chosen[i], out[i, places[i]])


def test_more_tokens_than_there_are():
    for number in (0, 7):
        with pytest.raises(ValueError, match=f"count: expected 1 to 6 tokens, found {number}"):
            merge.select(jnp.zeros((1, 6)), number)
