"""What a run that goes on does otherwise than the run of its checkpoint, and whether that takes effect."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gigpo_lightning.text import shown

# What every run may say anew without being another.
_EXPECTED = (
    "ckpt_path",
    "config",
    "device_gib",
    "dry_run",
    "optimizer_settings",
    "weights_only",
    "trainer.default_root_dir",
    "trainer.enable_model_summary",
    "trainer.enable_progress_bar",
    "trainer.log_every_n_steps",
    "trainer.logger",
    "trainer.max_time",
)
_LONGEST = 80  # characters of a value that are shown

_KEPT = "has no effect, the checkpoint's is used; --optimizer_settings config takes the present one"
_PARTLY = {
    "model.init_args.policy": "the trained weights are the checkpoint's, all else takes effect",
    "seed_everything": "tasks, sampling noise and minibatches take the present one, random states are the checkpoint's",
    "data.init_args.seed": "tasks, sampling noise and minibatches take the present one",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A key of the configuration that is not what it was; a value is None where there was none, or is none now."""

    key: str
    then: Any
    now: Any
    effect: str

    def __str__(self) -> str:
        return f"{self.key} was {shown(self.then, _LONGEST)} and is {shown(self.now, _LONGEST)}: {self.effect}"


def changes(then: Mapping[str, Any], now: Mapping[str, Any], kept: Sequence[str] = ()) -> list[Change]:
    """Find what differs, key by key; of a class that is another one, its arguments are not listed.

    The values of the keys in ``kept``, and of all below them, come from the checkpoint.
    """
    found = differences(then, now)
    classes = [key.removesuffix("class_path") + "init_args" for key in found if key.endswith("class_path")]
    return [
        Change(key=key, then=before, now=after, effect=_effect(key, kept))
        for key, (before, after) in found.items()
        if not _is_below(key, (*_EXPECTED, *classes))
    ]


def differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What each key had then and has now, where that differs; keys have dots, and are in alphabetic order."""
    before, after = dict(leaves(then)), dict(leaves(now))
    differing = [key for key in before.keys() | after.keys() if before.get(key) != after.get(key)]
    return {key: (before.get(key), after.get(key)) for key in sorted(differing)}


def check_classes(found: Sequence[Change]) -> None:
    """Refuse another optimizer, whose state is none for this one, and another scheduler that is not asked for.

    Raises:
        ValueError: If one of their classes is another; the message names its key.
    """
    for change in found:
        if not change.key.endswith(".class_path"):
            continue
        then, now = shown(change.then, _LONGEST), shown(change.now, _LONGEST)
        was = f"{change.key} must be the checkpoint's {then}, got {now}"
        if _is_below(change.key, ("model.init_args.optimizer",)):
            raise ValueError(f"{was}: an optimizer cannot go on with another one's state; set it back, or begin anew")
        if change.effect == _KEPT:
            raise ValueError(f"{was}: set it back, or take the present one with --optimizer_settings config")


def _effect(key: str, kept: Sequence[str]) -> str:
    if _is_below(key, kept):
        return _KEPT
    return next((effect for above, effect in _PARTLY.items() if _is_below(key, (above,))), "takes effect")


def _is_below(key: str, above: Sequence[str]) -> bool:
    return any(key == each or key.startswith(f"{each}.") for each in above)


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested dictionaries, and of lists that hold some, by their keys with dots."""
    if isinstance(value, Mapping) and value:
        parts = list(value.items())
    elif isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
        parts = list(enumerate(value))
    else:
        yield key, value
        return
    for name, each in parts:
        yield from leaves(each, f"{key}.{name}" if key else str(name))
