"""What the replies of a rollout were like: how long, how many were cut, which rules they broke."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields

from gigpo_lightning.trajectory import Step, TrajectoryGroup

_SHOWN_PROBLEMS = 8  # a prompt that writes a new problem for each reply must not fill the log
_UNNAMED = "without a reason"


@dataclass(slots=True, kw_only=True)
class ReplyCounts:
    """Sums over replies, which add up over ranks; and figures made of them.

    Attributes:
        replies: Number of replies, one a step.
        tokens: Tokens of all of them.
        longest: Tokens of the longest.
        prompt_tokens: Tokens of all prompts.
        longest_prompt: Tokens of the longest prompt.
        cut: Replies as long as they may be, which did not end by themselves.
        cut_invalid: Replies among these that are invalid.
        nats: Minus the log-probabilities of all tokens, as they were sampled.
        groups: Number of groups.
        uniform_groups: Groups of several episodes that all have one return: they have nothing to compare.
        problems: Invalid replies by the rule that they broke.
        examples: An invalid reply of each problem, the first.
    """

    replies: int = 0
    tokens: int = 0
    longest: int = 0
    prompt_tokens: int = 0
    longest_prompt: int = 0
    cut: int = 0
    cut_invalid: int = 0
    nats: float = 0.0
    groups: int = 0
    uniform_groups: int = 0
    problems: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, groups: Sequence[TrajectoryGroup]) -> "ReplyCounts":
        """Count the replies of some groups."""
        counts = cls(groups=len(groups))
        for group in groups:
            returns = [episode.episode_return for episode in group.trajectories]
            counts.uniform_groups += len(returns) > 1 and len(set(returns)) == 1
            for episode in group.trajectories:
                for step in episode.steps:
                    counts._count(step)
        return counts

    def _count(self, step: Step) -> None:
        self.replies += 1
        self.tokens += len(step.completion_ids)
        self.longest = max(self.longest, len(step.completion_ids))
        self.prompt_tokens += len(step.prompt_ids)
        self.longest_prompt = max(self.longest_prompt, len(step.prompt_ids))
        self.nats -= sum(step.logprobs)
        self.cut += step.reply_cut
        if not step.valid_action:
            self.cut_invalid += step.reply_cut
            problem = step.problem or _UNNAMED
            self.problems[problem] += 1
            self.examples.setdefault(problem, step.response)

    @classmethod
    def total(cls, parts: Iterable["ReplyCounts"]) -> "ReplyCounts":
        """The counts of several ranks together."""
        total = cls()
        for part in parts:
            total.examples = part.examples | total.examples
            for name in (each.name for each in fields(cls) if each.name != "examples"):
                pair = getattr(total, name), getattr(part, name)
                setattr(total, name, max(pair) if name.startswith("longest") else pair[0] + pair[1])
        return total

    @property
    def invalid_rate(self) -> float:
        """Share of the replies that are invalid."""
        return sum(self.problems.values()) / max(1, self.replies)

    @property
    def commonest_problem(self) -> tuple[str, float]:
        """The rule that most invalid replies broke, and the share of all replies that did; nothing without any."""
        for problem, number in self.problems.most_common(1):
            return problem, number / self.replies
        return "", 0.0

    def metrics(self) -> dict[str, float]:
        """Figures per reply and per group, ``rollout/...``; lengths are in tokens, the entropy in nats per token."""
        replies = max(1, self.replies)
        figures = {
            "reply_length_mean": self.tokens / replies,
            "reply_length_max": float(self.longest),
            "prompt_length_mean": self.prompt_tokens / replies,
            "prompt_length_max": float(self.longest_prompt),
            "cut_reply_rate": self.cut / replies,
            "sampled_entropy": self.nats / max(1, self.tokens),
            "uniform_group_fraction": self.uniform_groups / max(1, self.groups),
        }
        if math.isnan(self.nats):  # an engine with a model of its own says no log-probabilities
            del figures["sampled_entropy"]
        shown = self.problems.most_common(_SHOWN_PROBLEMS)
        figures |= {f"problems/{_tag(problem)}": number / replies for problem, number in shown}
        return {f"rollout/{name}": value for name, value in figures.items()}


def _tag(problem: str) -> str:
    """A problem as a part of a metric's name.

    Example:
        >>> _tag("no action tags")
        'no_action_tags'
    """
    return re.sub(r"\W+", "_", problem).strip("_") or "other"
