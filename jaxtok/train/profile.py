"""A trace of a window of steps, for TensorBoard's profile tab or xprof."""

from collections.abc import Sequence

import jax
from etils import epath

from jaxtok.files import is_local


class Window:
    """Traces the steps ``window[0] <= step < window[1]`` into ``workdir/profile``; an empty window traces nothing."""

    def __init__(self, window: Sequence[int], workdir: epath.Path):
        self.first, self.last = window
        self.folder, self.on = str(workdir / "profile"), False
        if self.first < self.last and not is_local(workdir):
            raise ValueError(f"config key 'train.profile' needs a local workdir, found {workdir}")

    def before(self, step: int) -> None:
        """To be called before each step is dispatched."""
        if not self.on and self.first <= step < self.last:
            jax.profiler.start_trace(self.folder)
            self.on = True
        elif self.on and step >= self.last:
            self.close()

    def close(self) -> None:
        """Ends the trace, where one is running."""
        if self.on:
            self.on = False
            jax.profiler.stop_trace()
