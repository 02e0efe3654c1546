"""What to change in a run that does not fit: keys with values, each tried in the same sum."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, combinations

from gigpo_lightning.memory.device import Setup
from gigpo_lightning.memory.engine import longest_reply

_MOST = 2  # ways that are told on the devices that there are
_ADAPTER_RANK = 32
_CACHES = (1.0, 0.5, 0.25)  # of the cache that all episodes at their longest would take
_KEYS = {
    "tokens": "data.init_args.micro_batch_tokens",
    "share": "data.init_args.engine.init_args.gpu_memory_utilization",
    "sleep": "data.init_args.engine.init_args.allow_sleep",
    "checkpointing": "model.init_args.policy.init_args.gradient_checkpointing",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """A changed run, and what was said to change."""

    said: tuple[str, ...]
    setup: Setup

    @property
    def keys(self) -> frozenset[str]:
        """The keys that are changed."""
        return frozenset(change.partition(":")[0] for change in self.said)

    def __str__(self) -> str:
        """The changes, and what they come to."""
        return f"{', '.join(self.said)} ({self.setup.predicted:.1f} GiB)"


Change = Callable[[Way], Way | None]


def ways_to_fit(setup: Setup) -> list[Way]:
    """The fewest changes after which a run fits, each with the largest micro-batch that does.

    First on the devices that it has, then on more, then with adapters alone. None if the run fits as it is, or no
    change is known.
    """
    if setup.fits:
        return []
    start = Way(said=(), setup=setup)
    shares = (partial(_share_for, part=part) for part in _CACHES)
    steps: list[Change] = [_checkpointing, *shares, _sleep]
    found = _fitting(_combined(start, steps), _MOST)
    more = (_combined(_on_devices(start, number), steps) for number in _more_devices(setup))
    found += _fitting(chain.from_iterable(more), 1)
    adapted = [] if setup.training.lora_rank else [_adapters(start, kind) for kind in ("", "bfloat16")]
    found += _fitting(chain.from_iterable(_combined(way, steps) for way in adapted), 1)
    if not found and setup.engine is not None:
        found += _fitting(map(_elsewhere, (start, *adapted)), 1)
    return found


def _fitting(ways: Iterator[Way], most: int) -> list[Way]:
    """The first of them that fit; one that does more than another, and fits no better for it, is none."""
    found: list[Way] = []
    for way in ways:
        fitted = _fewer_tokens(way)
        if fitted is not None and not any(other.keys <= fitted.keys for other in found):
            found.append(fitted)
        if len(found) == most:
            break
    return found


def _combined(start: Way, steps: list[Change]) -> Iterator[Way]:
    """The run with none of the changes, each, each two, all."""
    for number in range(len(steps) + 1):
        for chosen in combinations(steps, number):
            way: Way | None = start
            for change in chosen:
                way = change(way) if way is not None else None
            if way is not None:
                yield way


def _more_devices(setup: Setup) -> list[int]:
    """Numbers of devices that a run might be sharded over."""
    training = setup.training
    if not setup.on_gpu:
        return []
    own = [] if training.strategy == "fsdp2" or training.ranks == 1 else [training.ranks]
    return own + [each for each in (2, 4, 8) if each > training.ranks]


def _fewer_tokens(way: Way) -> Way | None:
    """The same with the largest micro-batch that fits, at least of the longest step; None if none does."""
    setup = way.setup
    if setup.fits:
        return way
    least = longest_reply(setup.shape, setup.engine) if setup.engine is not None else 1024
    tokens = 1 << (setup.training.micro_batch_tokens - 1).bit_length()
    while (tokens := tokens // 2) >= least:
        fewer = replace(setup, training=replace(setup.training, micro_batch_tokens=tokens))
        if fewer.fits:
            return Way(said=(*way.said, f"{_KEYS['tokens']}: {tokens}"), setup=fewer)
    return None


def _share_for(way: Way, part: float) -> Way | None:
    """An engine with a part of the cache that its episodes at their longest would take, if that is less than it has.

    An engine that could not start gets more.
    """
    setup, memory = way.setup, way.setup.engine_memory
    if memory is None or setup.engine is None or setup.engine.kind != "share" or _KEYS["share"] in way.keys:
        return None
    wanted = memory.total - memory.cache + max(memory.least_cache, part * memory.wanted_cache)
    share = math.ceil(100 * wanted / setup.device_gib) / 100
    if share > 1 or (memory.starts and share >= setup.engine.share):
        return None
    said = f"{_KEYS['share']}: {share:g}"
    return Way(said=(*way.said, said), setup=replace(setup, engine=replace(setup.engine, share=share)))


def _sleep(way: Way) -> Way | None:
    """An engine that gives its memory up while the policy is updated."""
    setup = way.setup
    if setup.engine is None or setup.engine.kind != "share" or setup.sleeps:
        return None
    said = (f"{_KEYS['sleep']}: true with callbacks.WeightSync init_args.sleep: true",)
    return Way(said=way.said + said, setup=replace(setup, sleep=True, engine=replace(setup.engine, allow_sleep=True)))


def _elsewhere(way: Way) -> Way:
    """An engine that takes nothing of the trainer's devices."""
    said = "data.init_args.engine: gigpo_lightning.rollout.VLLMServerEngine, with servers on other devices"
    return Way(said=(*way.said, said), setup=replace(way.setup, engine=None, sleep=False))


def _checkpointing(way: Way) -> Way | None:
    if way.setup.training.gradient_checkpointing:
        return None
    training = replace(way.setup.training, gradient_checkpointing=True)
    said = f"{_KEYS['checkpointing']}: true"
    return Way(said=(*way.said, said), setup=replace(way.setup, training=training))


def _on_devices(way: Way, number: int) -> Way:
    """More devices, over which the states are sharded and the episodes dealt."""
    setup = way.setup
    training = replace(setup.training, ranks=number, strategy="fsdp2")
    episodes = math.ceil(setup.episodes * setup.training.ranks / number)
    said = f"trainer.devices: {number} with trainer.strategy: fsdp2"
    return Way(said=(*way.said, said), setup=replace(setup, training=training, episodes=episodes))


def _adapters(way: Way, weight_type: str) -> Way:
    """LoRA: no reference, and nothing but the adapters is trained, beside weights of a type that may be shorter."""
    training = replace(way.setup.training, lora_rank=_ADAPTER_RANK, reference=False)
    said = f"model.init_args.policy: modules.LoraPolicy with rank: {_ADAPTER_RANK}"
    if weight_type:
        training, said = replace(training, weight_type=weight_type), f"{said}, base of dtype: {weight_type}"
    return Way(said=(*way.said, said), setup=replace(way.setup, training=training))
