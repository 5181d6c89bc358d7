"""What says that a checkpoint is whole: ``manifest.json``, written last, with the digest of every file.

The storage layer loads a file with a flipped bit without a word, and buckets have no rename; so a checkpoint counts
only when its manifest is there, agrees with itself, and agrees with every file's size and SHA-256.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from etils import epath

from jaxtok.files import absolute

NAME = "manifest.json"
_BLOCK = 1 << 22


def folder(workdir: epath.PathLike) -> epath.Path:
    """Where a run keeps its checkpoints."""
    return absolute(workdir) / "checkpoints"


def at(workdir: epath.PathLike, step: int) -> epath.Path:
    """The directory of one step's checkpoint."""
    return folder(workdir) / f"{step:08d}"


def steps(workdir: epath.PathLike) -> list[int]:
    """Steps whose checkpoint has a manifest, ascending; whether they are whole is for ``damage`` to say."""
    found = folder(workdir)
    if not found.exists():
        return []
    names = [path.name for path in found.iterdir() if re.fullmatch(r"\d{8,}", path.name)]
    return sorted(int(name) for name in names if (found / name / NAME).exists())


def write(directory: epath.Path, body: Mapping[str, Any]) -> None:
    """Digests every file under ``directory`` and commits it with ``body`` and the digests."""
    names = sorted(_files(directory))
    with ThreadPoolExecutor(4) as pool:  # hashing leaves the interpreter lock to the training loop
        digests = dict(zip(names, pool.map(lambda name: _digest(directory / name), names)))
    text = json.dumps(dict(body) | {"files": digests}, sort_keys=True)
    seal = hashlib.sha256(text.encode()).hexdigest()
    (directory / NAME).write_text(json.dumps({"sha256": seal, "body": text}))


def read(directory: epath.Path) -> dict[str, Any]:
    """The body of a manifest.

    Raises:
      ValueError: when it is missing, cut short or altered.
    """
    try:
        outer = json.loads((directory / NAME).read_bytes().decode())
        seal, text = outer["sha256"], outer["body"]
        if hashlib.sha256(text.encode()).hexdigest() != seal:
            raise ValueError("its digest differs")
        return json.loads(text)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ValueError(f"{directory / NAME} is damaged ({error})") from error


def damage(directory: epath.Path) -> str:
    """What is wrong with a checkpoint, naming the file; empty when it is whole."""
    try:
        files = read(directory)["files"]
    except ValueError as error:
        return str(error)
    with ThreadPoolExecutor(4) as pool:
        for fault in pool.map(lambda name: _fault(directory / name, *files[name]), sorted(files)):
            if fault:
                return fault
    return ""


def remove(directory: epath.Path) -> None:
    """Deletes a checkpoint; its manifest goes first, so that a half-deleted one does not count."""
    (directory / NAME).unlink(missing_ok=True)
    directory.rmtree(missing_ok=True)


def clean(workdir: epath.PathLike) -> None:
    """Removes what a killed process left: checkpoints without a manifest and temporary directories."""
    found = folder(workdir)
    if not found.exists():
        return
    for path in list(found.iterdir()):
        unfinished = re.fullmatch(r"\d{8,}", path.name) and not (path / NAME).exists()
        if unfinished or re.match(r"\d{8,}\.", path.name):
            path.rmtree(missing_ok=True)


def _files(directory: epath.Path, prefix: str = "") -> Iterator[str]:
    for path in directory.iterdir():
        name = prefix + path.name
        if path.is_dir():
            yield from _files(path, name + "/")
        elif name != NAME:
            yield name


def _digest(path: epath.Path) -> tuple[int, str]:
    sha, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            sha.update(block)
            size += len(block)
    return size, sha.hexdigest()


def _fault(path: epath.Path, size: int, digest: str) -> str:
    try:
        found_size, found = _digest(path)
    except OSError as error:
        return f"{path} cannot be read ({error})"
    if found_size != size:
        return f"{path} has {found_size} bytes, expected {size}"
    return "" if found == digest else f"{path} was altered after it was written (its SHA-256 differs)"
