import pickle
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest

from gigpo_lightning.environments.webshop import Catalogue, WebShopEnvironment
from gigpo_lightning.environments.webshop.nouns import Nouns, PlainNouns, SpacyNouns
from gigpo_lightning.errors import RunError

TAGS = {"Tea": "NOUN", "Twinings": "PROPN", "odd": "PNOUN", "loose": "ADJ", "tea": "NOUN", "2": "NUM"}


@dataclass
class Token:
    text: str

    @property
    def pos_(self) -> str:
        return TAGS[self.text]


class FakeSpacy(ModuleType):
    """Tags the words above, and knows one model."""

    def __init__(self) -> None:
        super().__init__("spacy")
        self.__spec__ = ModuleSpec("spacy", None)
        self.loaded: list[str] = []
        self.tagged: list[str] = []

    def load(self, model: str) -> "FakeSpacy":
        if model != "en_core_web_sm":
            raise OSError(f"[E050] Can't find model '{model}'.")
        self.loaded.append(model)
        return self

    def __call__(self, title: str) -> list[Token]:
        self.tagged.append(title)
        return [Token(word) for word in title.split()]


@pytest.fixture
def spacy(monkeypatch: pytest.MonkeyPatch) -> FakeSpacy:
    fake = FakeSpacy()
    monkeypatch.setitem(sys.modules, "spacy", fake)
    return fake


@pytest.fixture
def no_spacy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)


def test_spacy_names_nouns_and_proper_nouns_lower_cased_with_repeats(spacy: FakeSpacy) -> None:
    assert SpacyNouns()("Twinings loose Tea 2 odd tea") == ("twinings", "tea", "odd", "tea")


def test_a_title_is_tagged_once(spacy: FakeSpacy) -> None:
    nouns = SpacyNouns()
    assert nouns("Tea") == nouns("Tea") == ("tea",)
    assert spacy.tagged == ["Tea"]


def test_a_copy_of_spacys_nouns_loads_the_model_anew(spacy: FakeSpacy) -> None:
    nouns = SpacyNouns()
    nouns("Tea")
    copy = pickle.loads(pickle.dumps(nouns))
    assert copy("loose Tea") == ("tea",)
    assert copy.model == "en_core_web_sm"
    assert spacy.loaded == ["en_core_web_sm"] * 2


def test_without_spacy_the_first_worker_says_what_to_install(no_spacy: None, shop: Catalogue) -> None:
    environment = WebShopEnvironment(shop, nouns=SpacyNouns())
    with pytest.raises(RunError, match="pip install spacy && python -m spacy download en_core_web_sm, or take PlainN"):
        environment.warm_up()


def test_without_the_model_the_error_says_how_to_get_it(spacy: FakeSpacy) -> None:
    with pytest.raises(
        RunError, match=r"its model en_core_web_lg \(\[E050\].*\): pip install spacy && python -m spacy"
    ):
        SpacyNouns("en_core_web_lg")("Tea")


def test_plain_nouns_are_words_of_two_letters_or_more() -> None:
    assert PlainNouns()("The 921ORB D.O.N. Café_Mug, for a 4K TV & the Tv") == ("orb", "café", "mug", "tv", "tv")
    assert PlainNouns()("4 x 6 of the") == ()


SNEAKER = "Mens D.O.N. Issue 2 Gca Basketball Sneakers Shoes Casual - Off White"
PEAK = "PEAK High Top Mens Basketball Shoes Lou Williams Streetball Master Breathable Non Slip Outdoor Sneakers"
SHORT_CORD = "Saireed UL Listed 2 Prong Power Cord for JBL Bar 3.1 Bar 2.1 Channel 4K Ultra HD Soundbar"
LONG_CORD = f"{SHORT_CORD} Home Theater System Subwoofer"
CORD = "BRST AC Power Cord Outlet Socket Cable Plug Lead for Panasonic SC-HT830V DVD/VCR Combo Home Theater System"
KNOB = "Rusticware 921ORB Kitchen and Bath Cabinet Knob"
TWEEZERS = "Minkissy 2pcs Stainless Steel Eyebrow Tweezers Blackhead Acne Remover Portable Makeup Tweezers (Silver)"


@pytest.mark.parametrize(
    ("wanted", "bought", "shared", "of", "spacys"),
    [
        (SNEAKER, PEAK, 4, 9, 0.33),
        (LONG_CORD, CORD, 5, 17, 0.30),
        (SHORT_CORD, CORD, 2, 13, 0.15),
        (KNOB, TWEEZERS, 0, 6, 0.0),
    ],
)
def test_plain_nouns_come_near_spacys_on_the_originals_test_titles(
    wanted: str, bought: str, shared: int, of: int, spacys: float
) -> None:
    nouns = PlainNouns()
    assert len(set(nouns(wanted)) & set(nouns(bought))) == shared
    assert len(nouns(wanted)) == of
    assert shared / of == pytest.approx(spacys, abs=0.12)
    assert (shared / of > 0.2) == (spacys > 0.2)  # what the factor for the kind asks


def test_plain_nouns_can_be_sent_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(PlainNouns()))("Tea") == ("tea",)


def test_an_environment_takes_plain_nouns_even_where_spacy_is_installed(spacy: FakeSpacy, shop: Catalogue) -> None:
    assert isinstance(WebShopEnvironment(shop).nouns, PlainNouns)
    assert spacy.loaded == []


def test_any_function_of_a_title_will_do() -> None:
    assert isinstance(lambda title: (title,), Nouns)
