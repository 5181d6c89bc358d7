"""The table of a codec evaluation: a line per number, a column per model, costs beside scores.

Pure rendering: what :func:`jaxtok.evaluation.codec.measure` gave in, Markdown out.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtok.metrics import codec

_SHOWN = 3  # names of recordings beside a reason
_COSTS = {  # title, from the numbers of a codec to what is shown, where it has them
    "bit/s": lambda c: f"{c['bits_per_second']:,.4g}",
    "tokens/s": lambda c: f"{c['tokens_per_second']:,.4g}",
    "codebooks x size": lambda c: f"{c['codebooks']} x {c['codebook_size']:,}",
    "latents/s x width": lambda c: f"{c['latents_per_second']:,.4g} x {c['latent_width']}",
    "entropy of the codes, bit/s": lambda c: f"{c['entropy_bits_per_second']:,.4g}",
    "codes used (if uniform)": lambda c: f"{c['usage']:.1%} ({c['uniform_usage']:.1%})",
    "perplexity of the codes": lambda c: f"{c['perplexity']:,.1f}",
    "sample rate, Hz": lambda c: f"{c['rate']:,}",
    "parameters": lambda c: f"{c['parameters']:,}",
    "real-time factor, encoder": lambda c: _factor(c["encode_real_time_factor"]),
    "real-time factor, decoder": lambda c: _factor(c["decode_real_time_factor"]),
}


def _factor(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def markdown(results: Mapping[str, Any]) -> str:
    """The results as Markdown: costs, scores (mean ± standard error), failures by reason, what was not measured.

    Where one model failed on recordings that another did not, their means are not of the same ones: a further table
    then has the means over those recordings alone that every column has.

    Args:
      results: of :func:`jaxtok.evaluation.codec.measure`, with ``input``, ``text`` (where transcripts came from) and
        ``decoding`` (how models that sample did, or "").
    """
    models, count = results["models"], len(results["recordings"])
    heads = " | ".join(models)
    scores = f"| score, mean ± standard error | better | recordings | original | {heads} |"
    ruler, shared = f"|---|---|---|---|{'---|' * len(models)}", _shared(results)
    if shared:
        shared = ["Over the recordings alone that every column has, as some failed:", "", scores, ruler, *shared, ""]
    lines = [
        f"# {results['input']}: {count} recordings, {sum(results['seconds']) / 60:.1f} minutes",
        "",
        f"| cost | {heads} |",
        f"|---|{'---|' * len(models)}",
        *_costs([model["codec"] for model in models.values()]),
        "",
        scores,
        ruler,
        *_scores(results),
        "",
        *shared,
        *_notes(results),
    ]
    return "\n".join(lines) + "\n"


def _costs(codecs: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each number that some codec has."""
    lines = []
    for title, show in _COSTS.items():
        cells = [_shown(show, numbers) for numbers in codecs]
        if any(cell is not None for cell in cells):
            lines.append(f"| {title} | {' | '.join(cell or '' for cell in cells)} |")
    return lines


def _shown(show: Callable[[Mapping[str, Any]], str], numbers: Mapping[str, Any]) -> str | None:
    """None where the codec does not have the number."""
    try:
        return show(numbers)
    except KeyError:
        return None


def _scores(results: Mapping[str, Any]) -> list[str]:
    lines = []
    for name, row in results["rows"].items():
        found = [model["scores"].get(name) for model in results["models"].values()]
        asked = max((score["judged"] + score["failed"] for score in found if score), default=0)
        cells = [_cell(score, row["digits"]) for score in (results["original"].get(name), *found)]
        lines.append(f"| {row['title']} | {row['better']} | {asked} | {' | '.join(cells)} |")
    return lines


def _shared(results: Mapping[str, Any]) -> list[str]:
    """A line for each score that columns have of different recordings, over those that all of them have."""
    lines = []
    for name, row in results["rows"].items():
        tables = [results["original"], *(model["scores"] for model in results["models"].values())]
        scores = [table.get(name) for table in tables]
        columns = [score["values"] for score in scores if score]
        both = [i for i, values in enumerate(zip(*columns)) if None not in values]
        most = sum(any(value is not None for value in values) for values in zip(*columns))
        if not 0 < len(both) < most:
            continue
        cells = [_cell(_over(score, both), row["digits"]) for score in scores]
        lines.append(f"| {row['title']} | {row['better']} | {len(both)} | {' | '.join(cells)} |")
    return lines


def _over(score: Mapping[str, Any] | None, positions: Sequence[int]) -> dict[str, Any] | None:
    """The summary of a score's values at these positions; pairs may have been read from JSON."""
    if score is None:
        return None
    values = [score["values"][i] for i in positions]
    return dataclasses.asdict(codec.summary([tuple(v) if isinstance(v, list) else v for v in values]))


def _cell(score: Mapping[str, Any] | None, digits: int) -> str:
    """Such as "3.21 ± 0.05", and "(4% failed)" where some did."""
    if score is None:
        return ""
    failed = score["failed"] / (score["judged"] + score["failed"])
    said = f" ({failed:.0%} failed)" if failed else ""
    if score["mean"] is None:
        return said.strip()
    error = "" if score["error"] is None else f" ± {score['error']:.{digits}f}"
    return f"{score['mean']:.{digits}f}{error}{said}"


def _notes(results: Mapping[str, Any]) -> list[str]:
    notes = [f"Transcripts: {results['text']}."]
    if results["decoding"]:
        notes.append(f"Models that sample: {results['decoding']}.")
    notes.append(
        f"Codes are counted over all tokens of these recordings. Real-time factors (seconds of computing per second of "
        f"sound) are of one recording of median length at a time on {results['device']}."
    )
    notes += [f"Not measured: {reason}." for reason in results["absent"].values()]
    notes += _failures(results)
    return [f"- {note}" for note in notes]


def _failures(results: Mapping[str, Any]) -> list[str]:
    """A line for each reason and the recordings that it stopped, with all models and scores where it did."""
    tables = [("original", results["original"]), *((name, m["scores"]) for name, m in results["models"].items())]
    found = {}  # {(reason, recordings): {model: titles of scores}}
    for name, scores in tables:
        for row, score in scores.items():
            for reason in dict.fromkeys(score["failures"].values()):
                files = tuple(file for file, why in score["failures"].items() if why == reason)
                found.setdefault((reason, files), {}).setdefault(name, []).append(results["rows"][row]["title"])
    lines = []
    for (reason, files), models in found.items():
        titles = list(dict.fromkeys(title for its in models.values() for title in its))
        what = titles[0] if len(titles) == 1 else f"{len(titles)} scores"
        which = ", ".join(files[:_SHOWN]) + ", ..." * (len(files) > _SHOWN)
        lines.append(f"Failed, {'; '.join(models)}, {what}: {len(files)} ({reason}): {which}")
    return lines
