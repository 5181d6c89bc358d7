"""The experiments of the waveform codecs end to end with few steps, one arm each standing for all."""

import importlib
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtok.build import build

# Which arm runs, and what it takes to make it small.
CASES = {
    "sq_codec": ("grid, d = 8", ["--flow-steps=2", "--samples=32"]),
    "ezaudio": ("AdaLN-SOLA", ["--samples=16"]),
    "wavtokenizer": ("512, k-means, restart", ["--held-out=64"]),
}


@pytest.fixture(autouse=True)
def _checkout(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))


@pytest.mark.slow
@pytest.mark.parametrize("slug", CASES)
def test_two_steps_give_a_complete_table(slug, tmp_path, monkeypatch):
    experiment = importlib.import_module(f"experiments.{slug}")
    (arm, small), real, shown = CASES[slug], experiment.run, {}

    def run(name, seed, **plan):
        if not shown:
            shown.update(real(arm, seed, **plan))
        return shown | {"arm": name}

    monkeypatch.setattr(experiment, "run", run)
    experiment.main(["--steps=3", "--seeds=1", f"--output={tmp_path}", *small])
    rows = json.loads((tmp_path / f"{slug}.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(experiment.ARMS)
    assert np.isfinite(list(rows[0]["numbers"].values())).all()
    report = (tmp_path / f"{slug}.md").read_text()
    assert all(f"\n| {name} |" in report for name in experiment.ARMS) and "Preliminary" in report
    assert (tmp_path / f"{slug}.png").stat().st_size > 10_000


def sizes(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_decoders_are_of_like_size():
    from experiments import wavtokenizer

    found = {}
    for name in wavtokenizer.DECODERS:
        decoder = build(wavtokenizer.config(steps=10, decoder=name)["model"]["decoder"])
        found[name] = sizes(jax.eval_shape(decoder.init, jax.random.key(0), jnp.zeros((1, 4, 16))))
    assert found["still"] == found["attention"] and abs(found["transposed"] / found["still"] - 1) < 0.1


def test_modulated_networks_are_of_like_size():
    from experiments import toy_denoiser as toy

    found = {name: toy.counts(name, toy.network(name).hidden) for name in ("zero", "sola", "none")}
    assert max(total for total, _ in found.values()) / min(total for total, _ in found.values()) < 1.005
    width, depth, rank = toy.WIDTH, toy.DEPTH, toy.RANK
    assert found["none"][1] == 0 and found["zero"][1] == depth * (6 * width**2 + 6 * width)
    shared = 6 * width**2 + 6 * width
    assert found["sola"][1] == shared + depth * (6 * rank * width + 36 * rank * width + 6 * width)


def test_the_judge_reads_what_is_there():
    from experiments import toy_paths

    found = toy_paths.pool(3, 256)
    read = toy_paths.read(np.asarray(found["x"]))
    assert (read == found["caption"]).mean(0).min() > 0.95
    assert (toy_paths.read(np.asarray(found["x"])[:, ::-1]) != found["caption"])[:, 2].all()  # backwards


def test_tones_have_the_harmonics_of_their_class():
    from experiments import toy_sound

    label = jnp.asarray([1, 9])  # timbre 1 has odd harmonics alone; pitches 0 and 2
    spectrum = np.abs(np.fft.rfft(toy_sound.of_classes(jax.random.key(0), label)))
    for row, pitch in zip(spectrum, (0, 2)):
        first = 150 * 2 ** (pitch / 8) * toy_sound.LENGTH / toy_sound.RATE
        near = [row[int(first * n) - 3 : int(first * n) + 4].max() for n in (1, 2, 3, 4)]
        assert min(near[0], near[2]) > 4 * max(near[1], near[3])
