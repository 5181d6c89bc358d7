"""Writing whole files, locally and in buckets (``gs://``): a crash leaves the old one or the new one, never half."""

import os

from etils import epath


def is_local(path: epath.PathLike) -> bool:
    """Whether a path is on a file system, and not in a bucket."""
    return "://" not in os.fspath(path)


def absolute(path: epath.PathLike) -> epath.Path:
    """The path from the root of its file system; one in a bucket is absolute as it is."""
    return epath.Path(os.path.abspath(path)) if is_local(path) else epath.Path(path)


def write_whole(path: epath.PathLike, data: bytes | str) -> None:
    """Replaces a file's contents at once: a bucket does so by itself, a file system by renaming a draft.

    Folders on the way are made.
    """
    path = epath.Path(path)
    raw = data.encode() if isinstance(data, str) else data
    path.parent.mkdir(parents=True, exist_ok=True)
    if not is_local(path):
        path.write_bytes(raw)
        return
    draft = path.parent / f".{path.name}.{os.getpid()}.partial"
    try:
        draft.write_bytes(raw)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
