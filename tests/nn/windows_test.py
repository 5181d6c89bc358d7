import numpy as np
import pytest

from jaxtok.nn import windows


def test_windows_are_boxes_row_by_row_and_merge_is_the_inverse():
    x = np.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3)
    cut = windows.partition(x, (2, 3))
    assert cut.shape == (2, 4, 6, 3)
    np.testing.assert_array_equal(cut[1, 2], x[1, 2:, :3].reshape(6, 3))  # second row of windows, first column
    np.testing.assert_array_equal(windows.merge(cut, (2, 3), (4, 6)), x)
    video = np.arange(2 * 4 * 4 * 6 * 2).reshape(2, 4, 4, 6, 2)
    cut = windows.partition(video, (2, 4, 3))
    assert cut.shape == (2, 4, 24, 2)
    np.testing.assert_array_equal(cut[0, 1], video[0, :2, :, 3:].reshape(24, 2))
    np.testing.assert_array_equal(windows.merge(cut, (2, 4, 3), (4, 4, 6)), video)


def test_shift_goes_around_the_edge_and_its_mask_parts_what_was_not_together():
    x = np.arange(16).reshape(1, 4, 4, 1)
    moved = windows.shift(x, (1, 1))
    assert moved[0, 0, 0, 0] == 5 and moved[0, 3, 3, 0] == 0
    np.testing.assert_array_equal(windows.shift(moved, (-1, -1)), x)
    mask = windows.shifted_mask((4, 4), (2, 2), (1, 1))
    assert mask.shape == (4, 4, 4) and mask[0].all()
    np.testing.assert_array_equal(mask[3], np.eye(4, dtype=bool))  # the corner: four pieces of the grid
    np.testing.assert_array_equal(mask[1], np.kron(np.ones((2, 2)), np.eye(2)).astype(bool))
    places = windows.partition(moved, (2, 2))[0, :, :, 0]  # who sees whom were neighbours before the shift
    near = np.abs(places[:, :, None] // 4 - places[:, None] // 4) + np.abs(places[:, :, None] % 4 - places[:, None] % 4)
    np.testing.assert_array_equal(mask, near <= 2)
    assert windows.shifted_mask((4, 4), (2, 2), (0, 0)).all()


def test_bad_windows():
    x = np.zeros((1, 4, 6, 3))
    with pytest.raises(ValueError, match=r"window: \(3, 3\) must divide the grid \(4, 6\)"):
        windows.partition(x, (3, 3))
    with pytest.raises(ValueError, match=r"windows: expected \[B, 4, 6, C\].*found shape \(1, 2, 12, 3\)"):
        windows.merge(x.reshape(1, 2, 12, 3), (2, 3), (4, 6))
