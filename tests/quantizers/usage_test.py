import numpy as np
import pytest

from jaxtok.quantizers import usage


def test_perplexity_of_three_to_one():
    counts = usage.histogram(np.array([0, 0, 0, 1]), 8)
    summary = usage.summary(counts)
    np.testing.assert_allclose(summary["perplexity"], 1.7548, atol=1e-4)
    assert summary["used"] == 2 and summary["usage"] == 0.25 and summary["tokens"] == 4


def test_mask_leaves_padding_out():
    codes = np.array([[1, 2, 0], [3, 0, 0]])
    counts = usage.histogram(codes, 4, np.array([[1, 1, 0], [1, 0, 0]], bool))
    np.testing.assert_array_equal(counts, [0, 1, 1, 1])


def test_uniform_usage_of_as_many_draws_as_codes():
    np.testing.assert_allclose(usage.uniform_usage(16384, 16384), 0.632, atol=1e-3)
    np.testing.assert_allclose(usage.uniform_usage(16384, 65536), 0.982, atol=1e-3)


def test_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        usage.histogram(np.array([4]), 4)


def test_each_codebook_is_counted_by_itself():
    codes = np.array([[[0, 3], [1, 3]], [[2, 3], [2, 0]]])
    found = usage.books(codes, 4, np.array([[True, True], [True, False]]))
    assert {name: (each["used"], each["tokens"]) for name, each in found.items()} == {
        "codebook 0": (3, 3),
        "codebook 1": (1, 3),
    }
    assert list(usage.books(codes[..., :1], 4)) == ["codebook"]
