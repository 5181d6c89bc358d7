"""Where numbers, pictures and sound of a run go: JSON lines always, TensorBoard where it is installed."""

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from jaxtok.files import is_local, write_whole
from jaxtok.train.errors import TrainingError

NAME = "metrics.jsonl"
log = logging.getLogger("jaxtok")


class Writer:
    """Writes ``metrics.jsonl`` (one object per line: ``step`` and numbers) and TensorBoard events.

    On a resumed run the lines after ``step`` are dropped first, so that each step is there once.
    """

    def __init__(self, workdir: epath.PathLike, *, step: int = 0, active: bool = True):
        """Opens the files.

        Args:
          workdir: the run's directory.
          step: steps done so far; later lines of an earlier process are dropped.
          active: False on all processes but the first: nothing is written.
        """
        self.path, self.active = epath.Path(workdir) / NAME, active
        self._events: Any = None
        self._file: Any = None
        self._lines: list[str] = []
        if not active:
            return
        kept = [line for line in read_lines(self.path) if line["step"] <= step]
        self._lines = [json.dumps(line) for line in kept]
        self._rewrite()
        if is_local(workdir):
            self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 (open until close)
        self._events = _tensorboard(workdir, step)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Appends one line and the same scalars for TensorBoard.

        Raises:
          TrainingError: when the disk is full or the directory cannot be written.
        """
        if not self.active:
            return
        line = json.dumps({"step": step} | {key: _plain(value) for key, value in scalars.items()})
        try:
            if self._file is not None:
                self._file.write(line + "\n")
                self._file.flush()
            else:
                self._lines.append(line)
            if self._events is not None:
                for key, value in scalars.items():
                    self._events.add_scalar(key, float(value), step)
        except OSError as error:
            raise TrainingError(f"metrics could not be written to {self.path} ({error})") from error

    def images(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Pictures [H, W, C] uint8, or floats in [0, 1], for TensorBoard."""
        for name, picture in pictures.items() if self._events is not None else ():
            self._events.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def audio(self, step: int, sounds: Mapping[str, np.ndarray], *, rate: int) -> None:
        """Waveforms [L] in [-1, 1] at ``rate`` Hz, for TensorBoard."""
        for name, sound in sounds.items() if self._events is not None else ():
            self._events.add_audio(name, np.asarray(sound, np.float32)[:, None], step, sample_rate=rate)

    def flush(self) -> None:
        """Brings everything to the disk; a bucket has no append, so there the file is written anew."""
        if not self.active:
            return
        if self._file is None:
            self._rewrite()
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Flushes and closes."""
        self.flush()
        if self._file is not None:
            self._file.close()
        if self._events is not None:
            self._events.close()
        self.active = False

    def _rewrite(self) -> None:
        write_whole(self.path, "".join(line + "\n" for line in self._lines))


def read_lines(path: epath.PathLike) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line that was cut short by a kill is left out."""
    path = epath.Path(path)
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def _plain(value: Any) -> float | int:
    return value if isinstance(value, int) else float(value)


def _tensorboard(workdir: epath.PathLike, step: int) -> Any:
    if not is_local(workdir):
        return None  # the event writer knows files only; metrics.jsonl holds the same numbers
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        log.info("tensorboardX is not installed: metrics go to %s only", NAME)
        return None
    return SummaryWriter(str(workdir), purge_step=step + 1 if step else None)
