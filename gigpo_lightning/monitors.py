"""Whether a metric that is watched can be logged at all: a wrong name is refused before the first rollout."""

import re
from collections.abc import Sequence

from gigpo_lightning.suggestions import OURS, did_you_mean

_WITHOUT_FAMILY = ("success", "policy_loss", "epoch", "step")
_FAMILIES = ("rollout", "held_out", "anchors", "credit", "loss", "sync", "time", "memory", "scores", "cloning")
_COMMON = ("rollout/success_rate", "rollout/return", "loss/policy", "loss/kl", "loss/entropy", "cloning/held_out_loss")
_KNOWN_CLASSES = (*OURS, "lightning", "builtins")
# What Lightning says when a metric is missing, in a paragraph: its name, and all that there are.
_MISSING = (
    re.compile(r"conditioned on metric `(?P<name>.*?)` which is not available.*following: (?P<known>.*)$", re.DOTALL),
    re.compile(r"monitor='(?P<name>.*?)'\)` could not find the monitored key.*metrics: \[(?P<known>.*?)\]", re.DOTALL),
)
_NAMED = 8


def check_monitors(callbacks: Sequence[object], module: object, data: object, of_scheduler: str | None = None) -> None:
    """Refuse names that nothing in a run logs.

    If a class is not this project's or Lightning's, it may log any name, and none is refused.

    Args:
        callbacks: Those that watch have a ``monitor``.
        module: Of the run, with its estimator.
        data: Of the run, with its held-out splits.
        of_scheduler: What the scheduler of the learning rate watches.

    Raises:
        ValueError: If there is such a name.
    """
    logging_objects = (*callbacks, module, data, getattr(module, "credit", None))
    if any(type(each).__module__.partition(".")[0] not in _KNOWN_CLASSES for each in logging_objects):
        return
    splits: Sequence[str] = getattr(data, "held_out_splits", ())
    watched = [(f"monitor of {type(each).__name__}", getattr(each, "monitor", None)) for each in callbacks]
    watched.append(("model.init_args.lr_scheduler.init_args.monitor", of_scheduler))
    for who, name in watched:
        if name is None:
            continue
        family, _, rest = name.partition("/")
        split = rest.partition("/")[0]
        if name in _WITHOUT_FAMILY or (family in _FAMILIES and rest and (family != "held_out" or split in splits)):
            continue
        known = [*(f"held_out/{each}/success_rate" for each in splits), *_COMMON]
        raise ValueError(f"{who} must name a metric that the run logs, got {name!r}{_near(name, known)}")


def missing_metric(error: BaseException) -> str:
    """What is wrong where a callback has not found its metric, in one line; empty for other errors.

    Example:
        >>> missing_metric(RuntimeError("conditioned on metric `x` which is not available. ... following: `loss/kl`"))
        "monitor must name a metric that the run logs, got 'x'; there is loss/kl"
    """
    match = next((found for each in _MISSING if (found := each.search(str(error)))), None)
    if match is None:
        return ""
    known = re.findall(r"[^\s`',\[\]]+", match["known"])
    near = _near(match["name"], known) if known else "; none has been logged yet"
    return f"monitor must name a metric that the run logs, got {match['name']!r}{near}"


def _near(name: str, known: Sequence[str]) -> str:
    """The names that look like it, or share a word with it, or the first few."""
    words = {word for word in re.split(r"\W|_", name.lower()) if len(word) > 2}
    sharing = [each for each in known if words & set(re.split(r"\W|_", each.lower()))]
    if near := did_you_mean(name, sharing or known):
        return near
    chosen = (sharing or list(known))[:_NAMED]
    return f"; there {'is' if len(chosen) == 1 else 'are'} {', '.join(chosen)}"
