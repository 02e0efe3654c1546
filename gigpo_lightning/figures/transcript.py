"""An episode to read: what was seen and done, and what each step was worth, as Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from gigpo_lightning.figures.credited import CreditedEpisode
from gigpo_lightning.figures.plain_text import shortened
from gigpo_lightning.text import count
from gigpo_lightning.trajectory import Trajectory

LONGEST_OBSERVATION = 400
"""In characters; the rest is in the run's ``trajectories/``."""
_LONGEST_ACTION, _LONGEST_REPLY, _LONGEST_PROMPT = 200, 400, 2000
_OBSERVATION_LINE, _ACTION_LINE = 40, 20  # characters; TensorBoard breaks the words of other columns beside longer ones
_MARKUP = re.compile(r"([\\`*_\[\]|#])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """An episode to read, in two forms.

    Attributes:
        markdown: How it ended, and a table with a row a step: observation, reply, action, validity and credit; under it
            the prompt of the first step. Of an episode that was played alone there is no credit, which the text says,
            as zeros would not. There are no replies where they are the actions and nothing else.
        columns: Names of the columns of ``rows``.
        rows: The same as plain text, a row a step; each row begins with the task and how the episode ended.
    """

    markdown: str
    columns: list[str]
    rows: list[list[str]]


def transcript(trajectory: Trajectory, credit: CreditedEpisode | None = None, prompt: str = "") -> Transcript:
    """Write an episode down, with its credit if it has some.

    Args:
        trajectory: The episode.
        credit: What its steps were worth.
        prompt: The first step's prompt; the middle of a long one is left out.
    """
    num_steps = len(trajectory.steps)
    outcome = "won" if trajectory.success else "lost"
    ended = f"{count(num_steps, 'step')} ({str(trajectory.stop_reason).replace('_', ' ')})"
    lines = [
        f"**{_escaped(trajectory.task_id)}** ({_escaped(trajectory.kind)}), episode {trajectory.episode_index}: "
        f"**{outcome}** after {ended}, return {trajectory.episode_return:g}",
        "",
    ]
    if credit is None:
        lines += ["Played once: there is no other attempt to compare it with, and so no credit.", ""]
    replies = any(step.response.split() != step.action.split() for step in trajectory.steps)
    columns = ["step", "observation", *(["reply"] if replies else []), "action", "valid"]
    columns += [] if credit is None else ["anchor group", "A_E", "A_S"]
    rows = _rows(trajectory, credit, replies)
    lines += [_line(each.replace("anchor group", "anchor<br>group") for each in columns), _line("---" for _ in columns)]
    lines += [_line(_marked_up(dict(zip(columns, row, strict=True)))) for row in rows]
    if prompt:
        lines += ["", "The prompt of step 0:", "", *(f"    {line}" for line in _without_middle(prompt).splitlines())]
    told = [trajectory.task_id, f"{outcome} after {ended}, return {trajectory.episode_return:g}"]
    return Transcript(
        markdown="\n".join(lines), columns=["task", "outcome", *columns], rows=[[*told, *row] for row in rows]
    )


def _rows(trajectory: Trajectory, credit: CreditedEpisode | None, replies: bool) -> list[list[str]]:
    """The cells of each step, and of the observation at the end, which no action follows."""
    rows = []
    for index, step in enumerate(trajectory.steps):
        row = [str(index), _seen(step.observation)]
        if replies:
            row.append(shortened(step.response, _LONGEST_REPLY) + (" (cut)" if step.reply_cut else ""))
        row.append(shortened(step.action, _LONGEST_ACTION))
        row.append("yes" if step.valid_action else f"no: {step.problem}" if step.problem else "no")
        if credit is not None:
            row.append(str(credit.group_size[index]))
            advantages = credit.episode_advantage[index], credit.step_advantage[index]
            row += [f"{value:+.2f}" if value else "0" for value in advantages]
        rows.append(row)
    end = [str(len(rows)), _seen(trajectory.final_observation)]
    return [*rows, end + [""] * (2 + replies + (0 if credit is None else 3))]


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


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _marked_up(row: Mapping[str, str]) -> list[str]:
    """The cells of a step as Markdown, by their columns' names."""
    widths = {"observation": _OBSERVATION_LINE, "reply": _OBSERVATION_LINE, "action": _ACTION_LINE}
    valid, colon, problem = row["valid"].partition(": ")
    told = {"valid": f"**no**{colon}{_escaped(problem)}" if valid == "no" else valid}
    told |= {name: _in_lines(row[name], width) for name, width in widths.items() if name in row}
    return [told.get(name, cell) for name, cell in row.items()]


def _without_middle(text: str) -> str:
    half = _LONGEST_PROMPT // 2
    return text if len(text) <= _LONGEST_PROMPT else f"{text[:half]}\n[...]\n{text[-half:]}"


def _seen(observation: str) -> str:
    return shortened(observation, LONGEST_OBSERVATION)


def _in_lines(text: str, width: int) -> str:
    return "<br>".join(_escaped(line) for line in wrap(text, width))


def _escaped(text: str) -> str:
    """What the world says is no markup: neither Markdown nor HTML, and no end of a cell."""
    return _MARKUP.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))
