"""Memory of waveform codecs on long recordings: does it stop growing?

    JAX_PLATFORMS=cpu python experiments/benchmarks/long_audio.py [--minutes=1,4,10] [--codecs=sq-codec-mini,...]

Noise of so many minutes to tokens and back, as ``jaxtok reconstruct`` does it: causal codecs part by part, the others
in windows. Weights are those that ship, or drawn where a config is named; one step of a diffusion decoder. Each length
has a process of its own; peak memory is the most that it ever held, and the size of the recording stands beside it.

Writes long_audio.json and long_audio.md beside this file (``--out`` for another place).
"""

import argparse
import json
import pathlib
import platform
import subprocess
import sys

import pairs

HERE = pathlib.Path(__file__).resolve().parent
CODECS = "sq-codec-mini,wavtokenizer-mini,ezaudio:mini,tadicodec-mini,wavtokenizer:paper"


def measure(name: str, minutes: float) -> dict[str, float]:
    """Megabytes at the most: before the first call, after encoding, and after decoding as well."""
    import jax
    import numpy as np

    import jaxtok
    from jaxtok.models import speech

    rng = np.random.default_rng(0)
    model = drawn(name, rng) if ":" in name else jaxtok.load(name)
    again = dict(rng=jax.random.key(0), steps=1, guidance=1.0) if isinstance(model, speech.SpeechModel) else {}
    wave = rng.uniform(-0.5, 0.5, round(60 * minutes * model.rate)).astype(np.float32)
    peaks = [pairs.peak_mb()]
    tokens = model.encode(wave)
    peaks.append(pairs.peak_mb())
    assert np.isfinite(model.decode(tokens, **again)).all()
    names = ("before", "encoded", "decoded")
    return dict(zip(names, (*peaks, pairs.peak_mb()))) | {
        "recording": wave.nbytes / 2**20,
        "tokens": tokens.latents.shape[1],
    }


def drawn(name: str, rng):
    """The waveform model of a config with random weights."""
    import jax
    import jax.numpy as jnp

    import jaxtok
    from jaxtok.models import audio

    config = jaxtok.get_config(name).copy_and_resolve_references().to_dict()
    module = jaxtok.build(config["model"])
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, module.hop)))
    variables = jax.tree.map(lambda s: (0.1 * rng.standard_normal(s.shape)).astype(s.dtype), shapes)
    return audio.assemble(config, variables["params"], variables)


def table(results: dict) -> str:
    """The results as Markdown."""
    lines = [
        "# Memory of waveform codecs on long recordings", "",
        f"Made by `{results['command']}`: {results['machine']}. Peak memory in MB of a process of its own.", "",
        "| codec | minutes | tokens | recording | before | after encoding | after decoding |",
        "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for row in results["rows"]:
        numbers = [f"{row[name]:,.0f}" for name in ("tokens", "recording", "before", "encoded", "decoded")]
        lines.append(f"| {row['codec']} | {row['minutes']:g} | {' | '.join(numbers)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", default="1,4,10")
    parser.add_argument("--codecs", default=CODECS)
    parser.add_argument("--out", type=pathlib.Path, default=HERE)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.one:
        print(json.dumps(measure(settings.one[0], float(settings.one[1]))))
        return
    rows = []
    for codec in settings.codecs.split(","):
        for minutes in settings.minutes.split(","):
            command = [sys.executable, __file__, "--one", codec, minutes]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows.append({"codec": codec, "minutes": float(minutes)} | json.loads(found.splitlines()[-1]))
            print(rows[-1], flush=True)
    results = {
        "command": "python experiments/benchmarks/" + " ".join([pathlib.Path(__file__).name, *sys.argv[1:]]),
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "rows": rows,
    }
    (settings.out / "long_audio.json").write_text(json.dumps(results, indent=1) + "\n")
    (settings.out / "long_audio.md").write_text(table(results))


if __name__ == "__main__":
    main()
