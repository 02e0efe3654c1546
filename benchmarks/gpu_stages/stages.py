"""The stages, in the order of their value."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Something that is measured.

    Attributes:
        name: Of the stage.
        function: What runs a part of it: module and function.
        parts: Each runs in a process of its own.
        limit: Seconds of each.
        about: What is learned.
    """

    name: str
    function: str
    parts: tuple[str, ...] = ("all",)
    limit: float = 240.0
    about: str = ""


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(name="check", function="gpu_stages.check:check", limit=60, about="what can run here"),
        Stage(
            name="tests",
            function="gpu_stages.suites:suites",
            parts=("tokens", "modules"),
            limit=240,
            about="the tests of batches and modules",
        ),
        Stage(
            name="sharded",
            function="gpu_stages.runs:sharded",
            parts=("fit", "resume", "validate"),
            limit=90,
            about="fsdp2 over NCCL on one device: two epochs, a checkpoint, and a validation",
        ),
        Stage(
            name="memory", function="gpu_stages.updates:memory", limit=240, about="peak memory against the prediction"
        ),
        Stage(
            name="attention", function="gpu_stages.attention:attention", limit=360, about="tokens a second by attention"
        ),
        Stage(
            name="update",
            function="gpu_stages.updates:update",
            parts=("auto", "fsdp2"),
            limit=150,
            about="tokens a second, and where the time goes",
        ),
        Stage(
            name="engine_tests",
            function="gpu_stages.suites:suites",
            parts=("engines",),
            limit=240,
            about="engines' tests",
        ),
        Stage(
            name="engine",
            function="gpu_stages.engines:engine",
            limit=240,
            about="start, sync and its proof, sleep and wake",
        ),
        Stage(
            name="decode",
            function="gpu_stages.engines:decode",
            parts=("v2_graphs", "v2_eager", "v1_graphs", "v1_eager"),
            limit=150,
            about="tokens a second, and how far trainer and engine are apart",
        ),
        Stage(
            name="end_to_end",
            function="gpu_stages.runs:end_to_end",
            limit=240,
            about="two epochs, the engine asleep between",
        ),
        Stage(
            name="real_run",
            function="gpu_stages.real_run:real_run",
            parts=("start", "imitation", "training"),
            limit=1500,
            about="SmolLM2-135M on ALFWorld scenes, before and after",
        ),
    )
}
