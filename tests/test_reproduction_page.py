"""The arithmetic of docs/reproduction.md, and that it leaves no configuration out."""

import pytest
import yaml

from tests.documents import ROOT, commands

PAGE = ROOT / "docs" / "reproduction.md"
CONFIGS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").glob("*/qwen*.yaml"))
BILLIONS = {"1.5B": 1.54, "3B": 3.09, "7B": 7.61}


def rows(heading: str) -> list[list[str]]:
    """The rows of the page's table that begins with this heading."""
    text = PAGE.read_text()
    lines = text[text.index(heading) :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def longest_epoch(config: str) -> int:
    """Tokens that an epoch's prompts and replies can have at most."""
    data = yaml.safe_load((ROOT / config).read_text())["data"]["init_args"]
    episodes = data["tasks_per_epoch"] * data["group_size"]
    return int(episodes * data["max_steps"] * data["engine"]["init_args"]["max_model_len"])


@pytest.mark.parametrize("subcommand", ["fit", "test"])
def test_every_configuration_for_gpus_has_its_command(subcommand: str) -> None:
    named = {word for words in commands("gigpo", PAGE) if words[0] == subcommand for word in words}
    assert len(CONFIGS) == 6
    assert set(CONFIGS) <= named


def test_the_means_over_question_sets_are_those_of_their_rows() -> None:
    table = rows("| model | NQ |")
    for printed, mended in zip(table[::2], table[1::2], strict=True):
        sets = [float(cell) for cell in printed[1:8]]
        assert round(sum(sets) / 7, 1) == float(printed[8])
        assert round((sum(sets[:6]) + float(mended[7])) / 7, 1) == float(mended[8])


@pytest.mark.parametrize(("row", "right"), [(0, 35), (2, 47)])
def test_what_is_printed_for_bamboogle_is_a_mean_of_two_batches(row: int, right: int) -> None:
    table = rows("| model | NQ |")
    assert abs(100 * (right / 124 + 1) / 2 - float(table[row][7])) < 0.06
    assert round(100 * (right + 1) / 125, 1) == float(table[row + 1][7])


def test_the_estimated_costs_are_the_arithmetic_that_they_say() -> None:
    cost = {what: hours for what, hours, _ in rows("| run | GPU hours |")}
    said, figure = float(cost["ALFWorld 1.5B, reference code"]), 150 * 362.83 * 2 / 3600
    assert round(figure) == float(cost["the same"])
    assert said == 12 * 2
    assert float(cost["search QA 3B, reference code"]) == 13 * 4
    larger = BILLIONS["7B"] / BILLIONS["1.5B"]
    shorter = longest_epoch("configs/webshop/qwen2.5_1.5b.yaml") / longest_epoch("configs/alfworld/qwen2.5_1.5b.yaml")
    assert cost["ALFWorld 7B"] == f"{said * larger:.0f} to {figure * larger:.0f}"
    assert cost["WebShop 1.5B"] == f"at most {said * shorter:.0f} to {figure * shorter:.0f}"
    assert cost["WebShop 7B"] == f"at most {said * shorter * larger:.0f} to {figure * shorter * larger:.0f}"
    assert float(cost["search QA 7B"]) == round(52 * BILLIONS["7B"] / BILLIONS["3B"])
