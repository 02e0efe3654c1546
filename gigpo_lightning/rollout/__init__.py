"""Playing episodes. Engines and pools live in packages beside this one, and can be named by this one as well."""

from gigpo_lightning.engines.adapter import Adapter, LoadsAdapters
from gigpo_lightning.engines.base import Completion, GenerationRequest, RolloutEngine, SamplingParameters, ShowsWeights
from gigpo_lightning.engines.scripted import ScriptedEngine
from gigpo_lightning.engines.transformers import TransformersEngine
from gigpo_lightning.engines.vllm import VLLMEngine
from gigpo_lightning.engines.vllm_server.client import ServerTimeouts
from gigpo_lightning.engines.vllm_server.engine import VLLMServerEngine
from gigpo_lightning.pool.base import EnvironmentPool, make_pool
from gigpo_lightning.pool.workers import Deadlines
from gigpo_lightning.rollout.carry_over import CarryOver
from gigpo_lightning.rollout.collector import Collector
from gigpo_lightning.rollout.group_sampler import DynamicSampling, GroupSampler, RanksGroups, VariedReturns
from gigpo_lightning.rollout.player import HeldOutGroups, RolloutPlayer
from gigpo_lightning.rollout.sync import EngineSync, ProvedSync

__all__ = [
    "Adapter",
    "CarryOver",
    "Collector",
    "Completion",
    "Deadlines",
    "DynamicSampling",
    "EngineSync",
    "EnvironmentPool",
    "GenerationRequest",
    "GroupSampler",
    "HeldOutGroups",
    "LoadsAdapters",
    "ProvedSync",
    "RanksGroups",
    "RolloutEngine",
    "RolloutPlayer",
    "SamplingParameters",
    "ScriptedEngine",
    "ServerTimeouts",
    "ShowsWeights",
    "TransformersEngine",
    "VLLMEngine",
    "VLLMServerEngine",
    "VariedReturns",
    "make_pool",
]
