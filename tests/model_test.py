"""Weights on disk: what ``save`` writes is what ``load`` holds."""

import functools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxtok
from jaxtok import cli
from jaxtok import model as model_lib
from jaxtok.train.checkpoint import Checkpoints
from jaxtok.train.state import TrainState

CONFIG = dict(
    slug="vocos", interface=dict(ref="jaxtok.models.vocoder:assemble"),
    model=dict(target="jaxtok.nn.vocos:Vocos", bands=128, width=4, hidden=4, depth=1, n_fft=1920, hop=480),
    task=dict(frontend=dict(target="jaxtok.signal.mel:MelFrontEnd")),
)  # fmt: skip


def drawn():
    module = jaxtok.build(CONFIG["model"])
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 4, 128)))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.standard_normal(s.shape, np.float32), shapes)


def test_float32_comes_back_as_it_was_and_half_of_it_rounded(tmp_path):
    params = drawn()
    model_lib.save(tmp_path / "whole", CONFIG, params)
    model_lib.save(tmp_path / "half", CONFIG, params, half=True)
    whole, half = (jaxtok.load(tmp_path / name).params for name in ("whole", "half"))
    jax.tree.map(np.testing.assert_array_equal, whole, params)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32)), half, params)
    assert {leaf.dtype for leaf in jax.tree.leaves(half)} == {np.dtype(np.float32)}
    sizes = [(tmp_path / name / "weights.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.6 * sizes[0]


def test_names_with_a_slash_come_back(tmp_path):
    """Those of weight normalization have one: ``layer_instance/kernel/scale`` beside ``layer_instance/kernel``."""
    quantizer = dict(target="jaxtok.quantizers:FactorizedVQ", size=4, width=4, inner_width=2)
    params = jaxtok.build(quantizer).init(jax.random.key(0), jnp.ones((1, 4)))["params"] | {"100%2F/x": jnp.ones(2)}
    assert any("/" in name for path in flax.traverse_util.flatten_dict(params) for name in path)
    model_lib.save(tmp_path / "m", CONFIG, params)
    jax.tree.map(np.testing.assert_array_equal, jaxtok.load(tmp_path / "m").params, params)


def test_what_float16_does_not_hold_is_refused_before_anything_is_written(tmp_path):
    params = drawn()
    params["head"]["bias"][3] = 1e5
    with pytest.raises(ValueError, match="params: head/bias holds 100000, which float16 does not"):
        model_lib.save(tmp_path / "half", CONFIG, params, half=True)
    assert not (tmp_path / "half").exists()


@pytest.mark.parametrize("ema", [False, True])
def test_export_holds_the_model_of_the_newest_checkpoint_alone(tmp_path, capsys, ema):
    generator = drawn()
    params = jax.tree.map(jnp.asarray, {"generator": generator, "discriminator": {"bias": jnp.ones(1000)}})
    run, zero = tmp_path / "run", jnp.int32(0)
    run.mkdir()
    (run / "config.json").write_text(json.dumps(CONFIG))
    checkpoints = Checkpoints(run)
    for step in (1, 2):
        values = jax.tree.map(lambda leaf, step=step: leaf + step, params)
        mean = jax.tree.map(lambda leaf: leaf - 0.5, values) if ema else {}
        state = TrainState(step=zero, bad=zero - 1, params=values, ema=mean, opt={}, state={})
        checkpoints.save(step, state, data={}, meta={}, metrics={})
    checkpoints.wait()
    for name, words, last, atol in (("new", [], 2, 1e-6), ("old", ["--step=1", "--half"], 1, 4e-3)):  # of 8 by float16
        place = tmp_path / name
        assert cli.main(["export", "--model", str(run), "--output", str(place), *words]) == 0
        assert capsys.readouterr().out.startswith(f"{run} -> {place}: 0.")
        assert sorted(path.name for path in place.iterdir()) == ["config.json", "weights.safetensors"]
        same = functools.partial(np.testing.assert_allclose, rtol=0, atol=atol)
        shift = last - 0.5 * ema
        jax.tree.map(lambda a, b, same=same, shift=shift: same(a, b + shift), jaxtok.load(place).params, generator)
        count = sum(leaf.size for leaf in jax.tree.leaves(generator))
        assert (place / "weights.safetensors").stat().st_size < (4 if last == 2 else 2) * count + 4000
    assert cli.main(["export", "--model", str(run), "--output", str(tmp_path / "new")]) == 2
    assert "already holds a model" in capsys.readouterr().err
