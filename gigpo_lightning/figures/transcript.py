"""An episode to read: what was seen and done, and what each step was worth, as Markdown."""

import re
from collections.abc import Iterable, Sequence
from textwrap import wrap

from gigpo_lightning.figures.credited import CreditedEpisode
from gigpo_lightning.figures.plain_text import shortened
from gigpo_lightning.trajectory import Step, Trajectory

LONGEST_OBSERVATION = 400
"""In characters; the rest is in the run's ``trajectories/``."""
_LONGEST_ACTION = 200
_LONGEST_REPLY = 400
_LONGEST_PROMPT = 2000
_OBSERVATION_LINE, _ACTION_LINE = 40, 20  # characters; TensorBoard breaks the words of other columns beside longer ones
_MARKUP = re.compile(r"([\\`*_\[\]|#])")


def transcript(trajectory: Trajectory, credit: CreditedEpisode | None = None, prompt: str = "") -> str:
    """An episode in Markdown: how it ended, and a row a step with observation, reply, validity and credit.

    Of an episode that was played alone there is no credit, which the text says, as zeros would not. Where the reply is
    more than the action, the action stands under it after an arrow.

    Args:
        trajectory: The episode.
        credit: What its steps were worth.
        prompt: The first step's prompt, shown under the table; its middle is left out if it is long.
    """
    num_steps = len(trajectory.steps)
    ended = f"{num_steps} step{'s' if num_steps > 1 else ''} ({str(trajectory.stop_reason).replace('_', ' ')})"
    lines = [
        f"**{_escaped(trajectory.task_id)}** ({_escaped(trajectory.kind)}), episode {trajectory.episode_index}: "
        f"**{'won' if trajectory.success else 'lost'}** after {ended}, return {trajectory.episode_return:g}",
        "",
    ]
    if credit is None:
        lines += ["Played once: there is no other attempt to compare it with, and so no credit.", ""]
    headings = ["step", "observation", "reply", "valid"]
    headings += [] if credit is None else ["anchor<br>group", "A_E", "A_S"]
    lines += [_row(headings), _row("---" for _ in headings)]
    for index, step in enumerate(trajectory.steps):
        cells = [str(index), _seen(step.observation), _written(step)]
        cells.append("yes" if step.valid_action else f"**no**{f'<br>{_escaped(step.problem)}' if step.problem else ''}")
        if credit is not None:
            cells.append(str(credit.group_size[index]))
            advantages = credit.episode_advantage[index], credit.step_advantage[index]
            cells += [f"{value:+.2f}" if value else "0" for value in advantages]
        lines.append(_row(cells))
    end = [str(num_steps), _seen(trajectory.final_observation)]
    lines.append(_row(end + [""] * (len(headings) - 2)))
    if prompt:
        lines += ["", "The prompt of step 0:", "", *(f"    {line}" for line in _without_middle(prompt).splitlines())]
    return "\n".join(lines)


def best_median_worst(trajectories: Sequence[Trajectory]) -> dict[str, int]:
    """Which episodes to read: their numbers under "best", "median" and "worst".

    A success is better than a failure, a larger return than a smaller one, and of equal ones the shorter episode; of
    episodes that are equal in all of it the first. Of one episode there is only a best, of two no median.
    """

    def merit(number: int) -> tuple[bool, float, int]:
        episode = trajectories[number]
        return not episode.success, -episode.episode_return, len(episode.steps)

    order = sorted(range(len(trajectories)), key=merit)
    chosen = {"best": order[:1], "median": order[(len(order) - 1) // 2 :][: len(order) > 2], "worst": order[1:][-1:]}
    return {name: each[0] for name, each in chosen.items() if each}


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _written(step: Step) -> str:
    """The reply, and the action where it is not the reply."""
    action = _in_lines(shortened(step.action, _LONGEST_ACTION), _ACTION_LINE)
    if step.response.split() == step.action.split():
        return action
    reply = _in_lines(shortened(step.response, _LONGEST_REPLY), _OBSERVATION_LINE)
    cut = " *(cut)*" if step.reply_cut else ""
    return f"{reply}{cut}<br>→ {action}"


def _without_middle(text: str) -> str:
    half = _LONGEST_PROMPT // 2
    return text if len(text) <= _LONGEST_PROMPT else f"{text[:half]}\n[...]\n{text[-half:]}"


def _seen(observation: str) -> str:
    return _in_lines(shortened(observation, LONGEST_OBSERVATION), _OBSERVATION_LINE)


def _in_lines(text: str, width: int) -> str:
    return "<br>".join(_escaped(line) for line in wrap(text, width))


def _escaped(text: str) -> str:
    """What the world says is no markup: neither Markdown nor HTML, and no end of a cell."""
    return _MARKUP.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
