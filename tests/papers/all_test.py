"""What every system's config must hold."""

import jax
import numpy as np
import pytest

import jaxtok
from jaxtok import recipes
from jaxtok.build import build
from jaxtok.data.abstract import abstract_batch
from jaxtok.train.loop import train

FIELDS = {"numbers": tuple, "title": str, "url": str, "modality": str, "family": str, "status": str}

# The published parameter counts.
PARAMETERS = {
    "dit": 674_834_720,
    # The VAE without weight norm's g; five discriminators of 64 channels.
    "ezaudio": 43_829_248 + 5 * (2 * 27 * 64 + 64 + 3 * (27 * 64**2 + 2 * 64) + 9 * 64**2 + 2 * 64 + 9 * 64 + 2),
    "fvq": 79_227_523,
    "lightningdit": 674_961_824,
    "llamagen": 342_910_976,
    "maskgit": 172_457_193,
    "pixart": 610_856_096 - (4096 - 1024) * 1152 + 201_617_408,  # published for text of width 4096; and the encoder
    "sq_codec": 23_477_293 - 18_133 + 42_519_760,  # published with weight norm's g; DAC's discriminators
    "tadicodec": 495_766_670,
    "tadicodec_ar": 357_898_112 + (151_665 + 16_384 + 2) * 896,  # Qwen2.5-0.5B, and its vocabulary with the codes
    "tadicodec_mgm": 386_301_952,  # by the architecture: its released size was not seen
    "vocos": 13_531_650 + 41_105_770 + 1_413_990,  # the generator; the discriminators by period and by band
    # Encoder, backbone, head; discriminators by period and by resolution, each with tables of four ids; DAC's.
    "wavtokenizer": 8_296_304 + 61_961_472 + 1_847_138 + 41_105_770 + 5 * 4 * 1024 + 600_198 + 3 * 4 * 64 + 42_519_760,
}

slug_of = pytest.mark.parametrize("slug", recipes.slugs())


@slug_of
def test_paper_is_described(slug):
    paper = recipes.module(slug).PAPER
    assert {name: type(value) for name, value in paper.items()} == FIELDS
    assert paper["url"].startswith("https://") and all(paper["numbers"])


@slug_of
def test_paper_has_the_published_size(slug):
    config = jaxtok.get_config(f"{slug}:paper")
    task = build(config.task, model=build(config.model))
    shapes = abstract_batch(config.data.copy_and_resolve_references().to_dict(), 2)
    batch = {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}
    params, _, _ = jax.eval_shape(task.init, jax.random.key(0), batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == PARAMETERS[slug]


@slug_of
def test_mini_describes_its_batches(slug):
    """The data's fields are checked as they are built; mini runs elsewhere in no test."""
    config = jaxtok.get_config(f"{slug}:mini")
    data = config.data.copy_and_resolve_references().to_dict()
    if slug in ("llamagen", "maskgit"):  # their tokens come from another mini's run
        with pytest.raises(ValueError, match="'runs/fvq': no run there"):
            abstract_batch(data, config.train.batch_size)
        return
    shapes = abstract_batch(data, config.train.batch_size)
    assert shapes and {shape[0] for shape, _ in shapes.values()} == {config.train.batch_size}


@slug_of
def test_tiny_trains_in_the_real_loop(slug, tmp_path):
    config = jaxtok.get_config(f"{slug}:tiny")
    config.train.mesh.data = 1  # eight devices are tested once per family, and cost eight times the compilation
    config.train.steps, config.train.evaluate_every = 3, 0  # a warm-up may begin at rate 0, and zeros delay gradients
    before = {}

    def keep(step, state, out, writer):  # a second call that resumes would compile again; that is tested once
        if step == 1:
            before.update(jax.tree.map(np.array, state.params))

    result = train(config, tmp_path, callbacks=[keep])
    after = jax.device_get(result.state.params)
    assert result.reason == "done" and np.isfinite(result.metrics["loss"])
    for path, moved in jax.tree_util.tree_leaves_with_path(jax.tree.map(lambda a, b: (a != b).any(), before, after)):
        assert moved, f"no gradient reached {jax.tree_util.keystr(path)}"
