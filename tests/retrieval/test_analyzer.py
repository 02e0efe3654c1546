"""The analyzer makes the terms that Lucene makes; expected terms are the output of Anserini 0.22.1's own analyzer."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.retrieval.analyzer import STOP_WORDS, lucene_tokens, lucene_words
from gigpo_lightning.retrieval.porter import porter_stem
from tests.retrieval.shop_texts import shop_text

awkward_letters = st.text("ab1_'.,:; -sS\u2019\u00ae\u00e9\u2605\u4e2d", max_size=12)


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("_foo bar_ a_b __ _1_", "_foo bar_ a_b _1_"),
        ("don't don\u2019t 'tis o'clock's dogs' dogs's", "don't don\u2019t ti o'clock dog dog"),
        ("WOMEN\u2019S KIDS'S s's kid\uff07s", "women kid s kid"),
        ("3.14 1,000 1;2 3:4 1'2 3. .5 1..2", "3.14 1,000 1;2 3 4 1'2 3 5 1 2"),
        ("a.b a:b a,b a;b A.B.C. x.1 1.x", "a.b a:b b b a.b.c x 1 1 x"),
        ("t-shirt 3-piece c++ rock&roll 60\" 5' 10% $8.99", "t shirt 3 piec c rock roll 60 5 10 8.99"),
        ("foo@bar.com https://a.com/b_c?d=1", "foo bar.com http a.com b_c d 1"),
        ("mp3 3d 13.5fl.oz 2.0 d'artagnan 12x18 g95-56j14", "mp3 3d 13.5fl.oz 2.0 d'artagnan 12x18 g95 56j14"),
        ("", ""),
        (" \n\t ", ""),
        ("The and of a I it to", "i"),
    ],
)
def test_words_end_where_lucene_ends_them(text: str, terms: str) -> None:
    assert lucene_tokens(text) == terms.split()


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("中文字 ひらがな カタカナ カタa 한국어", "中 文 字 ひ ら が な カタカナ カタ 한국어"),
        ("\u0e44\u0e17\u0e22a", "\u0e44\u0e17\u0e22"),
        ("\u05e8\u05e0\u05d1\"\u05e8 \u05e6'\u05e7", "\u05e8\u05e0\u05d1\"\u05e8 \u05e6'\u05e7"),
        (
            "\u2605 \u2606 \u260e \u2714 \u2705 \u2765 \u2665 \u2726 \u2022 \u2192",
            "\u2605 \u260e \u2714 \u2705 \u2765 \u2665",
        ),
        ("brand\u00ae \u2122 \u00a9 \u00b0 \u00bd \u2714yes", "brand \u00ae \u2122 \u00a9 \u2714 ye"),
        ("\U0001f44d\U0001f3fd ok\U0001f44dok", "\U0001f44d\U0001f3fd ok \U0001f44d ok"),
        ("\U0001f469\u200d\U0001f469\u200d\U0001f467", "\U0001f469\u200d\U0001f469\u200d\U0001f467"),
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", "\U0001f1e9\U0001f1ea \U0001f1eb\U0001f1f7"),
        ("1\ufe0f\u20e3 #\ufe0f\u20e3 \u260e\ufe0f", "1\ufe0f\u20e3 #\ufe0f\u20e3 \u260e\ufe0f"),
        (
            "cafe\u0301 stra\u00dfe na\u00efve soft\u00adhyphen nb\u00a0sp",
            "cafe\u0301 stra\u00dfe na\u00efv soft\u00adhyphen nb sp",
        ),
        ("\u0130stanbul \u03a3\u0391\u03a3", "istanbul \u03c3\u03b1\u03c3"),
        (
            "\uff11\uff12\uff13 \uff41\uff42\uff43 \uff11\uff0e\uff15",
            "\uff11\uff12\uff13 \uff41\uff42\uff43 \uff11\uff0e\uff15",
        ),
    ],
)
def test_scripts_and_pictures_are_split_as_lucene_splits_them(text: str, terms: str) -> None:
    assert lucene_tokens(text) == terms.split(" ")


@pytest.mark.parametrize(
    ("words", "stems"),
    [
        ("caresses ponies ties caress cats os", "caress poni ti caress cat os"),
        ("feed agreed plastered bled motoring sing", "feed agre plaster bled motor sing"),
        ("conflated troubled sized hopping tanned falling", "conflat troubl size hop tan fall"),
        ("hissing fizzed failing filing trekking flies dying", "hiss fizz fail file trek fli dy"),
        ("happy sky skies says", "happi sky ski sai"),
        ("relational conditional rational valency hesitancy digitizer", "relat condit ration valenc hesit digit"),
        ("possibly radically differently vilely analogously", "possibl radic differ vile analog"),
        ("vietnamization predication operator feudalism", "vietnam predic oper feudal"),
        ("decisiveness hopefulness callousness formality", "decis hope callous formal"),
        ("sensitivity sensibility technology", "sensit sensibl technolog"),
        ("triplicate formative formalize electrical goodness", "triplic form formal electr good"),
        ("revival allowance inference airliner gyroscopic", "reviv allow infer airlin gyroscop"),
        ("adjustable defensible irritant replacement adjustment", "adjust defens irrit replac adjust"),
        ("dependent adoption opinion homologous communism", "depend adopt opinion homolog commun"),
        ("activate angularity effective bowdlerize", "activ angular effect bowdler"),
        ("probate rate cease controlling roll ion", "probat rate ceas control roll ion"),
    ],
)
def test_stems_are_those_of_porters_own_program(words: str, stems: str) -> None:
    assert [porter_stem(word) for word in words.split()] == stems.split()


def test_there_are_33_stop_words_and_none_is_a_term() -> None:
    assert len(STOP_WORDS) == 33
    assert lucene_tokens(" ".join(STOP_WORDS)) == []


@given(awkward_letters)
def test_both_patterns_agree_where_both_apply(text: str) -> None:
    ascii_only = re.sub(r"[^\x00-\x7f]", " ", text)
    beside_a_star = lucene_words(f"\u2605{ascii_only}".replace(" ", "\u3000"))  # one part, for the wide pattern
    assert beside_a_star == ["\u2605", *lucene_words(ascii_only)]


@given(awkward_letters, awkward_letters)
def test_a_space_always_parts_words(left: str, right: str) -> None:
    assert lucene_tokens(f"{left} {right}") == lucene_tokens(left) + lucene_tokens(right)


def test_the_shops_texts_have_as_many_terms_as_in_lucenes_own_index(shared_data: Path) -> None:
    products = json.loads((shared_data / "webshop" / "items_shuffle_1000.json").read_text())
    assert sum(len(lucene_tokens(shop_text(product))) for product in products) == 107_608
