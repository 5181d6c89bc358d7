import numpy as np
import pytest
from PIL import Image

from jaxtok.signal.mel import MelFrontEnd
from jaxtok.tasks import speech_report
from jaxtok.tasks.speech_report import markdown, picture, verdict

FRONT = MelFrontEnd()
GOOD = dict(
    mean_of_samples=[0.5, 0.7], single=[0.8, 0.9], right_text=[0.8, 0.9], shuffled_text=[0.9, 0.85], untrained=1.9,
    mean_frame=[1.2, 1.4],
)  # fmt: skip


def results(**changes):
    return dict(
        name="tadicodec-mini", parameters=1_234_567, steps=600, batch_size=16, seconds=630.0, examples_per_second=15.2,
        device="2 CPU cores", data="samples:speech", train_examples=1800, utterances=2, distances=GOOD, below_hz=8000.0,
        samples=8, sampler="32 Euler steps, guidance 2", token_rate=6.25, size=2**14,
        codes={"codebook": dict(used=180, tokens=200, perplexity=150.3)}, loss=(1.5, 0.9),
        files={"pairs/": "original and reconstruction as WAV"}, next={"jaxtok compile": "see what a slice does"},
    ) | changes  # fmt: skip


def test_first_line_says_that_it_holds():
    holds, sentence = verdict(GOOD)
    assert holds and sentence.startswith("Holds: ")
    for numbers in ("0.600 against 1.900", "0.600 against 1.300", "0.850 against 0.875"):
        assert numbers in sentence
    assert markdown(results()).splitlines()[0] == sentence


@pytest.mark.parametrize(
    ("change", "says", "not_said"),
    [
        (dict(untrained=0.6), "than the untrained model (0.600 against 0.600)", "mean frame"),
        (dict(mean_frame=[0.1, 0.2]), "than always answering the mean frame (0.600 against 0.150)", "shuffled"),
        (dict(shuffled_text=0.8), "the right text is not nearer to the recording than shuffled text", "untrained"),
        (dict(mean_of_samples=float("nan")), "than the untrained model (nan against 1.900), and", "shuffled"),
    ],
)
def test_first_line_says_what_falls_short(change, says, not_said):
    holds, sentence = verdict(GOOD | change)
    assert not holds and sentence.startswith("Falls short: ")
    assert says in sentence and not_said not in sentence


def test_report_is_a_screenful_with_the_numbers():
    text = markdown(results(notes=("Two utterances only.",)))
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) < 330
    for part in (
        "1,234,567 parameters, trained on samples:speech (1,800 training examples): 600 steps of 16 in 10.5 min, "
        "15.2 examples/s on 2 CPU cores; loss 1.500 -> 0.900.",
        "| mel distance below 8 kHz, 2 held-out utterances | nats | standard error |",
        "| mean of 8 samples | 0.600 | 0.100 |",
        "| untrained model, mean of 8 samples | 1.900 |  |",
        "The right text is nearer than shuffled text on 1 of 2 utterances.",
        "**87.5 bit/s**",
        "180 of 16,384 codes used by 200 held-out tokens, perplexity 150.3; 199 would be used",
        "- Two utterances only.",
        "- `pairs/`: original and reconstruction as WAV",
        "`jaxtok compile`",
    ):
        assert part in text


def test_missing_entries_are_named():
    with pytest.raises(ValueError, match="results: token_rate is missing"):
        markdown({k: v for k, v in results().items() if k != "token_rate"})
    with pytest.raises(ValueError, match=r"results: distances.right_text is missing"):
        verdict({k: v for k, v in GOOD.items() if k != "right_text"})
    with pytest.raises(ValueError, match=r"results: codes.used is missing"):
        markdown(results(codes={"codebook": dict(tokens=1, perplexity=1.0)}))
    with pytest.raises(ValueError, match=r"results: distances.single is empty"):
        markdown(results(distances=GOOD | dict(single=[])))


def test_picture_has_a_shared_scale_and_leaves_one_file(tmp_path):
    bright, dark = np.full((100, 128), 1.5, np.float32), np.full((50, 128), -1.5, np.float32)
    file = tmp_path / "mel.png"
    picture(file, {"original": bright, "reconstruction": dark}, frontend=FRONT, title="utterance 3")
    assert [p.name for p in tmp_path.iterdir()] == ["mel.png"]
    pixels = np.asarray(Image.open(file).convert("RGB"))
    colours = {tuple(c) for c in pixels.reshape(-1, 3)}
    assert (68, 1, 84) in colours and (253, 231, 36) in colours  # both ends of viridis: one scale for both panels
    longest = [max(map(_longest_run, (pixels == c).all(-1))) for c in ((253, 231, 36), (68, 1, 84))]
    assert abs(longest[1] / longest[0] - 0.5) < 0.02  # half the seconds, half the width


def _longest_run(row):
    ends = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]])))
    return max(ends[1::2] - ends[::2], default=0)


def test_ticks_stand_at_their_bands():
    ticks = speech_report._band_ticks(FRONT)
    assert list(ticks.values()) == ["250", "500", "1,000", "2,000", "4,000", "8,000"]
    band = next(p for p, name in ticks.items() if name == "1,000")
    assert abs(band - (15.0 / (51.12 / 129) - 1)) < 0.05  # 1 kHz is mel 15; 12 kHz is mel 51.12, band i at (i + 1)/129


@pytest.mark.parametrize(
    ("panels", "message"),
    [
        ({}, "panels: found none"),
        ({"a": np.zeros((3, 80))}, r"panels: 'a' has shape \(3, 80\), expected \[frames, 128\]"),
        ({"a": np.full((3, 128), np.nan)}, "panels: 'a' has numbers that are not finite"),
    ],
)
def test_bad_panels_are_named(tmp_path, panels, message):
    with pytest.raises(ValueError, match=message):
        picture(tmp_path / "x.png", panels, frontend=FRONT)
    assert not list(tmp_path.iterdir())


def test_mean_frame_weighs_frames_not_utterances():
    found = speech_report.mean_frame([np.zeros((3, 2)), np.ones((1, 2))])
    np.testing.assert_allclose(found, [0.25, 0.25])
