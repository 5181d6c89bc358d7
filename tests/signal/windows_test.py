import pytest

from jaxtok.signal import windows


@pytest.mark.parametrize("frames", [8, 128, 136, 400, 1000])
def test_asked_parts_tile_the_sequence_and_have_their_context(frames):
    spans = windows.overlapping(frames, 128, 16)
    assert [s[2] for s in spans] == [0, *(s[3] for s in spans[:-1])] and spans[-1][3] == frames
    for low, high, start, end in spans:
        assert 0 <= low <= start < end <= high <= frames and high - low == min(frames, 128)
        assert (low == 0 or start - low >= 16) and (high == frames or high - end >= 16)


def test_padded_lengths_are_few():
    assert [windows.padded(n, 2000) for n in (1, 64, 65, 1025, 2000)] == [64, 64, 128, 2000, 2000]
    assert len({windows.padded(n, 2000) for n in range(1, 2001)}) == 6


def test_context_that_fills_the_window_is_refused():
    with pytest.raises(ValueError, match="2 context < window"):
        windows.overlapping(100, 32, 16)
