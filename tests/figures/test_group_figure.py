"""The figure of a group shows every step, in colours whose middle is 0, and cuts nothing off."""

import dataclasses
import warnings

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import PathCollection, PolyCollection
from matplotlib.figure import Figure

from gigpo_lightning.figures import CreditedEpisode, draw_group
from gigpo_lightning.trajectory import TrajectoryGroup
from tests.figures.groups import attempt, credited, group_of

LONG = "abcdefghij" * 5
MANY_STATES = "".join(chr(0x4E00 + number) for number in range(60))
PRICES = "for $5.00 you buy _a_ \\frac{ <b> $ \x07 猫 " * 9
SHAPES = {
    "one_episode_of_one_step": [("a", 0.0)],
    "one_episode": [("abc", 9.0)],
    "unequal_lengths": [("a", 0.0), ("abcdefg", 9.0), ("ab", 0.0)],
    "nothing_to_say": [("ab", 0.0), ("ab", 0.0)],
    "no_state_recurs": [("ab", 0.0), ("cd", 9.0)],
    "sixteen_episodes_of_fifty_steps": [(LONG, 9.0 * (number % 3 == 0)) for number in range(16)],
    "more_states_than_letters": [(MANY_STATES, 0.0), (MANY_STATES, 9.0)],
}


def group(name: str) -> list[CreditedEpisode]:
    (episodes,) = credited(group_of(*SHAPES[name]))
    return episodes


def rendered(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of characters that no font has, for one
        canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def texts_outside(figure: Figure) -> list[str]:
    rendered(figure)
    page = figure.bbox
    boxes = {text.get_text(): text.get_window_extent() for part in (figure, *figure.axes) for text in part.texts}
    return [
        text
        for text, box in boxes.items()
        if box.x0 < page.x0 or box.y0 < page.y0 or box.x1 > page.x1 or box.y1 > page.y1
    ]


def values_drawn(figure: Figure) -> list[np.ndarray]:
    drawn = [each for each in figure.artists if isinstance(each, PolyCollection)]
    return [np.asarray(each.get_array()) for each in drawn if each.get_array() is not None]


@pytest.mark.parametrize("name", SHAPES)
def test_nothing_is_cut_off(name: str):
    assert (
        texts_outside(draw_group(group(name), "epoch 3, kind: of 16 groups the one with most to compare\ntask")) == []
    )


@pytest.mark.parametrize("name", SHAPES)
def test_every_step_is_a_cell_of_its_advantage_and_a_strip_of_its_step_advantage(name: str):
    episodes = sorted(group(name), key=lambda each: -each.episode_advantage[0])
    cells, strips, sides, _ = values_drawn(draw_group(episodes, "title"))
    np.testing.assert_array_equal(cells, np.concatenate([each.advantage for each in episodes]))
    np.testing.assert_array_equal(strips, np.concatenate([each.step_advantage for each in episodes]))
    np.testing.assert_allclose(sides, [each.episode_advantage[0] for each in episodes], atol=1e-12)


@pytest.mark.parametrize("name", SHAPES)
def test_white_is_0_and_both_ends_are_as_far_from_it(name: str):
    figure = draw_group(group(name), "title")
    for each in figure.artists:
        if isinstance(each, PolyCollection) and each.get_array() is not None:
            assert each.norm.vmin == -each.norm.vmax
            assert each.norm.vmax > 0


def test_one_outlier_does_not_bleach_the_others():
    episodes = group("sixteen_episodes_of_fifty_steps")
    episodes[0].advantage[7] = 1000.0
    figure = draw_group(episodes, "title")
    assert figure.artists[0].norm.vmax < 50


def test_a_letter_is_drawn_for_every_visit_of_a_state_that_recurs():
    figure = draw_group(group("unequal_lengths"), "title")  # a is met by three, b by two, no other twice
    (letters,) = [each for each in figure.artists if isinstance(each, PathCollection)]
    assert len(letters.get_offsets()) == 5


def test_the_best_episode_is_at_the_top_and_says_that_it_won():
    figure = draw_group(group("unequal_lengths"), "title")
    outcomes = [text.get_text() for text in figure.texts if "won" in text.get_text() or "lost" in text.get_text()]
    assert [outcome.split() for outcome in outcomes] == [["1", "✓", "won"], ["0", "✗", "lost"], ["2", "✗", "lost"]]


def test_the_state_where_episodes_parted_ways_is_told_with_its_best_and_worst_action():
    (episodes,) = credited(group_of(("xa", 0.0), ("a", 9.0), ("xa", 4.0)))
    told = [text.get_text() for text in draw_group(episodes, "title").texts]
    assert "you are in a\nmean A_S   best: go 0 (+4.67)   worst: go 1 (-2.33)" in told


def test_what_an_environment_says_is_neither_mathematics_nor_too_long():
    (episodes,) = credited(group_of((PRICES[:20], 0.0), (PRICES[:19], 9.0)))
    assert texts_outside(draw_group(episodes, PRICES[:80])) == []


def test_long_observations_and_actions_are_shortened():
    (episodes,) = credited(group_of(("xa", 0.0), ("a", 9.0), ("xa", 4.0)))
    for number, episode in enumerate(episodes):
        told = {"observation": "there is a long way to go before you sleep " * 9, "action": f"{number} go on " * 30}
        steps = tuple(dataclasses.replace(each, **told) for each in episode.trajectory.steps)
        object.__setattr__(episode, "trajectory", dataclasses.replace(episode.trajectory, steps=steps))
    figure = draw_group(episodes, "title")
    assert any("there is a long way" in text.get_text() for text in figure.texts)
    assert texts_outside(figure) == []


def test_every_invalid_action_has_a_corner_and_no_other():
    for invalid in ((), (1,), (0, 2)):
        played = TrajectoryGroup(task_id="task", trajectories=(attempt("abc", invalid=invalid), attempt("ab", 9.0)))
        (episodes,) = credited(played)
        drawn = draw_group(episodes, "title").artists
        corners = [path for each in drawn for path in each.get_paths() if len(path.vertices) == 4]  # closed triangles
        assert len(corners) == len(invalid)


def test_two_drawings_of_a_group_are_equal():
    first, second = (rendered(draw_group(group("unequal_lengths"), "title")) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_no_episode_is_refused():
    with pytest.raises(ValueError, match="episodes must have at least one episode, got 0"):
        draw_group([], "title")
