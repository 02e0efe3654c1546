"""Playing episodes: engines, environment pools and the collector. An engine imports its library when it starts."""

from gigpo_lightning.rollout.adapter import Adapter, LoadsAdapters
from gigpo_lightning.rollout.carry_over import CarryOver
from gigpo_lightning.rollout.collector import Collector
from gigpo_lightning.rollout.engine import (
    Completion,
    GenerationRequest,
    RolloutEngine,
    SamplingParameters,
    ShowsWeights,
)
from gigpo_lightning.rollout.environment_pool import EnvironmentPool, make_pool
from gigpo_lightning.rollout.group_sampler import DynamicSampling, GroupSampler
from gigpo_lightning.rollout.record import HeldOutEpisodes, Rollout
from gigpo_lightning.rollout.scripted_engine import ScriptedEngine
from gigpo_lightning.rollout.transformers_engine import TransformersEngine
from gigpo_lightning.rollout.vllm_client import ServerTimeouts
from gigpo_lightning.rollout.vllm_engine import VLLMEngine
from gigpo_lightning.rollout.vllm_server_engine import VLLMServerEngine
from gigpo_lightning.rollout.worker_pool import Deadlines

__all__ = [
    "Adapter",
    "CarryOver",
    "Collector",
    "Completion",
    "Deadlines",
    "DynamicSampling",
    "EnvironmentPool",
    "GenerationRequest",
    "GroupSampler",
    "HeldOutEpisodes",
    "LoadsAdapters",
    "Rollout",
    "RolloutEngine",
    "SamplingParameters",
    "ScriptedEngine",
    "ServerTimeouts",
    "ShowsWeights",
    "TransformersEngine",
    "VLLMEngine",
    "VLLMServerEngine",
    "make_pool",
]
