"""The judge's view of a generator, against one whose samples are known, and the files that a run leaves."""

import dataclasses
import json

import numpy as np
import pytest

import jaxtok
from jaxtok.evaluation import generator as generator_evaluation
from jaxtok.metrics import frechet
from jaxtok.tasks.diffuse import Sampling
from jaxtok.train.loop import train

EXAMPLES = dict(target="jaxtok.data.images:Images", size=16, label="group_style")


@dataclasses.dataclass
class Painter:
    """An image of one colour: the label that is asked for, or, unguided, always 0."""

    sampling: Sampling = Sampling(guidance=2.0)
    calls: int = 7
    reader = None

    def sample(self, asked, *, rng, guidance=2.0):
        values = np.asarray(asked, np.float32) * (guidance != 1.0)
        return np.broadcast_to(values[:, None, None, None], (len(values), 2, 2, 1))


class Judge:
    """Sees the colour, and always class 3 in place of 2."""

    def predict(self, images):
        seen = images[:, 0, 0, 0].astype(int)
        return np.where(seen == 2, 3, seen)

    def features(self, images):
        return images.mean((1, 2))


def test_shares_and_distances_of_known_samples():
    asked, real = np.repeat(np.arange(4), 5), frechet.moments(np.arange(4.0)[:, None])
    found = generator_evaluation.measure(Painter(), Judge(), real, asked, asked, np.arange(4))
    assert found["accuracy"] == pytest.approx({"samples": 0.75, "chance": 0.25, "unguided": 0.25})
    assert found["calls"] == 7 and found["images"].shape == (20, 2, 2, 1)
    assert found["distance"]["samples"] == pytest.approx(0.0, abs=1e-6)
    assert found["distance"]["unguided"] == pytest.approx(1.5**2 + 5 / 3, rel=1e-5)  # means apart, and no deviation
    merged = generator_evaluation.measure(Painter(), Judge(), real, asked, asked // 2, np.arange(4), merge=2)
    assert merged["accuracy"]["samples"] == 1.0 and merged["accuracy"]["chance"] == 0.5
    uneven = np.array([0, 0, 0, 1])
    found = generator_evaluation.measure(Painter(), Judge(), real, uneven, uneven, uneven)
    assert found["accuracy"]["chance"] == pytest.approx(0.75**2 + 0.25**2)


@pytest.mark.parametrize("slug, merge", [("lightningdit", 1), ("pixart", 4)])
def test_a_run_leaves_its_report(slug, merge, tmp_path):
    config = jaxtok.get_config(f"{slug}:tiny").copy_and_resolve_references().to_dict()
    config["train"] |= dict(steps=1, checkpoint_every=0, evaluate_every=0, mesh=dict(data=1, fsdp=1, tensor=1))
    result = train(config, tmp_path)
    examples = EXAMPLES | (dict(label="group", language="en", ids=40) if slug == "pixart" else {})
    few = dict(groups=("flags",), styles=("noto",))
    images = dict(source="samples:emoji", examples=examples, evaluation=few)
    generator_evaluation.write(result, config, tmp_path, images=images, samples=1, shown=1, merge=merge)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["classes"] == 36 // merge and found["features"] > 1 and found["held_out"] > 5
    assert found["accuracy"]["held_out"] > found["accuracy"]["samples"]  # real images, and an untrained network
    assert found["distance"]["held_out"] < found["distance"]["samples"]
    page = (tmp_path / "report.md").read_text()
    asked = "captions of the test split" if slug == "pixart" else "1 samples of each class"
    assert page.startswith("Falls short: ") and asked in page and (tmp_path / "samples.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="judge 'emoji-judge': knows 36 classes, the images"):
        generator_evaluation.write(result, config, tmp_path, images=images, merge=2)
