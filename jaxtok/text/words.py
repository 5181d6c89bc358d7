"""The words of a text: what two transcripts share whatever their case, punctuation and digits."""

import re
import unicodedata

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def words(text: str) -> list[str]:
    """The words of a text without case and punctuation; two texts with equal words are the same sentence."""
    kept = "".join(c if c.isalnum() or c in "'’" else " " for c in unicodedata.normalize("NFKC", text).casefold())
    return [word for word in (word.strip("'’") for word in kept.split()) if word]


def spoken(text: str) -> list[str]:
    """The words of an English text as they are said: as :func:`words`, numbers spelt and apostrophes straight.

    A number of at most six digits is a cardinal without "and" (120: one hundred twenty); a longer one, and one that
    begins with a zero, is said digit by digit. A comma or point ends a number, and so does a letter (3D: three d).
    """
    out = []
    for word in words(text):
        for part in re.findall(r"[0-9]+|[^0-9]+", word.replace("’", "'")):
            out += _number(part) if part.isascii() and part.isdigit() else [part]
    return out


def _number(digits: str) -> list[str]:
    """The words of a number."""
    if len(digits) > 6 or (len(digits) > 1 and digits[0] == "0"):
        return [_ONES[int(digit)] for digit in digits]
    return _cardinal(int(digits))


def _cardinal(value: int) -> list[str]:
    if value < 20:
        return [_ONES[value]]
    if value < 100:
        return [_TENS[value // 10], *(_cardinal(value % 10) if value % 10 else [])]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if value >= size:
            return [*_cardinal(value // size), name, *(_cardinal(value % size) if value % size else [])]
    raise ValueError(f"value: expected a cardinal, found {value}")
