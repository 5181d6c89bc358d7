"""Two programs timed against each other in processes of their own: what the comparisons beside this file share.

A comparison is a script that starts itself again as one worker per side (``Worker``). A worker pins itself (``pin``),
prepares, and then does what the lines on its input name (``serve``), while the parent lets the sides take turns
(``alternate``), so that each ratio compares neighbours in time. With one thread the clock is the process's CPU time,
which other work on the machine hardly moves; with more it is the wall, which needs a quiet machine.
"""

import importlib.metadata
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

Times = dict[str, dict[str, list[float]]]  # name of the work -> side -> seconds

# What a worker's allocator does with freed memory, of its environment. TIGHT returns arrays to the system at once, for
# measuring memory: it costs time. KEPT returns none: else a side that has waited pays for its first pages again.
TIGHT = {"MALLOC_MMAP_THRESHOLD_": "131072"}
KEPT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40)}


class Worker:
    """A child process of the running script, that :func:`serve`\\ s.

    Args:
      words: arguments that make the script a worker.
      folder: of the comparison, for what sides exchange and for compiled programs.
      threads: of the numeric libraries.
      memory: nothing, ``TIGHT`` or ``KEPT``.
    """

    def __init__(
        self, words: Iterable[str], folder: pathlib.Path, threads: int, memory: Mapping[str, str] | None = None
    ):
        self.process = subprocess.Popen(
            command(words), env=environment(folder, threads, memory or {}), text=True, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        self.notes = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker ended with code {self.process.wait()}")
        return json.loads(line)

    def run(self, *words: str) -> dict:
        print(*words, file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def command(words: Iterable[str]) -> list[str]:
    """The running script with its arguments and further ones."""
    return [sys.executable, *sys.argv, *words]


def environment(folder: pathlib.Path, threads: int, memory: Mapping[str, str]) -> dict[str, str]:
    """Of a worker."""
    return os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),  # read by a second process, for its memory
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        **memory,
    }


def pin(threads: int) -> None:
    """Keeps this process on its first ``threads`` cores."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])


def peak_mb() -> int:
    """The most memory that this process ever had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def serve(ready: Callable[[str], Callable[[], Any]], folder: pathlib.Path, notes: dict) -> None:
    """A worker's life: a JSON line of notes, then for each line ``name [file] [times]`` the time of ``ready(name)()``.

    Its result (an array, or a dict of arrays) is saved where a file is named ("-" for none); it runs ``times`` times.
    """
    print(json.dumps(notes | {"ready_mb": peak_mb()}), flush=True)
    for line in sys.stdin:
        name, file, times = (*line.split(), "", "")[:3]
        call, times, out = ready(name), int(times or 1), None
        begin, begin_cpu = time.perf_counter(), time.process_time()
        for _ in range(times):
            out = call()
        seconds, cpu = time.perf_counter() - begin, time.process_time() - begin_cpu
        if file not in ("", "-"):
            np.savez(folder / file, **out) if isinstance(out, dict) else np.save(folder / file, out)
        answer = {"seconds": seconds / times, "cpu_seconds": cpu / times, "peak_mb": peak_mb()}
        print(json.dumps(answer), flush=True)


def alternate(workers: dict[str, Worker], names: dict[str, int], pairs: int, threads: int) -> Times:
    """Lets the workers take turns at each of ``names`` (with its number of repetitions), ``pairs`` times."""
    clock = "cpu_seconds" if threads == 1 else "seconds"
    times: Times = {name: {side: [] for side in workers} for name in names}
    for pair in range(pairs):
        for name, sides in times.items():
            for side, worker in workers.items():
                time.sleep(0.3)  # the other side's threads stop spinning
                sides[side].append(worker.run(name, "-", str(names[name]))[clock])
            seconds = ", ".join(f"{side} {values[-1]:.4g} s" for side, values in sides.items())
            first, last = (values[-1] for values in sides.values())
            ratio, load = first / last, os.getloadavg()[0]
            print(f"pair {pair + 1} {name}: {seconds}, ratio {ratio:.2f}, load {load:.1f}", flush=True)
    return times


def compared(sides: dict[str, list[float]]) -> dict:
    """Ratios of the first side's seconds to the second's: of each pair, their median, of the medians, of the minima."""
    first, second = sides.values()
    each = [a / b for a, b in zip(first, second)]
    return {
        **{f"{side}_s": [float(f"{t:.4g}") for t in values] for side, values in sides.items()},
        "ratios": [round(r, 3) for r in each],
        "median_ratio": round(statistics.median(each), 3),
        "ratio_of_medians": round(statistics.median(first) / statistics.median(second), 3),
        "ratio_of_minima": round(min(first) / min(second), 3),
    }


def setting(script: str, packages: Iterable[str]) -> dict:
    """What a record says of where its numbers come from."""
    return {
        "command": f"JAX_PLATFORMS=cpu python experiments/benchmarks/{script} {' '.join(sys.argv[1:])}".strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }


def described(setting: dict, threads: int) -> str:
    """Two sentences for a page: threads, machine, versions, what a ratio is."""
    versions = ", ".join(f"{name} {version}" for name, version in setting["versions"].items())
    clock = " Seconds are the process's CPU time, which other work on the machine hardly moves." * (threads == 1)
    return (
        f"float32, {threads} thread(s) each, interleaved runs on {setting['machine']}; {versions}. Ratio = PyTorch's "
        f"seconds over jaxtok's, of neighbouring runs; above 1, jaxtok is faster.{clock}"
    )
