"""Says why nothing is learnt: what the figures of an epoch show, and what to do about it, each reason once."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gigpo_lightning.rollout.replies import ReplyCounts
from gigpo_lightning.text import percent, shown

_EPOCHS_WITHOUT_SIGNAL = 3
_ALL, _MOST, _MANY = 0.99, 0.5, 0.2  # shares of replies
_GROWTH, _GROWN_BY = 3.0, 32  # times the first epoch's mean reply, and tokens more than it
_LEFT_OF_ENTROPY = 0.02
_SHOWN = 160  # characters of a reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """What a rule looks at.

    Attributes:
        replies: Counts of this epoch's replies.
        metrics: The epoch's figures.
        first: The first epoch's figures.
        without_signal: Epochs up to this one in a row in which no group had two different returns.
    """

    replies: ReplyCounts
    metrics: Mapping[str, float]
    first: Mapping[str, float]
    without_signal: int


def _invalid(seen: Observed) -> str | None:
    """All replies break the prompt's rules."""
    if seen.replies.invalid_rate < _ALL:
        return None
    problem, share = seen.replies.commonest_problem
    reply = shown(" ".join(seen.replies.examples.get(problem, "").split()), _SHOWN)
    return (
        f"{percent(seen.replies.invalid_rate)} of the replies are invalid, {percent(share)} because of {problem!r}; "
        f"one of them is {reply}. The policy cannot learn a format that it never writes: show it by imitation first "
        "(modules.BehaviourCloningModule, docs/warm_start.md), name a model that follows instructions, or choose "
        "another data.prompt"
    )


def _cut(seen: Observed) -> str | None:
    """Replies end before the action comes."""
    share = seen.replies.cut_invalid / max(1, seen.replies.replies)
    if share < _MANY:
        return None
    return (
        f"{percent(share)} of the replies are invalid and were cut at {seen.replies.longest} tokens, before they "
        "ended: raise data.sampling.max_tokens, or ask for shorter replies"
    )


def _signal(seen: Observed) -> str | None:
    """No group has a better and a worse episode."""
    if seen.without_signal < _EPOCHS_WITHOUT_SIGNAL:
        return None
    success = seen.metrics["rollout/success_rate"]
    remedy = (
        "choose harder tasks"
        if success > _MOST
        else "begin with easier tasks or with imitation, raise data.group_size, or reward progress before success"
    )
    return (
        f"in {seen.without_signal} epochs no group had two different returns, and success is {percent(success)}: there "
        f"is no better episode to learn from; {remedy}"
    )


def _entropy(seen: Observed) -> str | None:
    """The policy writes the same whatever comes of it, and does not win."""
    now, first = (figures["rollout/sampled_entropy"] for figures in (seen.metrics, seen.first))
    if seen.metrics["rollout/success_rate"] > 0.9 or not now < _LEFT_OF_ENTROPY * first:
        return None
    return (
        f"the policy's entropy fell from {first:.3g} to {now:.3g} nats a token, and it hardly tries anything new: "
        "lower the learning rate, or set model.loss.entropy_coefficient or model.loss.kl_coefficient"
    )


def _length(seen: Observed) -> str | None:
    """Replies grow and grow."""
    now, first = (figures["rollout/reply_length_mean"] for figures in (seen.metrics, seen.first))
    if now < _GROWTH * first or now - first < _GROWN_BY:
        return None
    return (
        f"replies grew from {first:.0f} to {now:.0f} tokens on average; long replies often end in nonsense. Look at "
        "transcripts, lower data.sampling.max_tokens, or set model.loss.kl_coefficient"
    )


_RULES: tuple[Callable[[Observed], str | None], ...] = (_invalid, _cut, _signal, _entropy, _length)


@dataclass(slots=True)
class Diagnosis:
    """Looks at each epoch, and gives each reason once in a run.

    Example:
        >>> from gigpo_lightning.rollout.replies import ReplyCounts
        >>> replies = ReplyCounts(replies=4, longest=64, cut=2, cut_invalid=2)
        >>> metrics = replies.metrics() | {"rollout/success_rate": 0.5}
        >>> diagnosis = Diagnosis()
        >>> [reason[:58] for reason in diagnosis.reasons(replies, metrics)]
        ['50 % of the replies are invalid and were cut at 64 tokens,']
        >>> list(diagnosis.reasons(replies, metrics))
        []
    """

    _first: Mapping[str, float] = field(default_factory=dict)
    _without_signal: int = 0
    _given: set[int] = field(default_factory=set)

    def state_dict(self) -> dict[str, Any]:
        """The first epoch's figures, the epochs without signal, and which reasons were given, by number."""
        return {"first": dict(self._first), "without_signal": self._without_signal, "given": sorted(self._given)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state."""
        self._first, self._without_signal = state["first"], state["without_signal"]
        self._given = set(state["given"])

    def reasons(self, replies: ReplyCounts, metrics: Mapping[str, float]) -> Iterator[str]:
        """What this epoch's figures show for the first time.

        Args:
            replies: Counts of the epoch's replies, of all ranks.
            metrics: The epoch's figures, as ``Experience.metrics`` names them.
        """
        self._first = self._first or metrics
        uniform = metrics["rollout/uniform_group_fraction"] == 1.0
        self._without_signal = self._without_signal + 1 if uniform else 0
        seen = Observed(replies=replies, metrics=metrics, first=self._first, without_signal=self._without_signal)
        for number, rule in enumerate(_RULES):
            reason = None if number in self._given else rule(seen)
            if reason is not None:
                self._given.add(number)
                yield reason
