"""What is held out: by a hash of the sentence (speech) or of the item (images), so that neither is on both sides."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

from jaxtok.text.words import words as words_of


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
    sentences: dict[str, dict[str, list[int]]] = {}
    for number, (text, language, _) in enumerate(rows):
        sentences.setdefault(language, {}).setdefault(" ".join(words_of(text)), []).append(number)

    def eligible(sentence: str, numbers: list[int]) -> bool:
        return len(sentence.split()) >= words and min(rows[number][2] for number in numbers) >= seconds

    return _divide(sentences, len(rows), holdout, eligible)


def by_item(rows: Sequence[tuple[str, str]], holdout: str = "5%") -> list[str]:
    """Splits images into train, validation and test, all images of one item into the same split.

    An item belongs to the group of its first image. Items of one group are ordered by a hash of their names; the first
    ones become the test split, the next ones validation, all others train.

    Args:
      rows: (group, item) of each image.
      holdout: what validation and test get each: a share of the items of each group, or their number by group.

    Raises:
      ValueError: when ``holdout`` has another form.
    """
    group_of: dict[str, str] = {}
    items: dict[str, dict[str, list[int]]] = {}
    for number, (group, item) in enumerate(rows):
        items.setdefault(group_of.setdefault(item, group), {}).setdefault(item, []).append(number)
    return _divide(items, len(rows), holdout, lambda item, numbers: True)


def _divide(
    strata: Mapping[str, Mapping[str, list[int]]],
    total: int,
    holdout: str,
    eligible: Callable[[str, list[int]], bool],
) -> list[str]:
    """The split of each row: within a stratum, the first eligible keys by hash are held out with all their rows."""
    share, counts = parse(holdout)
    out = ["train"] * total
    for stratum, groups in strata.items():
        keys = [key for key, numbers in groups.items() if eligible(key, numbers)]
        keys.sort(key=lambda key: hashlib.sha256(f"{stratum}\t{key}".encode()).digest())
        count = counts.get(stratum, 0) if counts else round(share * len(keys))
        count = min(count, len(keys) // 2)
        for split, chosen in (("test", keys[:count]), ("validation", keys[count : 2 * count])):
            for key in chosen:
                for number in groups[key]:
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
