"""Tool calls as Llama 3 models write them."""

import json
import re

from gigpo_lightning.environments.tools import ToolCall
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.tool_calls.base import MalformedCallError, ToolCalls, call_of, without_thoughts

_TAG = "<|python_tag|>"
_BETWEEN = re.compile(r"[\s;]*")


class Llama3JsonToolCalls(ToolCalls):
    """``{"name": ..., "parameters": {...}}``, perhaps after ``<|python_tag|>``, and nothing else; ``;`` parts calls."""

    def read(self, reply: Reply) -> list[ToolCall]:
        """The JSON objects that the reply consists of; none if it begins with something else.

        Raises:
            MalformedCallError: If it begins with one, or with the tag, and goes on with something else.
        """
        text = without_thoughts(reply).strip()
        tagged = text.startswith(_TAG)
        text = text.removeprefix(_TAG).strip()
        if not tagged and not text.startswith("{"):
            return []
        calls, place = [], 0
        while place < len(text):
            try:
                found, place = json.JSONDecoder().raw_decode(text, place)
            except json.JSONDecodeError as error:
                raise MalformedCallError(f"it is not valid JSON: {error}") from error
            except (ValueError, RecursionError) as error:
                raise MalformedCallError("it is not JSON of a reasonable size") from error
            calls.append(call_of(found, ("parameters", "arguments")))
            between = _BETWEEN.match(text, place)
            place = between.end() if between else place
        return calls
