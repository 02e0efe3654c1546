"""What the parts of a run say of its memory. They are asked by their attributes: the core knows no Lightning."""

import math
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from gigpo_lightning.memory.device import Setup
from gigpo_lightning.memory.engine import EngineSettings, longest_reply
from gigpo_lightning.memory.model_shape import ModelShape, shape_of
from gigpo_lightning.memory.update import TYPE_BYTES, Strategy, Training, flex_repeats_heads

_LONGEST = 4096  # tokens, where no engine of this process says what a row may have
_NEAR = 0.02  # of the parameters: how far a shape may be from the model that it stands for


class MemoryUnknownError(ValueError):
    """A run whose memory cannot be summed."""


@runtime_checkable
class TakesMemory(Protocol):
    """An engine that shares the trainer's device."""

    def memory_settings(self, on_gpu: bool) -> EngineSettings:
        """What decides how much it takes of a GPU, or of a CPU's memory."""


def setup_of(
    trainer: Any, module: Any, data: Any, *, strategy: Any, policy: Any, on_gpu: bool, device_gib: float
) -> Setup:
    """Read a run's memory off its parts, made and not begun.

    A strategy of None is the default; a policy has no weights, and is None where it is not known.

    Raises:
        MemoryUnknownError: If they do not say enough.
    """
    source, loss = getattr(module, "policy_source", None), getattr(module, "loss_settings", None)
    if source is None or loss is None or not hasattr(data, "batching"):
        raise MemoryUnknownError(f"{type(module).__name__} on {type(data).__name__} is not known here")
    if getattr(source, "quantization", None) is not None:
        raise MemoryUnknownError("weights in four bits are not counted; without quantization the sum is an upper bound")
    base, rank = (source.base, source.rank) if hasattr(source, "base") else (source, 0)
    shape = _shape(base, policy)
    settings = getattr(getattr(data, "player", None), "engine", None)
    engine = settings.memory_settings(on_gpu) if isinstance(settings, TakesMemory) else None
    copies, scratch = _of_optimizer(module.make_optimizer) if hasattr(module, "make_optimizer") else (2.0, 1.0)
    ranks = trainer.num_nodes * trainer.num_devices
    training = Training(
        strategy=_strategy(strategy, ranks),
        ranks=ranks,
        precision=str(trainer.precision),
        weight_type=getattr(base, "dtype", "float32"),
        optimizer_copies=copies,
        optimizer_scratch=scratch if on_gpu else 0.0,  # on a CPU torch takes one weight after the other
        reference=loss.kl_coefficient > 0 and not rank,
        gradient_checkpointing=getattr(base, "gradient_checkpointing", False),
        micro_batch_tokens=data.batching.micro_batch_tokens,
        lora_rank=rank,
        reshard=getattr(strategy, "reshard_after_forward", True),
        offload=bool(getattr(strategy, "cpu_offload", False)),
    )
    if training.weight_type not in TYPE_BYTES:
        raise MemoryUnknownError(f"weights of type {training.weight_type} are not known here")
    attention = _attention(base, policy, on_gpu)
    if attention == "sdpa":
        # A row with a prompt and several replies may be twice as long; few are.
        longest = longest_reply(shape, engine) if engine is not None else _LONGEST
        training = replace(training, mask_length=min(longest, training.micro_batch_tokens))
    if attention == "flex_attention":
        training = replace(training, repeats_heads=flex_repeats_heads(shape))
    return Setup(
        shape=shape,
        training=training,
        engine=engine,
        episodes=_episodes(data.player, ranks) if engine is not None else 0,
        sleep=any(getattr(each, "sleep", False) is True for each in getattr(trainer, "callbacks", ())),
        scored=loss.importance_correction is not None,
        device_gib=device_gib,
        on_gpu=on_gpu,
    )


def _attention(source: Any, policy: Any, on_gpu: bool) -> str:
    """The implementation of attention over trees that branch; none for plain sequences, which need no mask."""
    if policy is None:
        return str(getattr(source, "attention", None) or ("flex_attention" if on_gpu else ""))
    attention = policy.attention("cuda" if on_gpu else "cpu")
    return attention.name if attention.rules.shared else ""


def _shape(source: Any, policy: Any) -> ModelShape:
    """The model's shape: of the policy without its weights, or of what comes with the project or is on disk."""
    try:
        if policy is None:
            found = shape_of(str(getattr(source, "model", "")))
        else:
            found = ModelShape.from_config(policy.model.config.to_dict())
    except ValueError as error:
        raise MemoryUnknownError(f"the model's shape is not known: {error}") from error
    if found is None:
        raise MemoryUnknownError(
            f"the model's shape is not known, as {getattr(source, 'model', type(source).__name__)} is neither on this "
            "disk nor one whose shape comes with the project"
        )
    if policy is not None:
        counted = sum(each.numel() for name, each in policy.named_parameters() if "lora_" not in name)
        if abs(counted - found.num_parameters) > _NEAR * counted:
            raise MemoryUnknownError(
                f"the model has {counted:,} parameters where a decoder of its sizes would have {found.num_parameters:,}"
            )
    return found


def _strategy(given: Any, ranks: int) -> Strategy:
    """Its name, whether it was named or made."""
    name = "auto" if given is None else given if isinstance(given, str) else type(given).__name__
    name = name.removesuffix("Strategy").lower()
    if name in ("auto", "singledevice"):
        return "auto" if ranks == 1 else "ddp"
    known: tuple[Strategy, ...] = ("fsdp2", "fsdp", "ddp")
    for each in known:
        if name == each or name.startswith(f"{each}_"):
            return each
    raise MemoryUnknownError(f"strategy {name} is not known here")


def _of_optimizer(make: Any) -> tuple[float, float]:
    """Numbers that an optimizer keeps for each weight, and that its step makes on a GPU: it is asked to take one."""
    weight = nn.Parameter(torch.ones(64, 64))
    optimizer = make([weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    kept = [each for each in optimizer.state[weight].values() if isinstance(each, torch.Tensor) and each.numel() > 1]
    alone = optimizer.defaults.get("fused") or optimizer.defaults.get("foreach") is False
    return sum(each.numel() for each in kept) / weight.numel(), 0.0 if alone else 1.0


def _episodes(player: Any, ranks: int) -> int:
    """Episodes of a rank that may ask the engine at the same time."""
    groups = math.ceil(player.tasks_per_epoch / ranks)
    if player.carry_over is not None:
        groups += math.ceil(player.carry_over.extra_groups / ranks)
    episodes = groups * player.group_size
    return min(int(episodes), int(player.num_slots)) if player.num_slots else int(episodes)
