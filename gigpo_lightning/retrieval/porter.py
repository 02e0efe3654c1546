"""Porter's stemmer as Lucene has it: the algorithm of 1980 with its author's own later changes.

Those changes: words of one or two letters stay, ``bli`` becomes ``ble`` (it was ``abli``), ``logi`` becomes ``log``.
The Snowball libraries have the original, which stems one word of a thousand otherwise (``technology``, ``possibly``,
``os``); NLTK has the changes too, and much else that nothing here needs.
"""

_SECOND = {
    "ational": "ate",
    "tional": "tion",
    "enci": "ence",
    "anci": "ance",
    "izer": "ize",
    "bli": "ble",
    "alli": "al",
    "entli": "ent",
    "eli": "e",
    "ousli": "ous",
    "ization": "ize",
    "ation": "ate",
    "ator": "ate",
    "alism": "al",
    "iveness": "ive",
    "fulness": "ful",
    "ousness": "ous",
    "aliti": "al",
    "iviti": "ive",
    "biliti": "ble",
    "logi": "log",
}
_THIRD = {
    "icate": "ic",
    "ative": "",
    "alize": "al",
    "iciti": "ic",
    "ical": "ic",
    "ful": "",
    "ness": "",
}
# fmt: off
_FOURTH = dict.fromkeys((
    "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ion", "ou", "ism", "ate", "iti",
    "ous", "ive", "ize",
), "")
# fmt: on


def porter_stem(word: str) -> str:
    """Cut a lower-case word down to its stem; words of one or two letters stay.

    Any character but ``a e i o u`` and ``y`` after a consonant counts as a consonant, digits too.
    """
    if len(word) <= 2:
        return word
    if word.endswith(("sses", "ies")):
        word = word[:-2]
    elif word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    word = _without_past(word)
    if word.endswith("y") and "v" in _shape(word[:-1]):
        word = word[:-1] + "i"
    word = _replaced(word, _SECOND, least_measure=1)
    word = _replaced(word, _THIRD, least_measure=1)
    word = _replaced(word, _FOURTH, least_measure=2)
    return _tidied(word)


def _without_past(word: str) -> str:
    """Cut ``ed`` and ``ing`` after a vowel, and mend what is left."""
    if word.endswith("eed"):
        return word[:-1] if _measure(word[:-3]) > 0 else word
    stem = word.removesuffix("ed") if word.endswith("ed") else word.removesuffix("ing")
    if stem == word or "v" not in _shape(stem):
        return word
    if stem.endswith(("at", "bl", "iz")):
        return stem + "e"
    if stem[-1] == stem[-2:-1] and _shape(stem)[-1] == "c":
        return stem if stem[-1] in "lsz" else stem[:-1]
    return stem + "e" if _measure(stem) == 1 and _is_short(stem) else stem


def _replaced(word: str, endings: dict[str, str], least_measure: int) -> str:
    """Replace the longest of the endings, if what stands before it is long enough; else nothing, not a shorter one."""
    for length in range(min(7, len(word)), 1, -1):
        ending = word[-length:]
        if ending in endings:
            stem = word[:-length]
            wrong = ending == "ion" and not stem.endswith(("s", "t"))
            return word if wrong or _measure(stem) < least_measure else stem + endings[ending]
    return word


def _tidied(word: str) -> str:
    """Cut a last ``e``, and undouble a last ``ll``, of words that are long enough."""
    if word.endswith("e"):
        measure = _measure(word[:-1])
        if measure > 1 or (measure == 1 and not _is_short(word[:-1])):
            word = word[:-1]
    return word[:-1] if word.endswith("ll") and _measure(word) > 1 else word


def _shape(word: str) -> str:
    """The word with ``c`` for each consonant and ``v`` for each vowel."""
    shape = ""
    for letter in word:
        shape += "v" if letter in "aeiou" or (letter == "y" and shape.endswith("c")) else "c"
    return shape


def _measure(stem: str) -> int:
    """How often a vowel is followed by a consonant: Porter's m."""
    return _shape(stem).count("vc")


def _is_short(stem: str) -> bool:
    """Whether it ends with consonant, vowel, consonant, the last not ``w``, ``x`` or ``y``."""
    return _shape(stem).endswith("cvc") and stem[-1] not in "wxy"
