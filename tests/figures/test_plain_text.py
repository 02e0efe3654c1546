"""Text that fits where it is shown."""

from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.figures.plain_text import drawable, shortened


@given(st.text(), st.integers(1, 20))
def test_a_text_is_one_line_and_no_longer_than_asked_for(text: str, length: int):
    short = shortened(text, length)
    assert len(short) <= length
    assert len(short.splitlines()) <= 1


def test_a_text_that_fits_is_left_as_it_is():
    assert shortened("open drawer 1", 13) == "open drawer 1"


def test_characters_that_the_font_has_not_become_boxes():
    assert drawable("Käse ✓\n猫\x07") == "Käse ✓\n□□"
