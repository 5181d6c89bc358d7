"""TaDiCodec at paper size, compiled for TPU slices without a TPU: memory, FLOPs, messages and a roofline per chip.

    python experiments/benchmarks/compile_tadicodec.py [--keep FOLDER]

Needs the extra ``tpu``; about 10 minutes a slice on 2 cores. Writes compile_tadicodec.json (all numbers) and
compile_tadicodec.md beside this file. With --keep, what FOLDER
holds for this very config is not compiled again.
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
RUNS = (("v5e:4x4", "data=4,fsdp=4", 128), ("v5p:4x4x4", "data=16,fsdp=4", 512))


def command(slice_name: str, mesh: str, batch: int) -> list[str]:
    return [
        "jaxtok", "compile", "--config", "configs/tadicodec.py:paper", "--topology", slice_name, "--mesh", mesh,
        "--batch", str(batch),
    ]  # fmt: skip


def numbers_of(slice_name: str, mesh: str, batch: int, folder: pathlib.Path, current: str) -> dict:
    path = folder / f"{slice_name.replace(':', '_')}_{batch}.json"
    if path.is_file():
        kept = json.loads(path.read_text())
        if kept["config_hash"] == current:
            return kept
    words = command(slice_name, mesh, batch)[1:]
    subprocess.run([sys.executable, "-m", "jaxtok.cli", *words, "--output", str(path)], check=True)
    return json.loads(path.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=pathlib.Path)
    keep = parser.parse_args().keep
    current = ahead.config_hash(settings.resolve(recipes.get_config("tadicodec:paper")))
    with tempfile.TemporaryDirectory() as scratch:
        found = [numbers_of(*run, keep or pathlib.Path(scratch), current) for run in RUNS]
    (HERE / "compile_tadicodec.json").write_text(json.dumps(found, indent=1) + "\n")
    lines = [
        "# TaDiCodec at paper size on TPU slices, compiled ahead of time", "",
        "Written by `python experiments/benchmarks/compile_tadicodec.py`; numbers are per chip. Compiled with libtpu "
        "on a machine without a TPU: nothing was run, the times are a roofline.", "",
    ]  # fmt: skip
    for run, numbers in zip(RUNS, found):
        lines += [f"## {run[0]}", "", f"`{' '.join(command(*run))}`", "", "```"]
        lines += [render(numbers, topology.parse(run[0]).chip), "```", ""]
    (HERE / "compile_tadicodec.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
