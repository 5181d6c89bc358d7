"""The report of a waveform tokenizer's run, and that it is written from the run itself."""

import json
import types

import jax
import pytest

import jaxtok
from jaxtok.build import build
from jaxtok.tasks import audio_report
from jaxtok.train import settings


def results(trained, used):
    distances = {"trained": trained, "untrained": [2.0, 3.0]}
    return dict(
        name="wavtokenizer:mini", parameters=10, generator=7, steps=2, batch_size=8, seconds=60.0,
        examples_per_second=1.0, device="1 x cpu", data="samples:speech", train_examples=100, loss=(100.0, 50.0),
        recordings=2, size=256, width=4, tokens_per_second=75.0,
        codes={"codebook": dict(used=used, tokens=1000, perplexity=50.0)},
        distances={name: dict(mel_distance=value, stft_distance=[1.0, 1.0]) for name, value in distances.items()},
        files={"report.json": "numbers"}, next={"jaxtok list": "what there is"},
    )  # fmt: skip


def test_the_first_line_is_the_verdict():
    good = audio_report.markdown(results([0.1, 0.3], 200))
    first = good.splitlines()[0]
    assert (
        first.startswith("Holds: ")
        and "(0.200 against 2.500)" in first
        and "200 of 256 codes (251 if uniform)" in first
    )
    assert "| the tokens | 0.200 ± 0.100 | 1.000 ± 0.000 |" in good and "**600 bit/s**" in good
    few, far = (audio_report.markdown(results(*fields)).splitlines()[0] for fields in (([0.1], 100), ([9.0], 200)))
    assert few == "Falls short: codebook uses 100 of 256 codes (251 if uniform)."
    assert far.startswith("Falls short: the mel from tokens is not nearer") and "codes" not in far
    continuous = audio_report.markdown(results([0.1], 200) | dict(codes={}, size=0))
    assert (
        continuous.splitlines()[0]
        == "Holds: the mel from tokens is nearer than the untrained model's (0.100 against 2.500)."
    )
    assert "75 latents a second of 4 numbers, not rounded: no bits" in continuous and "bit/s" not in continuous
    broken = results([0.1], 200)
    del broken["codes"]
    with pytest.raises(ValueError, match="codes is missing"):
        audio_report.markdown(broken)


def test_a_run_is_measured_and_can_be_heard(tmp_path):
    config = settings.resolve(jaxtok.get_config("wavtokenizer:tiny"))
    task = build(config["task"], model=build(config["model"]))
    params, state = jax.jit(lambda key: task.init(key, {})[:2])(jax.random.key(1))
    result = types.SimpleNamespace(state=types.SimpleNamespace(ema={}, params=params, state=state), step=2)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 3.0, "examples_per_second": 2.0}\n')
    audio_report.write(result, config, tmp_path, recordings=2, shown=1)
    numbers = json.loads((tmp_path / "report.json").read_text())
    codes, seconds = numbers["codes"]["codebook"], [len(d["mel_distance"]) for d in numbers["distances"].values()]
    assert seconds == [2, 2] and 1 <= codes["used"] <= 8 and 80 <= codes["tokens"] <= 2 * 102  # 1 to 2.55 s each
    assert (tmp_path / "report.md").read_text().startswith(("Falls short: ", "Holds: "))
    assert sorted(path.name for path in (tmp_path / "sound").iterdir()) == ["00-original.wav", "00-trained.wav"]
    assert (tmp_path / "pictures/00.png").stat().st_size > 1000
