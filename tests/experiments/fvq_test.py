"""The experiment end to end with 2 steps; every arm builds and differs from the others in its quantizer alone."""

import json
import pathlib

import numpy as np
import pytest

from jaxtok.build import build
from jaxtok.train.settings import leaves


@pytest.fixture(autouse=True)
def _checkout(monkeypatch):
    monkeypatch.syspath_prepend(str(pathlib.Path(__file__).parents[2]))


def test_arms_differ_in_the_quantizer_alone_and_have_about_as_many_codes():
    from experiments import fvq

    base = leaves(fvq.config("VQ", 8, steps=40))
    for method, bits in fvq.ARMS.values():
        config = fvq.config(method, bits, steps=40)
        quantizer = build(config["model"])
        assert 0.9 * 2**bits <= quantizer.quantizer.codebook_size <= 2**bits
        changed = {key for key, value in leaves(config).items() if base.get(key) != value}
        assert all(key.startswith(("model.quantizer", "model.pre")) for key in changed)


def test_two_steps_give_a_complete_table(tmp_path, monkeypatch):
    from experiments import fvq

    real, shown = fvq.run, {}

    def run(arm, seed, **plan):
        if not shown:
            shown.update(real("FVQ 2^11", seed, **plan))
        return shown | {"arm": arm}

    monkeypatch.setattr(fvq, "run", run)
    monkeypatch.setattr(fvq, "SPLITS", ("validation", "test"))
    fvq.main(["--steps=4", "--seeds=1", f"--output={tmp_path}"])
    rows = json.loads((tmp_path / "fvq.json").read_text())["rows"]
    assert [row["arm"] for row in rows] == list(fvq.ARMS)
    numbers = rows[0]["numbers"]
    assert np.isfinite(list(numbers.values())).all() and numbers["codes"] == 2048
    assert numbers["tokens"] % 64 == 0 and 0 < numbers["used"] <= 2048
    report = (tmp_path / "fvq.md").read_text()
    assert all(f"\n| {arm} |" in report for arm in fvq.ARMS)
    assert (tmp_path / "fvq.png").stat().st_size > 10_000
