from jaxtok.tasks import generation_report

ACCURACY = {"samples": 0.5, "unguided": 0.25, "chance": 0.05, "held_out": 0.8}
DISTANCE = {"samples": 3.0, "unguided": 4.0, "untrained": 90.0, "held_out": 1.0}


def test_the_verdict_weighs_class_and_distance():
    holds, sentence = generation_report.verdict(ACCURACY, DISTANCE)
    assert holds and sentence == (
        "Holds: the judge sees the asked class in 50.0% of the samples, 10.0 times chance; Frechet distance 3.00 "
        "against 90.00 untrained (real held-out images 1.00)."
    )
    for accuracy, distance in ((dict(samples=0.2), {}), ({}, dict(samples=91.0)), (dict(samples=float("nan")), {})):
        holds, sentence = generation_report.verdict(ACCURACY | accuracy, DISTANCE | distance)
        assert not holds and sentence.startswith("Falls short")
    few = dict(chance=0.3, held_out=0.9)  # five times chance cannot be: half of the way is 0.6
    assert not generation_report.verdict(ACCURACY | few | dict(samples=0.59), DISTANCE)[0]
    assert generation_report.verdict(ACCURACY | few | dict(samples=0.61), DISTANCE)[0]


def test_the_page_begins_with_the_verdict_and_has_every_number():
    results = dict(
        name="lightningdit:mini", parameters=1_000, steps=600, batch_size=32, seconds=540.0, examples_per_second=35.6,
        device="2 CPU cores", data="samples:emoji", train_examples=6800, loss=(0.5, 0.03), files={"a.png": "samples"},
        next={"jaxtok sample": "more"}, accuracy=ACCURACY, distance=DISTANCE, judge="emoji-judge", features=64,
        classes=36, asked="10 samples of each class", held_out=347, split="test", sampling="steps 50", calls=100,
    )  # fmt: skip
    text = generation_report.markdown(results)
    assert text.splitlines()[0] == generation_report.verdict(ACCURACY, DISTANCE)[1]
    rows = "| samples | 50.0% | 3.00 |", "| chance | 5.0% | |", "| real images of the test split | 80.0% | 1.00 |"
    for part in (*rows, "no FID", "100 calls", "`emoji-judge`"):
        assert part in text
