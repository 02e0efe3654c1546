"""Levels and their text."""

import pytest

from gigpo_lightning.environments.sokoban import Level, generate_level


def test_a_collections_symbols_and_the_observations_are_read_alike() -> None:
    assert Level.parse("#####\n#+$-#\n#*--#\n#####") == Level.parse("# # # # #\n# S X _ #\n# √ _ _ #\n# # # # #")


def test_a_levels_text_is_read_as_the_same_level() -> None:
    for seed in range(50):
        level = generate_level(seed, size=7, num_boxes=2)
        assert Level.parse(level.text()) == level


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "rows must be equally long"),
        ("#####\n#@$.\n#####", "rows must be equally long"),
        ("#####\n#@$.!\n#####", "symbols must be among # _ O X √ P S - . .*, got '!'"),
        ("#####\n#@$.-\n#####", "closed by walls all around"),
        ("#@###\n#-$.#\n#####", "closed by walls all around"),
        ("#####\n#-$.#\n#####", "one player, got 0"),
        ("######\n#@$.@#\n######", "one player, got 2"),
        ("######\n#@$..#\n######", "as many boxes as targets, and a box off them, got 1 and 2"),
        ("#####\n#@*-#\n#####", "as many boxes as targets, and a box off them, got 1 and 1"),
    ],
)
def test_what_is_no_level_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Level.parse(text)
