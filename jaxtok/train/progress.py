"""What the person at the terminal and the metrics file see, a few steps behind the device.

A step's numbers are fetched two steps after it was dispatched. By then they are computed, so the host does not stall
the device; and the wait keeps the host from running further ahead than that.
"""

import collections
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from tqdm import tqdm

from jaxtok.train import flops
from jaxtok.train.writer import Writer

LAG = 2
log = logging.getLogger("jaxtok")
# From a step's number and its logged metrics to sentences by subject; the first about each subject is shown.
Warnings = Callable[[int, Mapping[str, float]], Mapping[str, str]]


class Signal(NamedTuple):
    """What the newest settled step says to all processes alike: why to stop (0: go on), first bad step (-1: none)."""

    stop: int = 0
    bad: int = -1


class Progress:
    """Settles steps in order: progress bar, metrics, signals."""

    def __init__(
        self,
        writer: Writer,
        plan: Mapping[str, Any],
        *,
        step: int,
        mesh: Mesh,
        show: bool,
        warnings: Warnings | None = None,
    ):
        """Starts the bar.

        Args:
          writer: where the metrics go.
          plan: the resolved ``train`` section: steps, log_every, batch_size.
          step: steps done.
          mesh: whose devices' peak bounds the utilisation.
          show: whether to show a bar and warnings.
          warnings: what the task says about a logged step's metrics.
        """
        self._warnings: Warnings = warnings if show and warnings else lambda step, metrics: {}
        self._warned: set[str] = set()
        self.writer, self.plan = writer, plan
        peak = flops.peak(mesh.devices.flat[0])
        self.peak = peak * mesh.size if peak else 0.0
        self.metrics: dict[str, float] = {}
        seconds = 0.2 if sys.stderr.isatty() else 20.0  # a log file wants few lines
        self.bar = tqdm(
            mininterval=seconds,
            total=plan["steps"],
            initial=step,
            desc="training",
            unit="step",
            disable=not show,
            dynamic_ncols=True,
        )
        self._waiting: collections.deque[tuple[int, Mapping[str, jax.Array], float]] = collections.deque()
        self._costs: dict[Any, float] = {}
        self._since, self._done, self._flops = 0.0, 0, 0.0  # of the steps timed since the last line
        self._timing, self._last = False, 0.0

    def cost(self, step_fn: Any, state: Any, frozen: Any, batch: Mapping[str, jax.Array], stop: jax.Array) -> float:
        """FLOPs of a step on batches of these shapes; counted once per shape, from the trace that the step needs."""
        kind = (step_fn, *((name, value.shape) for name, value in batch.items()))
        if kind not in self._costs:
            self._costs[kind] = flops.of(step_fn, state, frozen, batch, stop)
        return self._costs[kind]

    def push(self, step: int, out: Mapping[str, jax.Array], cost: float) -> Signal:
        """Takes a dispatched step's outputs; settles the one before the last two."""
        for name, value in out.items():
            if name == "signal" or self._logged(step):
                value.copy_to_host_async()
        self._waiting.append((step, out, cost))
        return self._settle() if len(self._waiting) > LAG else Signal()

    def drain(self) -> Signal:
        """Waits for all dispatched steps; the clock stands still until the next one."""
        signal = Signal()
        while self._waiting:
            signal = self._settle()
        self._timing = False
        return signal

    def close(self) -> None:
        """Closes the bar."""
        self.bar.close()

    def _settle(self) -> Signal:
        step, out, cost = self._waiting.popleft()
        stop, bad = (int(value) for value in jax.device_get(out["signal"]))
        now = time.perf_counter()
        if self._timing:  # the first step after a pause holds compilation or evaluation: not timed
            self._since, self._done, self._flops = self._since + now - self._last, self._done + 1, self._flops + cost
        self._timing, self._last = True, now
        self.bar.update(1)
        if bad < 0 and self._logged(step):
            self._log(step, out)
        return Signal(stop, bad)

    def _logged(self, step: int) -> bool:
        return step % self.plan["log_every"] == 0 or step in (1, self.plan["steps"])

    def _log(self, step: int, out: Mapping[str, Any]) -> None:
        self.metrics = {name: float(value) for name, value in jax.device_get(dict(out)).items() if name != "signal"}
        shown = {"loss": f"{self.metrics['loss']:.4g}"}
        if self._done:
            rate, size = self._done / self._since, self.plan["batch_size"]
            self.metrics |= {"steps_per_second": rate, "examples_per_second": rate * size}
            shown["examples/s"] = f"{rate * size:.3g}"
            if self._flops:
                self.metrics["teraflops_per_second"] = self._flops / self._since / 1e12
                if self.peak:
                    self.metrics["mfu"] = self._flops / self._since / self.peak
        self._since, self._done, self._flops = 0.0, 0, 0.0
        self.writer.write(step, self.metrics)
        for subject, sentence in self._warnings(step, self.metrics).items():
            if subject not in self._warned:
                self._warned.add(subject)
                log.warning(sentence)
        self.bar.set_postfix(shown, refresh=False)
