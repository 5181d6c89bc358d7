"""Cutting long sequences into windows that overlap, and padding short ones to few lengths."""


def overlapping(frames: int, window: int, context: int) -> list[tuple[int, int, int, int]]:
    """Windows (low, high, start, end) over ``frames`` positions.

    Each window sees [low, high) and is asked for [start, end): what it sees beyond, ``context`` positions on each side
    (at the ends of the sequence on the inner side alone), only informs. The asked parts follow each other without gap
    or overlap. A sequence of at most ``window`` positions is one window.

    Args:
      frames: length of the sequence.
      window: positions that a window sees, more than twice ``context``.
      context: positions on each side that are not asked for.
    """
    if not 0 <= 2 * context < window:
        raise ValueError(f"windows: expected 0 <= 2 context < window, found context {context}, window {window}")
    if frames <= window:
        return [(0, frames, 0, frames)]
    spans, start = [], 0
    while start < frames:
        low = max(0, start - context)
        high = min(frames, low + window)
        low = max(0, high - window)
        end = frames if high == frames else high - context
        spans.append((low, high, start, end))
        start = end
    return spans


def padded(frames: int, largest: int, smallest: int = 64) -> int:
    """A length to pad ``frames`` to: a doubling of ``smallest`` or ``largest``, so that few shapes are compiled."""
    size = smallest
    while size < frames:
        size *= 2
    return min(size, max(largest, frames))
