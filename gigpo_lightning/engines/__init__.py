"""Engines: token ids in, token ids and log-probabilities out. Each imports its library when it starts."""

from gigpo_lightning.engines.adapter import Adapter, LoadsAdapters
from gigpo_lightning.engines.base import (
    Completion,
    GenerationRequest,
    RolloutEngine,
    SamplingParameters,
    ShowsWeights,
)
from gigpo_lightning.engines.scripted import ScriptedEngine
from gigpo_lightning.engines.transformers import TransformersEngine
from gigpo_lightning.engines.vllm import VLLMEngine
from gigpo_lightning.engines.vllm_server.client import ServerTimeouts
from gigpo_lightning.engines.vllm_server.engine import VLLMServerEngine

__all__ = [
    "Adapter",
    "Completion",
    "GenerationRequest",
    "LoadsAdapters",
    "RolloutEngine",
    "SamplingParameters",
    "ScriptedEngine",
    "ServerTimeouts",
    "ShowsWeights",
    "TransformersEngine",
    "VLLMEngine",
    "VLLMServerEngine",
]
