"""A model on a server that takes messages: prompting baselines on the same panels, by the same prompts."""

import json
import logging
import queue
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

import torch

from gigpo_lightning.chat_model import ChatReply, ChatServerError
from gigpo_lightning.chat_server import ChatServer
from gigpo_lightning.engines.base import Completion, EngineBase, GenerationRequest
from gigpo_lightning.errors import RunError, check_count
from gigpo_lightning.prompts.base import Tokenizer
from gigpo_lightning.prompts.message_tokens import END_ID, ChatMessages, read_messages, text_tokens
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.tool_calls import HermesToolCalls

_logger = logging.getLogger(__name__)
_GLANCE = 0.002
"""Seconds between two checks for other work while the server writes."""
_LARGEST_SEED = 2**31 - 1
"""Some servers take no larger one."""
_HELLO = ({"role": "user", "content": "hello"},)


class ChatServerEngine(EngineBase):
    """Writes replies with a model that any server of ``/v1/chat/completions`` has: vLLM, llama.cpp, a hosted one.

    For ``gigpo test``, ``validate`` and ``predict``, with ``modules.ServedPolicy`` in the policy's place. The server is
    sent the messages that the run's own prompt writes, and the tools where there are any; a prompt in plain words is
    one message of the user's. It gets no weights and gives no log-probabilities, so ``fit`` refuses it.

    What a server keeps apart as reasoning stands between think tags in the reply, as the model wrote it. Tool calls
    stand in it as Hermes models write them: ``HermesToolCalls`` and ``OwnToolCalls`` read them. A later prompt sends
    them as calls again.

    Args:
        url: The server's address; ``/v1`` is added to one without a path.
        model: The model, by the server's name for it.
        key_variable: Name of the environment variable that holds the server's key; default: no key is sent.
        fields: Other fields of every request, such as ``reasoning_effort``; null leaves a field out, such as ``seed``
            for a server that refuses it.
        max_prompt_bytes: Longest prompt in bytes of UTF-8, about four a token of English; a longer one is shortened, as
            for any engine. Not ``max_model_len``, which a configuration below may have set in tokens.
        max_requests: Requests under way at the same time; more wait for their turn.
        timeout: Seconds that the server may take for one request.
        deadline: Seconds that a reply may take with all its tries, once its turn has come.
        attempts: Requests that are made at most before the run ends, if they fail in passing.

    Raises:
        ValueError: If the address is none, or a number is out of range.
    """

    def __init__(
        self,
        url: str,
        model: str,
        key_variable: str | None = None,
        fields: dict[str, Any] | None = None,
        max_prompt_bytes: int = 400_000,
        max_requests: int = 32,
        timeout: float = 300.0,
        deadline: float = 900.0,
        attempts: int = 8,
    ) -> None:
        check_count("max_prompt_bytes", max_prompt_bytes)
        self.server = ChatServer(
            url,
            model,
            key_variable,
            fields,
            deadline=deadline,
            timeout=timeout,
            attempts=attempts,
            max_requests=max_requests,
        )
        self.max_prompt_bytes = max_prompt_bytes
        self._requests: dict[str, tuple[GenerationRequest, Future[ChatReply]]] = {}
        self._answers: queue.SimpleQueue[tuple[GenerationRequest, Future[ChatReply]]] = queue.SimpleQueue()
        self._counts: Counter[str] = Counter()
        self._models: set[str] = set()

    @property
    def max_model_len(self) -> int:
        """Longest prompt in bytes of UTF-8, ``sampling.max_tokens`` included."""
        return self.max_prompt_bytes

    def play_as(self, tokenizer: Tokenizer, version: int) -> None:
        """Answer the prompts of a tokenizer, as a version of the policy.

        Raises:
            ValueError: If the tokenizer does not keep messages, or the key's environment variable is not set.
        """
        try:
            kept = read_messages(tokenizer.encode_chat(_HELLO)).messages == _HELLO
        except ValueError:
            kept = False
        if not kept:
            raise ValueError(
                f"policy must be modules.ServedPolicy for {type(self).__name__}, whose server is sent messages and not "
                "the tokens of another model"
            )
        self.server.open()
        self._version = version

    def start(self, model_folder: str) -> None:
        """Nothing to start: the server is there, or the first reply's error says that it is not."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; returns at once.

        Raises:
            ValueError: If the prompt is not in the tokens of messages, or carries more than token ids.
        """
        request.check_extras()
        asked = read_messages(request.prompt_ids)
        more = {"chat_template_kwargs": dict(asked.settings)} if asked.settings else {}
        body = self.server.body(
            _with_calls(asked),
            temperature=request.sampling.temperature,
            max_tokens=request.sampling.max_tokens,
            seed=request.seed % _LARGEST_SEED,
            tools=asked.tools,
            **more,
        )
        reply = self.server.begin(body, partial(self._answered, request))
        self._requests[request.request_id] = (request, reply)

    def _answered(self, request: GenerationRequest, reply: "Future[ChatReply]") -> None:
        """Runs in the server's thread."""
        if not reply.cancelled():
            self._answers.put((request, reply))

    def poll_unless(self, ready: Callable[[], bool]) -> list[Completion]:
        """As ``poll``, but asks now and then whether there is more to submit, and returns at once if so.

        Raises:
            RunError: If the server gives no reply.
        """
        completions: list[Completion] = []
        while self._requests and (not completions or not self._answers.empty()):
            try:
                request, reply = self._answers.get(timeout=_GLANCE)
            except queue.Empty:
                if ready():
                    break
                continue
            if self._requests.get(request.request_id, (None,))[0] is request:  # else of a rollout that broke off
                del self._requests[request.request_id]
                completions.append(self._completion(request, reply))
        return completions

    def _completion(self, request: GenerationRequest, answer: "Future[ChatReply]") -> Completion:
        try:
            reply = answer.result()
        except ChatServerError as error:
            raise RunError(str(error)) from error
        self._models.add(reply.model or self.server.model)
        counts = {"requests": reply.tries, "prompt_tokens": reply.prompt_tokens, "reply_tokens": reply.reply_tokens}
        self._counts.update(counts)
        text = text_tokens(written(reply))
        # A reply of hidden reasoning alone is cut and says nothing: no tokens at all would pass for an expert's turn.
        ids = (*text, *(() if reply.cut and text else (END_ID,)))
        return Completion(
            request_id=request.request_id,
            token_ids=ids,
            logprobs=(float("nan"),) * len(ids),
            finish_reason="length" if reply.cut else "stop",
            policy_version=self._version,
        )

    def cancel(self) -> None:
        """Drop every request that is under way."""
        for _, reply in self._requests.values():
            reply.cancel()
        self._requests = {}

    def load_weights(self, named_tensors: Iterable[tuple[str, torch.Tensor]], version: int) -> None:
        """Refuse them.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{type(self).__name__} takes no weights: its model is a server's")

    def score(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """Refuse to score.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{type(self).__name__} gives no log-probabilities: its server is sent messages")

    def details(self) -> dict[str, str]:
        """What was asked, which model has answered, and the server's count of tokens, of this process."""
        return {
            "answered_by": ", ".join(sorted(self._models)),
            "model": self.server.model,
            "url": self.server.url,
            **{name: str(self._counts[name]) for name in ("requests", "prompt_tokens", "reply_tokens")},
        }

    def close(self) -> None:
        """End for good; a second call does nothing."""
        self.cancel()
        self.server.close()


