"""A system at paper size, compiled for TPU slices without a TPU: memory, FLOPs, messages and a roofline per chip.

    python experiments/benchmarks/compile_slices.py tadicodec|lightningdit|dit [--keep FOLDER]

Needs the extra ``tpu``; minutes a slice on 2 cores. Writes compile_SLUG.json (all numbers) and compile_SLUG.md beside
this file. What FOLDER holds for this very config is not compiled again.
"""

import argparse
import json
import pathlib
import subprocess
import sys
import tempfile

from jaxtok import recipes
from jaxtok.train import ahead, settings, topology
from jaxtok.train.compile import render

HERE = pathlib.Path(__file__).parent
RUNS = {
    "tadicodec": (("v5e:4x4", "data=4,fsdp=4", 128), ("v5p:4x4x4", "data=16,fsdp=4", 512)),
    "lightningdit": (("v5e:16x16", "data=64,fsdp=4", 1024), ("v5p:4x4x4", "data=64", 1024)),
    "dit": (("v5e:16x16", "data=64,fsdp=4", 256), ("v5p:4x4x4", "data=64", 256)),
}


def command(slug: str, slice_name: str, mesh: str, batch: int) -> list[str]:
    return [
        "jaxtok", "compile", "--config", f"configs/{slug}.py:paper", "--topology", slice_name, "--mesh", mesh,
        "--batch", str(batch),
    ]  # fmt: skip


def numbers_of(slug: str, slice_name: str, mesh: str, batch: int, folder: pathlib.Path, current: str) -> dict:
    path = folder / f"{slug}_{slice_name.replace(':', '_')}_{batch}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["config_hash"] == current:
            return kept
    words = command(slug, slice_name, mesh, batch)[1:]
    subprocess.run([sys.executable, "-m", "jaxtok.cli", *words, "--output", str(path)], check=True)
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("slug", choices=sorted(RUNS))
    parser.add_argument("--keep", type=pathlib.Path)
    given = parser.parse_args()
    slug = given.slug
    current = ahead.config_hash(settings.resolve(recipes.get_config(f"{slug}:paper")))
    with tempfile.TemporaryDirectory() as scratch:
        found = [numbers_of(slug, *run, given.keep or pathlib.Path(scratch), current) for run in RUNS[slug]]
    (HERE / f"compile_{slug}.json").write_text(json.dumps(found, indent=1) + "\n")
    title = recipes.module(slug).PAPER["title"]
    lines = [
        f"# {slug} at paper size on TPU slices, compiled ahead of time", "", f"{title}.", "",
        f"Written by `python experiments/benchmarks/compile_slices.py {slug}`; numbers are per chip. Compiled with "
        "libtpu on a machine without a TPU: nothing was run, the times are a roofline.", "",
    ]  # fmt: skip
    for run, numbers in zip(RUNS[slug], found):
        lines += [f"## {run[0]}", "", f"`{' '.join(command(slug, *run))}`", "", "```"]
        lines += [render(numbers, topology.parse(run[0]).chip), "```", ""]
    (HERE / f"compile_{slug}.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
