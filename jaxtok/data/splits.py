"""Which utterances are held out: by a hash of the sentence, so that no sentence is on both sides within a language."""

import hashlib
from collections.abc import Sequence

from jaxtok.data import records


def assign(
    rows: Sequence[tuple[str, str, float]], holdout: str = "5%", *, words: int = 4, seconds: float = 0.0
) -> list[str]:
    """Splits utterances into train, validation and test.

    Sentences of one language are ordered by a hash of their normalised text; the first eligible ones become the test
    split, the next ones validation, all others train. Every utterance of a sentence lands in the same split.

    Args:
      rows: (text, language, seconds) of each utterance.
      holdout: what validation and test get each: a share of the eligible sentences (``"5%"``), or their number
        by language (``"en=40,es=12"``; languages that are not named hold out nothing).
      words: the least number of words of a held-out sentence.
      seconds: the least length of a held-out sentence; the shortest of its utterances counts.

    Raises:
      ValueError: when ``holdout`` has another form.
    """
    share, counts = parse(holdout)
    sentences: dict[str, dict[str, list[int]]] = {}
    for number, (text, language, _) in enumerate(rows):
        sentences.setdefault(language, {}).setdefault(" ".join(records.words(text)), []).append(number)
    out = ["train"] * len(rows)
    for language, groups in sentences.items():
        eligible = [
            sentence
            for sentence, numbers in groups.items()
            if len(sentence.split()) >= words and min(rows[number][2] for number in numbers) >= seconds
        ]
        eligible.sort(key=lambda sentence: hashlib.sha256(f"{language}\t{sentence}".encode()).digest())
        count = counts.get(language, 0) if counts else round(share * len(eligible))
        count = min(count, len(eligible) // 2)
        for split, chosen in (("test", eligible[:count]), ("validation", eligible[count : 2 * count])):
            for sentence in chosen:
                for number in groups[sentence]:
                    out[number] = split
    return out


def parse(holdout: str) -> tuple[float, dict[str, int]]:
    """``"5%"`` to (0.05, {}), ``"en=40,es=12"`` to (0.0, {"en": 40, "es": 12}).

    Raises:
      ValueError: for any other form, and for a share of half or more.
    """
    try:
        if holdout.endswith("%"):
            share = float(holdout[:-1]) / 100
            if 0 <= share < 0.5:
                return share, {}
        else:
            pairs = dict(item.split("=") for item in holdout.split(","))
            if all(int(count) >= 0 for count in pairs.values()):
                return 0.0, {language.strip(): int(count) for language, count in pairs.items()}
    except ValueError:
        pass
    raise ValueError(f"holdout {holdout!r}: expected a share below 50% as '5%', or numbers by language as 'en=9,es=3'")
