"""The sum in words, and as a line of JSON."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from gigpo_lightning.memory.advice import ways_to_fit
from gigpo_lightning.memory.device import ROOM, Setup
from gigpo_lightning.memory.engine import EngineMemory, longest_reply
from gigpo_lightning.text import percent


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryReport:
    """What a plan says of memory: the sum, its assumptions, what does not fit, what to change, the parts as JSON."""

    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    numbers: str


def report(setup: Setup, device: str) -> MemoryReport:
    """Say what a run takes of each device."""
    update, rollout = setup.update, setup.rollout
    numbers = {
        "predicted_gib": round(setup.predicted, 2),
        "device_gib": round(setup.device_gib, 2),
        "update": {name: round(value, 2) for name, value in update.items()},
        "rollout": {name: round(value, 2) for name, value in rollout.items()},
    }
    memory = setup.engine_memory
    asleep = ", the engine asleep" if setup.sleeps else ""
    share = setup.predicted / setup.device_gib
    lines = [
        f"memory of each device: {setup.predicted:.1f} GiB of {setup.device_gib:.1f} ({percent(share)}); {device}",
        f"  update{asleep}: {_sum(update)}",
        f"  rollout: {_sum(rollout)}",
        *([_engine(setup, memory)] if memory is not None else []),
        f"  assumed: {_assumed(setup)}",
    ]
    return MemoryReport(lines=tuple(lines), warnings=tuple(_warnings(setup, memory)), numbers=json.dumps(numbers))


def unknown(why: str, device_gib: float) -> MemoryReport:
    """Say that there is no sum."""
    numbers = {"predicted_gib": None, "device_gib": round(device_gib, 2)}
    return MemoryReport(lines=(f"memory is not summed: {why}",), warnings=(), numbers=json.dumps(numbers))


def _sum(parts: dict[str, float]) -> str:
    said = " + ".join(f"{name} {value:.1f}" for name, value in parts.items())
    return f"{said} = {sum(parts.values()):.1f}"


def _engine(setup: Setup, memory: EngineMemory) -> str:
    assert setup.engine is not None
    if not memory.starts:
        parts = memory.total - memory.cache
        return (
            f"  engine: weights {memory.weights:.1f} + workspace {memory.workspace:.1f} + graphs {memory.graphs:.1f} = "
            f"{parts:.1f}, which leaves no room for a cache in {memory.total:.1f}"
        )
    held = min(memory.replies, int(max(0.0, memory.cache) / memory.least_cache))
    share = f" (its share: {setup.engine.share:g})" if setup.engine.kind == "share" else ""
    return (
        f"  engine{share}: weights {memory.weights:.1f} + cache {memory.cache:.1f} + workspace {memory.workspace:.1f} "
        f"+ graphs {memory.graphs:.1f} = {memory.total:.1f}; the cache holds {held} of {memory.replies} replies at "
        f"their longest, {longest_reply(setup.shape, setup.engine)} tokens"
    )


def _assumed(setup: Setup) -> str:
    training = setup.training
    kept = "recomputed" if training.gradient_checkpointing else "kept"
    said = [
        f"micro-batches of {training.micro_batch_tokens} tokens, every one in a reply, activations {kept}",
        f"{training.optimizer_copies:g} numbers a trained weight for the optimizer",
        f"{'a' if training.reference else 'no'} reference",
        "attention that keeps no matrix of its own (sdpa, flash)",
        "CUDA's context 1.0, NCCL 0.5, graphs 1.0" if setup.on_gpu else "1.0 for the program, none for environments",
        f"no fragments: at least {percent(1 - ROOM)} should be left",
    ]
    return "; ".join(said)


def _warnings(setup: Setup, memory: EngineMemory | None) -> Iterator[str]:
    if setup.fits:
        return
    predicted, device = setup.predicted, setup.device_gib
    if memory is not None and not memory.starts:
        least = memory.total - memory.cache + memory.least_cache
        assert setup.engine is not None
        given = f"the share {setup.engine.share:g} of {device:.1f}" if setup.engine.kind == "share" else "kv_cache_gib"
        yield f"the engine cannot start: it needs {least:.1f} GiB at least, but {given} gives it {memory.total:.1f} GiB"
    if predicted > device:
        yield f"it does not fit: {predicted:.1f} GiB are needed on each device of {device:.1f} GiB"
    elif predicted > ROOM * device:
        yield f"it hardly fits: {predicted:.1f} of {device:.1f} GiB leave less than {percent(1 - ROOM)} to spare"
    ways = ways_to_fit(setup)
    for way in ways:
        yield f"it would fit with {way}"
    if not ways:
        yield (
            "no change that is known here makes it fit: take a smaller model or larger devices, or read "
            "docs/your_model.md"
        )