def written(reply: ChatReply) -> str:
    """A reply as one text: reasoning that is kept apart between think tags, and calls as Hermes models write them."""
    thought = f"<think>\n{reply.thought.strip()}\n</think>\n\n" if reply.thought.strip() else ""
    calls = [
        f'<tool_call>\n{{"name": {json.dumps(name, ensure_ascii=False)}, "arguments": {arguments.strip() or "{}"}}}\n'
        "</tool_call>"
        for name, arguments in reply.calls
    ]
    return "\n".join((*((thought + reply.text,) if thought or reply.text or not calls else ()), *calls))


def _with_calls(asked: ChatMessages) -> list[Mapping[str, Any]]:
    """The messages as the protocol wants them: a tool's answer follows on the call, by its id.

    Where a reply does not have exactly one call, the text stays as it was, and the answer is the user's.
    """
    messages: list[Mapping[str, Any]] = []
    for number, message in enumerate(asked.messages):
        if message["role"] != "tool":
            messages.append(message)
            continue
        text = str(messages[-1]["content"]) if messages else ""
        calls = HermesToolCalls().calls(Reply(text=text, exact=text))
        if len(calls) != 1 or messages[-1]["role"] != "assistant":
            messages.append({**message, "role": "user"})
            continue
        function = {"name": calls[0].name, "arguments": json.dumps(dict(calls[0].arguments), ensure_ascii=False)}
        call = {"id": f"call_{number}", "type": "function", "function": function}
        before = text[: text.rfind("<tool_call>")].rstrip()
        messages[-1] = {"role": "assistant", "content": before, "tool_calls": [call]}
        messages.append({**message, "tool_call_id": call["id"]})
    return messages
