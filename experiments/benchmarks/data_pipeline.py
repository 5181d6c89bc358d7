"""Examples per second of the speech pipeline, cold (every file decoded) and warm (decoded audio in memory).

    python experiments/benchmarks/data_pipeline.py [--batch=8] [--batches=200] [--workers=0]

Prints one JSON line per arm and writes them to experiments/benchmarks/results/data_pipeline.json.
"""

import argparse
import json
import os
import pathlib
import resource
import sys
import time

from jaxtok.data import pipeline


def measure(config: dict, batch_size: int, batches: int) -> dict:
    iterator = pipeline.training(config, batch_size=batch_size, seed=0)
    first = time.perf_counter()
    batch = next(iterator)
    start = time.perf_counter()
    seconds, rows = 0.0, 0
    for _ in range(batches):
        batch = next(iterator)
        rows += len(batch["index"])
        seconds += batch["audio_mask"].sum() / 24000
    wall = time.perf_counter() - start
    iterator.close()
    return {
        "examples_per_s": round(rows / wall, 1),
        "audio_seconds_per_s": round(float(seconds / wall), 1),
        "mean_example_s": round(float(seconds / rows), 2),
        "first_batch_s": round(start - first, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="samples:speech")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=200)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    results = []
    for name, cache, skip in (("no cache", 0, 0), ("cache, first passes", 320, 0), ("cache, warm", 320, 600)):
        examples = {"target": "jaxtok.data.speech:Utterances", "seconds": (3.0, 6.4), "cache": cache}
        config = {"source": args.source, "examples": examples, "workers": args.workers}
        result = {"arm": name, "batch": args.batch, "workers": args.workers, "cores": os.cpu_count()}
        result |= warmed(config, args.batch, args.batches, skip)
        result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        results.append(result)
        print(json.dumps(result), flush=True)
    out = pathlib.Path(__file__).parent / "results" / "data_pipeline.json"
    out.parent.mkdir(exist_ok=True)
    command = "python experiments/benchmarks/data_pipeline.py " + " ".join(sys.argv[1:])
    out.write_text(json.dumps({"command": command.strip(), "results": results}, indent=1) + "\n")


def warmed(config: dict, batch_size: int, batches: int, skip: int) -> dict:
    if not skip:
        return measure(config, batch_size, batches)
    iterator = pipeline.training(config, batch_size=batch_size, seed=0)
    for _ in range(skip):
        next(iterator)
    start, rows = time.perf_counter(), 0
    for _ in range(batches):
        rows += len(next(iterator)["index"])
    wall = time.perf_counter() - start
    iterator.close()
    return {"examples_per_s": round(rows / wall, 1)}


if __name__ == "__main__":
    main()
