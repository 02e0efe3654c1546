"""Prints the tables of docs/your_model.md: of each model and device, the first of some settings that fits.

python docs/your_model_tables.py [cpu | gpu24 | gpu80 | gpu8x80]
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

from gigpo_lightning.memory import EngineSettings, ModelShape, Setup, Training, flex_repeats_heads, known_shapes

EPISODES, LONGEST = 16 * 8, 2560  # of configs/alfworld/qwen2.5_1.5b.yaml
RANK = 32
POLICIES = (("all weights", 0, "float32"), ("LoRA", RANK, "float32"), ("LoRA, `bfloat16`", RANK, "bfloat16"))
CACHES = (1.0, 0.5, 0.25)  # of what all episodes at their longest would take
TOKENS = (32768, 16384, 8192, 4096)


@dataclass(frozen=True)
class Hardware:
    """What a run has: devices, their memory in GiB, and whether an engine may go elsewhere."""

    devices: int
    gib: float
    gpu: bool = True


HARDWARE = {
    "cpu": Hardware(devices=1, gib=62.0, gpu=False),
    "gpu24": Hardware(devices=1, gib=23.6),
    "gpu80": Hardware(devices=1, gib=79.2),
    "gpu8x80": Hardware(devices=8, gib=79.2),
}


def trainings(hardware: Hardware) -> Iterator[tuple[str, Training]]:
    """Ways to train: all weights before adapters, adapters beside float32 before those beside bfloat16."""
    for name, rank, kind in POLICIES:
        yield (
            name,
            Training(
                strategy="auto" if hardware.devices == 1 else "fsdp2",
                ranks=hardware.devices,
                precision="bf16-mixed" if hardware.gpu else "32-true",
                weight_type=kind,
                optimizer_scratch=1.0 if hardware.gpu else 0.0,
                reference=not rank,
                lora_rank=rank,
            ),
        )


def setups(shape: ModelShape, hardware: Hardware) -> Iterator[tuple[str, Setup]]:
    """Runs, in the order in which they are wanted: long micro-batches and large caches first, asleep last."""
    engine = EngineSettings(kind="share" if hardware.gpu else "fixed", max_model_len=LONGEST, graphs=hardware.gpu)
    repeats = hardware.gpu and flex_repeats_heads(shape)
    kinds = [(name, replace(training, repeats_heads=repeats)) for name, training in trainings(hardware)]
    for name, training in kinds:
        for sleep in (False, True) if hardware.gpu else (False,):
            for tokens in TOKENS if sleep or not hardware.gpu else TOKENS[:2]:
                for part in CACHES:
                    run = Setup(
                        shape=shape,
                        training=replace(training, micro_batch_tokens=tokens),
                        engine=replace(engine, allow_sleep=sleep),
                        episodes=math.ceil(EPISODES / hardware.devices),
                        sleep=sleep,
                        scored=True,
                        device_gib=hardware.gib,
                        on_gpu=hardware.gpu,
                    )
                    yield name, with_cache(run, part)
    for name, training in kinds:
        for tokens in TOKENS:
            fewer = replace(training, micro_batch_tokens=tokens)
            yield (
                name,
                Setup(
                    shape=shape,
                    training=fewer,
                    engine=None,
                    episodes=0,
                    scored=True,
                    device_gib=hardware.gib,
                    on_gpu=hardware.gpu,
                ),
            )


def with_cache(run: Setup, part: float) -> Setup:
    """The run with an engine that has a part of the cache which all its episodes at their longest would take."""
    memory, engine = run.engine_memory, run.engine
    assert memory is not None
    assert engine is not None
    cache = part * memory.wanted_cache
    if engine.kind == "fixed":
        return replace(run, engine=replace(engine, cache_gib=float(math.ceil(cache))))
    share = math.ceil(100 * (memory.total - memory.cache + cache) / run.device_gib) / 100
    return replace(run, engine=replace(engine, share=min(1.0, share)))


def row(model: str, hardware: Hardware) -> str:
    """A line of the table: the first run that fits."""
    found = ((name, run) for name, run in setups(known_shapes()[model], hardware) if run.fits)
    name, run = next(found, ("nothing", None))
    if run is None:
        return f"| {model.partition('/')[2]} | {name} | | | | | | |"
    update, rollout = run.update, run.rollout
    phase = update if sum(update.values()) >= sum(rollout.values()) else rollout
    states = sum(phase[part] for part in ("weights", "gradients", "optimizer", "reference"))
    step = sum(phase.get(part, 0.0) for part in ("activations", "gathered", "loading", "context"))
    engine = run.engine
    size = "on a server" if engine is None else f"{engine.share:g}" if hardware.gpu else f"{engine.cache_gib:g}"
    cells = (
        model.partition("/")[2],
        name,
        str(run.training.micro_batch_tokens),
        size,
        "yes" if run.sleeps else "no",
        f"{states:.1f} + {step:.1f} + {phase['engine']:.1f}",
        f"{run.predicted:.1f}",
        f"{100 * run.predicted / run.device_gib:.0f} %",
    )
    return f"| {' | '.join(cells)} |"


def table(name: str) -> str:
    """The table of some hardware."""
    hardware = HARDWARE[name]
    size = "`gpu_memory_utilization`" if hardware.gpu else "`kv_cache_gib`"
    head = f"| model | trained | `micro_batch_tokens` | {size} | sleep | states + step + engine | GiB | of a device |"
    return "\n".join((head, "|---|---|---|---|---|---|---|---|", *(row(model, hardware) for model in known_shapes())))


if __name__ == "__main__":
    for chosen in sys.argv[1:] or HARDWARE:
        sys.stdout.write(f"{table(chosen)}\n\n")
