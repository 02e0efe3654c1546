"""What a game's grammar computes is computed; what else it asks for is not run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from gigpo_lightning.environments.alfworld.engine import EngineSlot
from gigpo_lightning.environments.alfworld.expressions import value_of
from gigpo_lightning.environments.base import Task

MUG = SimpleNamespace(name="mug 1", indefinite="a", id="")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [(" o.name", "mug 1"), ("o.indefinite + ' ' + o.name", "a mug 1"), ("o.id or o.name", "mug 1"), ("o", MUG)],
)
def test_the_expressions_of_alfworld_s_grammars_are_computed(expression, expected):
    assert value_of(expression, {"o": MUG}) == expected


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os')",
        "o.name.upper()",
        "o.__class__",
        "unknown",
        "[o]",
        "o.name[0]",
        "(lambda: o)",
        "o if o else o",
        "1 +",
    ],
)
def test_whatever_else_is_asked_for_is_refused(expression):
    with pytest.raises(ValueError, match="a grammar's expression must be names"):
        value_of(expression, {"o": MUG})


@pytest.mark.slow
@pytest.mark.alfworld
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("fast", [True, False])
def test_code_in_a_game_file_does_not_run_on_either_engine(tasks: dict[str, Task], tmp_path: Path, fast: bool):
    game = json.loads(Path(tasks["pick_and_place_simple"].payload["game_file"]).read_text())
    assert "{r.name" in game["grammar"]
    game["grammar"] = game["grammar"].replace("r.name", f"__import__('os').system('touch {tmp_path / 'RAN'}')")
    file = tmp_path / "game.tw-pddl"
    file.write_text(json.dumps(game))
    slot = EngineSlot(fast)
    with pytest.raises(ValueError, match=r"game.tw-pddl cannot be played: .*expression must be names"):
        slot.start(str(file))
    assert not (tmp_path / "RAN").exists()
