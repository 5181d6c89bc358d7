"""The table of a codec evaluation, from numbers by hand."""

from jaxtok.tasks import codec_report


def score(mean, error, judged, failures, values=(None,) * 5):
    numbers = {"mean": mean, "error": error, "judged": judged, "failed": len(failures), "failures": failures}
    return numbers | {"values": list(values)}


COSTS = {
    "bits_per_second": 1500.0, "tokens_per_second": 150.0, "codebooks": 2, "codebook_size": 1024,
    "entropy_bits_per_second": 1234.5, "usage": 0.5, "uniform_usage": 0.9, "perplexity": 300.04, "rate": 24000,
    "parameters": 1234567, "encode_real_time_factor": 0.01234, "decode_real_time_factor": None,
}  # fmt: skip
RESULTS = {
    "input": "samples:speech, test split", "text": "the transcripts of samples:speech", "decoding": "steps 32",
    "recordings": list("abcde"), "seconds": [6.0] * 5, "device": "cpu", "absent": {"stoi": "STOI needs pystoi"},
    "rows": {
        "pesq": {"title": "PESQ, wideband", "better": "higher", "digits": 2},
        "wer": {"title": "word error rate", "better": "lower", "digits": 3},
    },
    "original": {"wer": score(0.25, 0.01, 4, {})},
    "models": {
        "one": {"codec": COSTS, "scores": {
            "pesq": score(3.2109, 0.05, 1, {name: "no utterances detected" for name in "bcde"}),
            "wer": score(0.5, None, 4, {}),
        }},
        "two": {"codec": COSTS, "scores": {"pesq": score(None, None, 0, {name: "it is silent" for name in "abcde"})}},
    },
}  # fmt: skip


def test_costs_scores_and_notes():
    lines = codec_report.markdown(RESULTS).splitlines()
    assert lines[0] == "# samples:speech, test split: 5 recordings, 0.5 minutes"
    for line in (
        "| cost | one | two |",
        "| bit/s | 1,500 | 1,500 |",
        "| codebooks x size | 2 x 1,024 | 2 x 1,024 |",
        "| codes used (if uniform) | 50.0% (90.0%) | 50.0% (90.0%) |",
        "| real-time factor, encoder | 0.0123 | 0.0123 |",
        "| real-time factor, decoder |  |  |",
        "| score, mean ± standard error | better | recordings | original | one | two |",
        "| PESQ, wideband | higher | 5 |  | 3.21 ± 0.05 (80% failed) | (100% failed) |",
        "| word error rate | lower | 4 | 0.250 ± 0.010 | 0.500 |  |",
        "- Transcripts: the transcripts of samples:speech.",
        "- Models that sample: steps 32.",
        "- Not measured: STOI needs pystoi.",
        "- Failed, one, PESQ, wideband: 4 (no utterances detected): b, c, d, ...",
        "- Failed, two, PESQ, wideband: 5 (it is silent): a, b, c, ...",
    ):
        assert line in lines, line


def test_one_reason_for_the_same_recordings_is_one_line():
    late = {name: "too long" for name in "ab"}
    models = {name: {"codec": COSTS, "scores": {"pesq": score(3.0, None, 3, late), "wer": score(0.5, None, 3, late)}}
              for name in ("one", "two")}  # fmt: skip
    models["two"]["scores"]["wer"] = score(0.5, None, 4, {"a": "too long"})
    lines = codec_report.markdown(RESULTS | {"models": models}).splitlines()
    assert [line for line in lines if "Failed" in line] == [
        "- Failed, one; two, 2 scores: 2 (too long): a, b",
        "- Failed, two, word error rate: 1 (too long): a",
    ]


def test_means_over_the_recordings_that_every_column_has():
    """Where one model fails on two of four, the others' means are told over the other two as well; rates by words."""
    late = {name: "too long" for name in "cd"}
    rates, few = [(1, 10), (3, 10), (9, 10), (9, 10)], [(5, 10), [6, 10], None, None]
    models = {
        "one": {"codec": COSTS, "scores": {"wer": score(0.55, None, 4, {}, rates), "pesq": score(2.0, 0.1, 4, {})}},
        "two": {"codec": COSTS, "scores": {"wer": score(0.55, None, 2, late, few), "pesq": score(2.0, 0.1, 4, {})}},
    }
    original = {"wer": score(0.2, None, 4, {}, [(0, 10), (1, 10), (2, 10), (9, 10)])}
    lines = codec_report.markdown(RESULTS | {"models": models, "original": original}).splitlines()
    start = lines.index("Over the recordings alone that every column has, as some failed:")
    assert lines[start + 4 : start + 6] == [
        "| word error rate | lower | 2 | 0.050 ± 0.050 | 0.200 ± 0.100 | 0.550 ± 0.050 |",
        "",
    ]
    assert not any("Over the recordings" in line for line in codec_report.markdown(RESULTS).splitlines())
