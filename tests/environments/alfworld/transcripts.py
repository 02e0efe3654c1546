"""Playing games and writing down all that the engine says."""

import json
import random
from collections.abc import Sequence
from typing import Any

from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
from textworld import EnvInfos

Said = dict[str, Any]


def make(engine: type, **infos: Any) -> Any:
    """An engine with alfworld's names, that tells everything."""
    return AlfredDemangler(engine(EnvInfos(won=True, facts=True, admissible_commands=True, moves=True, **infos)))


def said(state: Any) -> Said:
    """All that a state holds, in its order."""
    return {
        "feedback": state.feedback,
        "raw": state.raw,
        "won": state["won"],
        "lost": state["lost"],
        "moves": state["moves"],
        "score": state.get("score"),
        "done": state.get("done"),
        "admissible_commands": state["admissible_commands"],
        "command_templates": state["command_templates"],
        "valid_commands": state["_valid_commands"],
        "valid_actions": [
            (action.name, str(action.mapping), action.command_template) for action in state["_valid_actions"]
        ],
        "facts": [str(fact) for fact in state["facts"]],
        "raw_facts": [str(fact) for fact in state["_facts"]],
        "names": {key: info.name for key, info in state["_entity_infos"].items()},
    }


def play(environment: Any, game_file: str, commands: Sequence[str]) -> list[Said]:
    """What is said at the start and after each command."""
    environment.load(game_file)
    return [said(environment.reset())] + [said(environment.step(command)[0]) for command in commands]


def commands_for(environment: Any, game_file: str, num_random: int, seed: int) -> list[str]:
    """Random commands, a senseless one among them, then the game's own way to win from the start, if it has one."""
    rng = random.Random(seed)
    environment.load(game_file)
    state = environment.reset()
    commands = []
    for number in range(num_random):
        commands.append("open sesame" if number == num_random // 2 else rng.choice(state["admissible_commands"]))
        state = environment.step(commands[-1])[0]
    with open(game_file) as file:
        return commands + (json.load(file).get("walkthrough") or [])
