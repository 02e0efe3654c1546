"""How Lucene makes terms of a text: its StandardTokenizer, English possessives, stop words and Porter's stemmer."""

import re
from functools import lru_cache

import regex

from gigpo_lightning.retrieval.porter import porter_stem

# fmt: off
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
})
# fmt: on
_POSSESSIVES = tuple(quote + letter for quote in "'\u2019\uff07" for letter in "sS")
_TERMS_KEPT = 1 << 18
# What Unicode 11, which the tokenizer's emoji come from, counted as pictographs and later versions no longer do.
_OLD_PICTOGRAPHS = (
    r"\u2388\u2600-\u2605\u2607-\u2612\u2614-\u2685\u2690-\u2705\u2708-\u2712\u2763-\u2767"
    r"\U0001F000-\U0001F0FF\U0001F10D-\U0001F10F\U0001F12F\U0001F260-\U0001F265"
    r"\U0001F300-\U0001F53D\U0001F546-\U0001F64F\U0001F680-\U0001F6FF\U0001FA00-\U0001FA6D"
)

# In ASCII the rules are few: "_" joins everything, "'" "." ":" join letters, "'" "." "," ";" join digits.
_ASCII_WORD = re.compile(
    r"""
    _*+ (?: (?: [A-Za-z]++ (?: ['.:] [A-Za-z]++ )*+ | [0-9]++ (?: ['.,;] [0-9]++ )*+ ) _*+ )++
    """,
    re.VERBOSE,
)


def _make_word_pattern() -> regex.Pattern[str]:
    """The word breaks of UAX #29, with the tokenizer's tailoring: ideographs alone, South-East Asian runs, emoji."""
    mark = r"[\p{WB=Format}\p{WB=Extend}\p{WB=ZWJ}]*+"
    letter = rf"[[\p{{WB=ALetter}}\p{{WB=Hebrew_Letter}}]--[\u00B8\u02E5-\u02EB]]{mark}"  # letters since Unicode 11
    hebrew_quote = rf"(?<=\p{{WB=Hebrew_Letter}}) (?: '{mark} | \"{mark} (?=\p{{WB=Hebrew_Letter}}) )"
    digit = rf"[\p{{WB=Numeric}}\uFF10-\uFF19]{mark}"
    joiner = rf"\p{{WB=ExtendNumLet}}{mark}"
    letters = (
        rf"(?:{letter})++ (?: [\p{{WB=MidLetter}}\p{{WB=MidNumLet}}']{mark} (?:{letter})++ )*+ (?:{hebrew_quote})?+"
    )
    digits = rf"(?:{digit})++ (?: [\p{{WB=MidNum}}\p{{WB=MidNumLet}}']{mark} (?:{digit})++ )*+"
    run = rf"(?: (?: {letters} | {digits} )++ | (?: \p{{WB=Katakana}}{mark} )++ )"
    emoji = rf"[\p{{Extended_Pictographic}}{_OLD_PICTOGRAPHS}\U0001F3FB-\U0001F3FF]{mark}"
    return regex.compile(
        rf"(?:{joiner})*+ {run} (?: (?:{joiner})++ {run} )*+ (?:{joiner})*+"
        rf"| \u200D*+ {emoji} (?: (?<=\u200D) {emoji} )*+ | \p{{RI}}{mark}\p{{RI}}{mark} | [\#*]\uFE0F?\u20E3{mark}"
        rf"| (?: \p{{LB=SA}}{mark} )++ | [\p{{Han}}\p{{Hiragana}}]{mark}",
        regex.VERBOSE | regex.VERSION1,
    )


_WORD = _make_word_pattern()


def lucene_words(text: str) -> list[str]:
    """Split a text where the tokenizer does, leaving letters as they are.

    Differs from Lucene in words of more than 255 characters, which it cuts, and in characters that Unicode got, or
    moved to another class, since its tables were made.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text)
    words: list[str] = []
    for part in text.split(" "):  # no word goes over a space, and few parts need the slow pattern
        words += _ASCII_WORD.findall(part) if part.isascii() else _WORD.findall(part)
    return words


@lru_cache(_TERMS_KEPT)
def lucene_term(word: str) -> str:
    """The term of a word: without possessive, in lower case, stemmed; empty for a stop word."""
    if word.endswith(_POSSESSIVES):
        word = word[:-2]
    lowered = word.lower() if word.isascii() else "".join(letter.lower()[0] for letter in word)
    return "" if lowered in STOP_WORDS else porter_stem(lowered)


def lucene_tokens(text: str) -> list[str]:
    """Analyse a text as Anserini does by default: its terms, in order, stop words left out.

    Example:
        >>> lucene_tokens("The women's T-shirts, 3.5 oz: easily washed")
        ['women', 't', 'shirt', '3.5', 'oz', 'easili', 'wash']
    """
    return [term for term in map(lucene_term, lucene_words(text)) if term]
