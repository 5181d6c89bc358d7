import pytest

from jaxtok.data import records, splits

ROWS = [(f"sentence number {n} here", "en" if n % 2 else "fr", 1.0 + n % 3) for n in range(200)]


def test_text_is_counted_in_its_composed_form():
    assert records.text_bytes("e\u0301") == 2


def test_counts_by_language_and_the_least_length():
    out = splits.assign(ROWS, "en=10", seconds=2.0)
    held = [(row, split) for row, split in zip(ROWS, out) if split != "train"]
    assert len(held) == 20 and {row[1] for row, _ in held} == {"en"} and min(row[2] for row, _ in held) == 2.0
    assert [split for _, split in held].count("test") == 10


def test_a_share_and_the_least_number_of_words():
    out = splits.assign(ROWS, "10%")
    assert out.count("test") == out.count("validation") == 20
    assert set(splits.assign(ROWS, "10%", words=5)) == {"train"}


def test_repetitions_stay_together_and_others_do_not_matter():
    rows = [("Say it again now.", "en", 1.0), ("say it again NOW", "en", 2.0), *ROWS]
    out = splits.assign(rows, "30%")
    assert out[0] == out[1]
    assert splits.assign([*rows, ("an other one entirely", "es", 1.0)], "30%")[: len(rows)] == out
    assert splits.assign(rows[::-1], "30%")[::-1] == out


@pytest.mark.parametrize("holdout", ["", "5", "60%", "x%", "en", "en=x", "en=-1"])
def test_another_form_is_refused(holdout):
    with pytest.raises(ValueError, match="expected a share below 50%"):
        splits.assign(ROWS, holdout)
