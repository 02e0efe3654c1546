"""Tool calls, a file for each form; a YAML chooses one by class path."""

from gigpo_lightning.prompts.tool_calls.base import MalformedCallError, ToolCalls
from gigpo_lightning.prompts.tool_calls.hermes import HermesToolCalls
from gigpo_lightning.prompts.tool_calls.llama3 import Llama3JsonToolCalls
from gigpo_lightning.prompts.tool_calls.mistral import MistralToolCalls
from gigpo_lightning.prompts.tool_calls.own import OwnToolCalls

__all__ = [
    "HermesToolCalls",
    "Llama3JsonToolCalls",
    "MalformedCallError",
    "MistralToolCalls",
    "OwnToolCalls",
    "ToolCalls",
]
