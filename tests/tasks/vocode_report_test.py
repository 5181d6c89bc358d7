"""The report of a vocoder's run, and that it is written from the run itself."""

import json
import types

import jax
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.tasks import vocode_report
from jaxtok.train import settings


def results(vocoder, griffin_lim):
    distances = {"vocoder": vocoder, "griffin_lim": griffin_lim, "untrained": [2.0, 3.0]}
    return dict(
        name="vocos:mini", parameters=10, generator=7, steps=2, batch_size=8, seconds=60.0, examples_per_second=1.0,
        device="1 x cpu", data="samples:speech", train_examples=100, loss=(100.0, 50.0), recordings=2,
        distances={name: dict(mel_distance=value, stft_distance=[1.0, 1.0]) for name, value in distances.items()},
        files={"report.json": "numbers"}, next={"jaxtok list": "what there is"},
    )  # fmt: skip


def test_the_first_line_is_the_verdict():
    good = vocode_report.markdown(results([0.1, 0.3], [0.4, 0.4]))
    assert good.startswith("Holds: ") and "(0.200 against 0.400)" in good.splitlines()[0]
    assert "| the vocoder | 0.200 ± 0.100 | 1.000 ± 0.000 |" in good
    assert vocode_report.markdown(results([0.1, 0.8], [0.4, 0.4])).startswith("Falls short: ")
    broken = results([0.1, 0.3], [0.4, 0.4])
    del broken["distances"]["untrained"]
    with pytest.raises(ValueError, match="results: distances.untrained is missing"):
        vocode_report.markdown(broken)


def test_a_run_is_measured_and_can_be_heard(tmp_path):
    config = settings.resolve(jaxtok.get_config("vocos:tiny"))
    task = build(config["task"], model=build(config["model"]))
    params = jax.jit(lambda key: task.init(key, {})[0])(jax.random.key(1))
    result = types.SimpleNamespace(state=types.SimpleNamespace(ema={}, params=params), step=2)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0, "examples_per_second": 2.0}\n')
    vocode_report.write(result, config, tmp_path, recordings=2, shown=1)
    numbers = json.loads((tmp_path / "report.json").read_text())
    means = {name: sum(d["mel_distance"]) / 2 for name, d in numbers["distances"].items()}
    assert means["griffin_lim"] < 0.5 < means["vocoder"]  # which is not trained here
    assert (tmp_path / "report.md").read_text().startswith("Falls short: ")
    assert sorted(path.name for path in (tmp_path / "sound").iterdir()) == [
        "00-griffin_lim.wav", "00-original.wav", "00-vocoder.wav",
    ]  # fmt: skip
    assert (tmp_path / "pictures/00.png").stat().st_size > 1000
