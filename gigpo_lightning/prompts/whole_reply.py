"""Replies that are the action and nothing else."""

from gigpo_lightning.prompts.base import ParsedAction, TurnView
from gigpo_lightning.text import well_formed


def parse_whole_reply(response: str, view: TurnView) -> ParsedAction:
    """Take the whole reply, stripped, as the action; it is valid if it is one of the admissible ones.

    Where the environment names no admissible actions, every reply is valid but an empty one.
    """
    action, known = well_formed(response).strip(), view.admissible_actions
    if action and (known is None or action in known):
        return ParsedAction(action=action, valid=True)
    return ParsedAction(action=action, valid=False, problem="not admissible" if action else "empty")
