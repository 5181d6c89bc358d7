"""The judges by name, and how their numbers are summed up."""

import dataclasses

import numpy as np
import pytest

from jaxtok.metrics import codec


def test_summary_of_numbers_and_of_rates():
    assert codec.summary([1.0, 2.0, 3.0]) == codec.Summary(2.0, pytest.approx(1 / np.sqrt(3)), 3, 0)
    assert codec.summary([(1, 2), (3, 6)]).mean == 0.5 and codec.summary([(1, 2), (3, 6)]).error == 0
    assert codec.summary([4.0], failed=1) == codec.Summary(4.0, None, 1, 1)
    assert codec.summary([], failed=2) == codec.Summary(None, None, 0, 2)


def test_a_named_judge_without_its_package_is_an_error(monkeypatch):
    def absent():
        raise ImportError("PESQ needs the package pesq")

    pesq = dataclasses.replace(codec.JUDGES["pesq"], check=absent)
    monkeypatch.setattr(codec, "JUDGES", {"si_sdr": codec.JUDGES["si_sdr"], "pesq": pesq})
    judges, missing = codec.chosen([])
    assert "pesq" not in judges and missing["pesq"] == "PESQ needs the package pesq" and "si_sdr" in judges
    assert list(codec.chosen(["si_sdr"])[0]) == ["si_sdr"]
    with pytest.raises(ImportError, match="PESQ needs the package pesq"):
        codec.chosen(["pesq"])


def test_every_row_has_one_judge():
    rows = [row for judge in codec.JUDGES.values() for row in judge.rows]
    assert len(rows) == len(set(rows)) == 16
    with pytest.raises(ValueError, match="--metrics: no metric named 'peaq', known: mel_distance, "):
        codec.chosen(["si_sdr", "peaq"])
