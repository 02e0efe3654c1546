"""The sum for each device: of the update, and of the rollout before it; the larger one has to fit."""

from dataclasses import dataclass

from gigpo_lightning.memory.engine import EngineMemory, EngineSettings, engine_memory
from gigpo_lightning.memory.model_shape import ModelShape
from gigpo_lightning.memory.update import Training, played, states, update_memory

ROOM = 0.92
"""The share of a device that a plan may fill: what is left is for fragments and for what is not summed."""
GPU_80_GIB = 79.2
"""What a GPU that is sold with 80 GB has."""
_CONTEXT_GIB = 1.0  # CUDA's, with torch's and the engine's kernels
_NCCL_GIB = 0.5  # the buffers of its channels
_PROCESS_GIB = 1.0  # Python with torch, Transformers and vLLM, on a CPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """A run, as far as its memory goes.

    Attributes:
        shape: Of the model.
        training: How it is trained.
        engine: In the trainer's process; None for one on other devices.
        episodes: Episodes of a rank that may ask the engine at the same time.
        sleep: Whether the engine sleeps while the policy is updated.
        scored: Whether the trainer scores every step itself.
        device_gib: Memory of a device; of a CPU, a rank's part of it.
        on_gpu: Whether devices are GPUs.
    """

    shape: ModelShape
    training: Training
    engine: EngineSettings | None
    episodes: int
    sleep: bool = False
    scored: bool = False
    device_gib: float = GPU_80_GIB
    on_gpu: bool = True

    @property
    def engine_memory(self) -> EngineMemory | None:
        """What the engine takes while it is awake."""
        if self.engine is None:
            return None
        return engine_memory(self.shape, self.engine, self.episodes, self.device_gib)

    @property
    def sleeps(self) -> bool:
        """Whether the engine gives its memory up: a CPU's has nothing to give."""
        return self.sleep and self.on_gpu and self.engine is not None and self.engine.allow_sleep

    @property
    def context(self) -> float:
        """GiB of the process: of CUDA's context and NCCL's buffers, or of a CPU's program."""
        if not self.on_gpu:
            return _PROCESS_GIB
        return _CONTEXT_GIB + (_NCCL_GIB if self.training.strategy != "auto" or self.training.ranks > 1 else 0.0)

    @property
    def update(self) -> dict[str, float]:
        """GiB of each part while the policy is updated."""
        memory = self.engine_memory
        engine = 0.0 if memory is None else memory.graphs if self.sleeps else memory.total
        return update_memory(self.shape, self.training) | {"context": self.context, "engine": engine}

    @property
    def rollout(self) -> dict[str, float]:
        """GiB of each part while the engine gets its weights and plays."""
        memory = self.engine_memory
        return states(self.shape, self.training) | {
            "loading": played(self.shape, self.training, self.scored),
            "context": self.context,
            "engine": 0.0 if memory is None else memory.total,
        }

    @property
    def predicted(self) -> float:
        """GiB of the larger of both."""
        return max(sum(self.update.values()), sum(self.rollout.values()))

    @property
    def fits(self) -> bool:
        """Whether it fits with room to spare, and the engine can start."""
        memory = self.engine_memory
        return self.predicted <= ROOM * self.device_gib and (memory is None or memory.starts)
