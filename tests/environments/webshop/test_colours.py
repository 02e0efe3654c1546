import pytest

from gigpo_lightning.environments.webshop.colours import COLOURS, plain_colour


@pytest.mark.parametrize(
    ("value", "colour"),
    [
        ("", ""),
        ("black forest", "black"),
        ("violet lavender", "lavender"),
        ("steelivy fuchsia", "fuchsia"),
        ("123alabaster", "alabaster"),
        ("webshop", "webshop"),
        ("Blue", "Blue"),
    ],
)
def test_a_value_becomes_the_first_colour_it_contains(value: str, colour: str) -> None:
    assert plain_colour(value) == colour


def test_there_are_102_colours_in_order() -> None:
    assert len(set(COLOURS)) == 102
    assert list(COLOURS) == sorted(COLOURS)
