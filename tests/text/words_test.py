from jaxtok.text.words import spoken, words


def test_words_ignore_case_punctuation_and_form():
    assert words("Don't  STOP, «Ça» va?") == ["don't", "stop", "ça", "va"]
    assert words("ﬁne") == ["fine"] and words(" -- ") == []


def test_numbers_are_spelt_as_they_are_said():
    assert " ".join(spoken("Press 1, or 12: don’t!")) == "press one or twelve don't"
    assert " ".join(spoken("120 3D 45")) == "one hundred twenty three d forty five"
    assert " ".join(spoken("3.50")) == "three fifty"
    assert " ".join(spoken("007 0")) == "zero zero seven zero"
    assert " ".join(spoken("999999")) == "nine hundred ninety nine thousand nine hundred ninety nine"
    assert spoken("1234567") == ["one", "two", "three", "four", "five", "six", "seven"]
    assert spoken("70000 1001") == ["seventy", "thousand", "one", "thousand", "one"]
