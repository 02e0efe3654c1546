"""How much memory a run takes, summed up from shapes: no weights, no device, no network."""

from gigpo_lightning.memory.device import GPU_80_GIB, Setup
from gigpo_lightning.memory.engine import EngineSettings, engine_memory
from gigpo_lightning.memory.model_shape import ModelShape, known_shapes, shape_of
from gigpo_lightning.memory.reading import MemoryUnknownError, setup_of
from gigpo_lightning.memory.report import MemoryReport, report, unknown
from gigpo_lightning.memory.update import GIB, Training, flex_repeats_heads, moments, states, update_memory

__all__ = [
    "GIB",
    "GPU_80_GIB",
    "EngineSettings",
    "MemoryReport",
    "MemoryUnknownError",
    "ModelShape",
    "Setup",
    "Training",
    "engine_memory",
    "flex_repeats_heads",
    "known_shapes",
    "moments",
    "report",
    "setup_of",
    "shape_of",
    "states",
    "unknown",
    "update_memory",
]
