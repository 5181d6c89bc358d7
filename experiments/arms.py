"""What every experiment does with its arms: run each with several seeds, tabulate, compare, draw, write.

A row is ``{"arm": name, "seed": int, "numbers": {metric: float}, "seconds": float}``, and comes from a function
``run(arm, seed, **options) -> row`` at the top level of the experiment's module.
"""

import argparse
import concurrent.futures
import datetime
import json
import multiprocessing
import os
import platform
from collections.abc import Callable, Sequence

import jax
import numpy as np
from etils import epath

Row = dict


def parser(doc: str, *, steps: int, seeds: int = 3) -> argparse.ArgumentParser:
    """The options that all experiments share."""
    found = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--steps", type=int, default=steps, help="training steps of each run")
    found.add_argument("--seeds", type=int, default=seeds, help="runs of each arm")
    found.add_argument("--jobs", type=int, default=1, help="runs at a time, one core each")
    found.add_argument("--output", default=str(epath.Path(__file__).parent / "results"), help="a directory")
    return found


def run_all(
    run: Callable[..., Row], arms: Sequence[str], *, seeds: int, jobs: int, done: epath.PathLike, **options
) -> list[Row]:
    """Rows of every arm and seed, in this order; seeds are the outer loop, so that an early stop leaves whole sets.

    Finished rows are appended to the file ``done`` with their options; a second call goes on after them.
    """
    done = epath.Path(done)
    found = [json.loads(line) for line in done.read_text().splitlines()] if done.exists() else []
    wanted = [(arm, seed) for seed in range(seeds) for arm in arms]
    rows = [row for row in found if (row["arm"], row["seed"]) in wanted and row["options"] == options]
    tasks = [task for task in wanted if task not in [(row["arm"], row["seed"]) for row in rows]]

    def keep(row: Row) -> None:
        rows.append(row | {"options": options})
        done.parent.mkdir(parents=True, exist_ok=True)
        with done.open("a") as file:
            file.write(json.dumps(rows[-1]) + "\n")

    if jobs == 1:
        for task in tasks:
            keep(run(*task, **options))
    else:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(jobs, mp_context=context, max_tasks_per_child=1) as pool:
            for future in concurrent.futures.as_completed([pool.submit(run, *task, **options) for task in tasks]):
                keep(future.result())
    return sorted(rows, key=lambda row: (list(arms).index(row["arm"]), row["seed"]))


def values(rows: Sequence[Row], arm: str, metric: str) -> np.ndarray:
    """A metric over the arm's seeds, in the order of the seeds."""
    return np.array([row["numbers"][metric] for row in rows if row["arm"] == arm])


def show(found: np.ndarray) -> str:
    """Mean and standard error; the latter is left out for a single value."""
    mean = found.mean()
    digits = 0 if abs(mean) >= 100 else 1 if abs(mean) >= 10 else 3
    error = "" if len(found) < 2 else f" ± {found.std(ddof=1) / np.sqrt(len(found)):.{digits}f}"
    return f"{mean:.{digits}f}{error}"


def table(rows: Sequence[Row], arms: Sequence[str], metrics: Sequence[str]) -> str:
    """Markdown, one line per arm."""
    lines = [["arm", *metrics], ["---"] * (len(metrics) + 1)]
    lines += [[arm, *(show(values(rows, arm, metric)) for metric in metrics)] for arm in arms]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def verdict(claim: str, difference: np.ndarray) -> str:
    """One line: the claim, the paired difference (positive agrees with it), and whether it holds at two errors."""
    error = difference.std(ddof=1) / np.sqrt(len(difference)) if len(difference) > 1 else np.inf
    mean = difference.mean()
    outcome = "holds" if mean > 2 * error else "does not hold: reversed" if mean < -2 * error else "undecided"
    return f"- {claim}: {show(difference)}. **{outcome}**"


def picture(rows: Sequence[Row], arms: Sequence[str], metrics: Sequence[str], path: epath.PathLike, title: str) -> None:
    """One panel per metric: a bar for an arm's mean, a dot for each seed."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    across = min(4, len(metrics))
    down = -(-len(metrics) // across)
    figure, axes = plt.subplots(
        down, across, figsize=(3.1 * across, 0.7 + (0.7 + 0.28 * len(arms)) * down), sharey=True
    )
    for axis, metric in zip(np.ravel(axes), metrics):
        for y, arm in enumerate(arms):
            found = values(rows, arm, metric)
            axis.barh(y, found.mean(), color=f"C{y}", alpha=0.35)
            axis.plot(found, np.full(len(found), y), "o", color=f"C{y}", markersize=4)
        axis.set_title(metric, fontsize=9)
        axis.set_yticks(range(len(arms)), arms, fontsize=8)
        axis.tick_params(axis="x", labelsize=7)
    for axis in np.ravel(axes)[len(metrics) :]:
        axis.axis("off")
    np.ravel(axes)[0].invert_yaxis()
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    with epath.Path(path).open("wb") as file:
        figure.savefig(file, format="png", dpi=110)
    plt.close(figure)


def write(output: epath.PathLike, slug: str, report: str, rows: Sequence[Row], command: str, seconds: float) -> None:
    """``slug.json`` (all numbers) and ``slug.md`` (the report, with what made it)."""
    output = epath.Path(output)
    output.mkdir(parents=True, exist_ok=True)
    cores = os.cpu_count()
    machine = f"{platform.machine()}, {cores} cores, {jax.default_backend()}, jax {jax.__version__}"
    about = {"command": command, "machine": machine, "seconds": round(seconds), "date": str(datetime.date.today())}
    (output / f"{slug}.json").write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")
    made = f"Made by `{command}` on {about['date']}: {about['seconds']} s, {machine}."
    (output / f"{slug}.md").write_text(f"{report}\n\n{made}\n")
