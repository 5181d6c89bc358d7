import numpy as np
import pytest
from PIL import Image

from jaxtok.tasks import image_report
from jaxtok.tasks.image_report import grid, histogram, markdown, verdict

PSNR = dict(trained=[20.0, 22.0], untrained=[9.0, 11.0], mean_image=[12.0, 12.0])
CODES = {"codebook": dict(used=800, tokens=2000, perplexity=500.0)}  # uniform codes: 878.9 of 1,024


def results(**changes):
    return dict(
        name="fvq:mini", parameters=1_234_567, steps=600, batch_size=32, seconds=540.0, examples_per_second=35.6,
        device="2 CPU cores", data="samples:emoji", train_examples=6800, psnr=PSNR,
        mse=dict(trained=[0.04, 0.02], untrained=[0.5, 0.3], mean_image=0.25), images=2, split="test", size=1024,
        bits=10.0, tokens=64, pixels=1024, codes=CODES, loss=(0.5, 0.03),
        files={"codes.png": "how often"}, next={"jaxtok compile": "see what a slice does"},
    ) | changes  # fmt: skip


def test_first_line_says_that_it_holds():
    holds, sentence = verdict(PSNR, CODES, 1024)
    assert holds and sentence == (
        "Holds: the reconstruction is nearer to the image than the untrained model's (21.00 against 10.00 dB) and than "
        "always the mean image (21.00 against 12.00 dB), and codebook uses 800 of 1,024 codes (879 if uniform)."
    )
    assert markdown(results()).splitlines()[0] == sentence
    assert verdict(PSNR, {}, 1)[0]  # continuous tokens have no codebook to lose


@pytest.mark.parametrize(
    ("change", "used", "says", "not_said"),
    [
        (dict(untrained=[21.0]), 800, "the image than the untrained model's (21.00 against 21.00 dB)", "mean im"),
        (dict(mean_image=[30.0]), 800, "not nearer to the image than always the mean image", "untrained"),
        (dict(trained=float("nan")), 800, "than the untrained model's (nan against 10.00 dB) and than always", "uses"),
        ({}, 439, "Falls short: codebook uses 439 of 1,024 codes (879 if uniform), less than half.", "nearer"),
    ],
)
def test_first_line_says_what_falls_short(change, used, says, not_said):
    codes = {"codebook": CODES["codebook"] | dict(used=used)}
    holds, sentence = verdict(PSNR | change, codes, 1024)
    assert not holds and sentence.startswith("Falls short: ")
    assert says in sentence and not_said not in sentence


def test_report_is_a_screenful_with_the_numbers():
    text = markdown(results(notes=("Two images only.",)))
    assert len(text.splitlines()) <= 40 and max(map(len, text.splitlines())) < 330
    for part in (
        "1,234,567 parameters, trained on samples:emoji (6,800 training examples): 600 steps of 32 in 9.0 min, "
        "35.6 examples/s on 2 CPU cores; loss 0.500 -> 0.030.",
        "| 2 images of the test split | PSNR, dB | standard error | MSE |",
        "| from the tokens | 21.00 | 1.00 | 0.0300 |",
        "- Rate: 64 tokens of 10.00 bits = **640 bits an image**, 0.625 a pixel.",
        "- Codebook: 800 of 1,024 codes used by 2,000 held-out tokens, perplexity 500.0; 879 would be used if all were",
        "- Two images only.",
        "- `codes.png`: how often",
        "`jaxtok compile`",
    ):
        assert part in text
    assert "Tokens are continuous." in markdown(results(codes={}, bits=0.0, size=1))


def test_missing_entries_are_named():
    with pytest.raises(ValueError, match="results: bits is missing"):
        markdown({k: v for k, v in results().items() if k != "bits"})
    with pytest.raises(ValueError, match=r"results: psnr.trained is missing"):
        verdict({k: v for k, v in PSNR.items() if k != "trained"}, CODES, 1024)
    with pytest.raises(ValueError, match=r"results: mse.untrained is empty"):
        markdown(results(mse=dict(trained=1.0, untrained=[])))


def test_grid_has_each_pair_side_by_side(tmp_path):
    red, blue = np.full((3, 8, 8, 3), -1.0), np.full((3, 8, 8, 3), -1.0)
    red[..., 0], blue[..., 2] = 1.0, 7.0  # what lies outside is cut off
    grid(tmp_path / "grid.png", red, [blue], scale=1)
    assert [p.name for p in tmp_path.iterdir()] == ["grid.png"]
    shown = np.asarray(Image.open(tmp_path / "grid.png"))
    reds, blues = ((shown == colour).all(-1) for colour in ((255, 0, 0), (0, 0, 255)))
    assert reds.sum() == blues.sum() == 3 * 64
    assert (shown.reshape(-1, 3) == (255, 255, 255)).all(-1).sum() == shown.shape[0] * shown.shape[1] - 6 * 64
    np.testing.assert_array_equal(np.roll(reds, 10, axis=1), blues)  # to the right of its original, two white between


def test_wrong_images_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"of one shape, found \[\(1, 4, 4, 3\), \(1, 4, 5, 3\)\]"):
        grid(tmp_path / "x.png", np.zeros((1, 4, 4, 3)), [np.zeros((1, 4, 5, 3))])
    assert not list(tmp_path.iterdir())


def test_histogram_draws_every_codebook_and_refuses_an_empty_one(tmp_path):
    histogram(tmp_path / "codes.png", {"codebook 0": np.array([5, 1]), "codebook 1": np.array([3, 3])}, size=16)
    assert Image.open(tmp_path / "codes.png").size == (700, 360)
    with pytest.raises(ValueError, match="codebook 'a' has none"):
        histogram(tmp_path / "no.png", {"a": np.array([], int)}, size=4)
    assert [p.name for p in tmp_path.iterdir()] == ["codes.png"]


def test_grey_images_become_colours():
    np.testing.assert_array_equal(image_report.pixels(np.array([[[-1.0], [0.0], [1.0]]]))[0, :, 2], [0, 128, 255])
