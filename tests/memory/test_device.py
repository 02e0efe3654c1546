"""The sum for a device, and what to change where it is too much."""

from dataclasses import replace

import pytest

from gigpo_lightning.memory import EngineSettings, Setup, Training, engine_memory, known_shapes, report
from gigpo_lightning.memory.advice import ways_to_fit

SHAPES = known_shapes()


def setup(model: str = "1.5B", tokens: int = 65536, length: int = 2560, episodes: int = 128, **training) -> Setup:
    """A run on GPUs of 80 GB with half of each for the engine."""
    return Setup(
        shape=SHAPES[f"Qwen/Qwen2.5-{model}-Instruct"],
        training=Training(micro_batch_tokens=tokens, mask_length=length, **training),
        engine=EngineSettings(kind="share", share=0.5, max_model_len=length),
        episodes=episodes,
    )


SHARDED = {"strategy": "fsdp2", "ranks": 4}
# The six configurations as they once were, and what memsim.py's activations, the states, FSDP2's buffers, the context
# and the engine's share came to: none fitted. See the commit that made them fit.
ONCE = [
    (setup(), 93.5),
    (setup(tokens=32768, length=4608), 83.0),
    (setup("7B", episodes=32, **SHARDED), 115.9),
    (setup("7B", tokens=32768, length=4608, episodes=32, **SHARDED), 99.5),
    (setup("3B", length=4608, episodes=320, **SHARDED), 79.2),
    (setup("7B", length=4608, episodes=160, **SHARDED | {"ranks": 8}), 98.1),
]


@pytest.mark.parametrize(("run", "summed"), ONCE)
def test_the_sum_is_that_of_the_tracked_parts_within_a_tenth(run: Setup, summed: float) -> None:
    assert run.predicted == pytest.approx(summed, rel=0.1)
    assert not run.fits


@pytest.mark.parametrize(("run", "summed"), ONCE)
def test_each_way_that_is_told_makes_the_run_fit(run: Setup, summed: float) -> None:
    ways = ways_to_fit(run)
    assert ways
    assert all(way.setup.fits for way in ways)


def test_the_fewest_changes_come_first_with_their_values() -> None:
    first, *_ = ways_to_fit(setup())
    assert first.said == ("data.init_args.engine.init_args.gpu_memory_utilization: 0.18",)
    assert ways_to_fit(first.setup) == []  # nothing to be done


def test_a_model_that_fits_no_other_way_gets_adapters_or_more_devices() -> None:
    said = " ".join(map(str, ways_to_fit(replace(setup("3B"), device_gib=23.6))))
    assert "modules.LoraPolicy" in said
    assert "trainer.devices: 8 with trainer.strategy: fsdp2" in said


def test_asleep_an_engine_has_its_graphs_alone_and_the_larger_phase_counts() -> None:
    run = setup("7B", tokens=32768, episodes=32, **SHARDED)
    asleep = replace(run, sleep=True, engine=replace(run.engine, allow_sleep=True))
    assert asleep.update["engine"] == 1.0
    assert asleep.rollout["engine"] == pytest.approx(39.6)
    assert asleep.predicted == pytest.approx(sum(asleep.rollout.values()))
    assert asleep.predicted < run.predicted


def test_an_engine_that_may_not_sleep_does_not() -> None:
    run = replace(setup(), sleep=True)
    assert run.update == setup().update


def test_an_engine_on_other_devices_takes_nothing() -> None:
    run = replace(setup(), engine=None)
    assert run.update["engine"] == 0
    assert run.predicted == pytest.approx(setup().predicted - 0.5 * 79.2)


def test_the_cache_is_what_the_rest_leaves_of_the_share() -> None:
    shape = SHAPES["Qwen/Qwen2.5-1.5B-Instruct"]
    memory = engine_memory(shape, EngineSettings(kind="share", share=0.2, max_model_len=2560), 128, 79.2)
    assert memory.total == pytest.approx(0.2 * 79.2)
    assert memory.wanted_cache == pytest.approx(128 * 2560 * 28672 / 2**30)  # 2 x 28 layers x 256 x 2 bytes a token
    assert memory.cache > memory.wanted_cache


def test_an_engine_whose_share_is_less_than_its_weights_cannot_start() -> None:
    run = setup("7B", episodes=32, tokens=2560, **SHARDED)
    run = replace(run, engine=replace(run.engine, share=0.15))
    said = report(run, "a device").warnings
    assert said[0].startswith(
        "the engine cannot start: it needs 17.9 GiB at least, but the share 0.15 of 79.2 gives it"
    )
    assert not run.fits
    assert any("gpu_memory_utilization" in line for line in said[1:])


def test_a_model_whose_two_copies_are_more_than_a_device_gets_an_engine_elsewhere() -> None:
    (way,) = ways_to_fit(
        replace(setup("7B", tokens=32768), device_gib=23.6, training=Training(strategy="fsdp2", ranks=8))
    )
    assert "VLLMServerEngine" in str(way)
    assert way.setup.fits


def test_fsdp_gathers_all_weights_for_the_engine_and_fsdp2_is_told_instead() -> None:
    run = setup("7B", tokens=32768, length=4608, episodes=160, strategy="fsdp", ranks=8)
    run = replace(run, engine=replace(run.engine, share=0.35))
    assert run.rollout["loading"] > 2 * 4 * run.shape.num_parameters / 2**30  # the policy and the reference, whole
    ways = ways_to_fit(run)
    assert ways[0].said == ("trainer.devices: 8 with trainer.strategy: fsdp2",)


def test_what_fits_nowhere_is_said_to() -> None:
    said = report(replace(setup("7B"), device_gib=4.0), "a device").warnings
    assert said[-1].startswith("no change that is known here makes it fit")
