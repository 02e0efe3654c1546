"""Question answering with a search engine, as a Gymnasium environment."""

import copy
import logging
import math
import reprlib
import time
from typing import Any

import gymnasium

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.search_qa.offline.information import (
    FORMATS,
    SEARCH_FAILED,
    InformationFormat,
    enclose,
    write_information,
)
from gigpo_lightning.environments.search_qa.scoring import exact_match, normalize_answer
from gigpo_lightning.environments.search_qa.tags import ANSWER, SEARCH, blocks
from gigpo_lightning.errors import RunError, check_count, check_range
from gigpo_lightning.retrieval.base import Passage, Retriever

_logger = logging.getLogger(__name__)
_NO_CALLS = {"retriever_calls": 0.0, "retriever_seconds": 0.0, "retriever_failures": 0.0}


class SearchQAEnvironment(gymnasium.Env[str, str]):
    """Asks a question, searches for what stands in search tags, and judges what stands in answer tags.

    The first observation is the question; each later one, and with it the anchor, is the last search's result between
    information tags, or ``""`` after an action without a query. The episode ends with an answer, or with the
    last turn, whose search is not carried out. It is rewarded at its end only, if the answer equals a golden one
    (App. E of arXiv:2505.10978).

    After a search that fails the observation says so; more than ``max_failures`` of them end the episode with the
    retriever's error, so that it is played again. ``info["metrics"]`` has the calls, their
    time and the failures of the episode so far.

    Differs from the reference code, which looks for the last answer in the whole conversation: here only the policy's
    own words can answer, not a passage with tags in it.

    Copies share one retriever, as an index may be large, and may ask it at the same time from several threads.

    Args:
        retriever: Finds passages; it is never copied.
        max_turns: Turns of an episode, the answer's included.
        top_k: Passages of a search.
        information_format: ``verl_agent`` puts passages into JSON, ``search_r1`` into plain text.
        max_passage_characters: Longest text of a passage; a longer one is shown up to here.
        max_failures: Failed searches of an episode that are told to the policy; 0 tells it of none.
        success_reward: Reward of a right answer.

    Raises:
        ValueError: If a number is too small, or the format is neither.
    """

    waits = True  # for its retriever

    def __init__(
        self,
        retriever: Retriever,
        max_turns: int = 4,
        top_k: int = 3,
        information_format: InformationFormat = "verl_agent",
        max_passage_characters: int = 4000,
        max_failures: int = 1,
        success_reward: float = 1.0,
    ) -> None:
        check_count("max_turns", max_turns)
        check_count("top_k", top_k)
        check_count("max_passage_characters", max_passage_characters)
        check_count("max_failures", max_failures, 0)
        if information_format not in FORMATS:
            raise ValueError(f"information_format must be one of {FORMATS}, got {information_format!r}")
        check_range("success_reward", success_reward, -math.inf)
        self.retriever = retriever
        self.max_turns = max_turns
        self.top_k = top_k
        self.information_format = information_format
        self.max_passage_characters = max_passage_characters
        self.max_failures = max_failures
        self.success_reward = success_reward
        self.observation_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 20)
        self.action_space = gymnasium.spaces.Text(min_length=0, max_length=1 << 16)
        self._golden_answers: tuple[str, ...] = ()
        self._turns = 0
        self._metrics = dict(_NO_CALLS)

    def warm_up(self) -> None:
        """Search once, so that an index is read, or a missing server is noticed, before any episode begins."""
        self.retriever.search(["warm up"], 1)

    def __deepcopy__(self, memo: dict[int, Any]) -> "SearchQAEnvironment":
        """A copy of everything but the retriever, which is shared."""
        memo[id(self.retriever)] = self.retriever
        twin = copy.copy(self)
        twin.__dict__ = copy.deepcopy(self.__dict__, memo)
        return twin

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """Ask the question of ``options["task"]``.

        Raises:
            ValueError: If there is no task of a question and its golden answers.
        """
        super().reset(seed=seed)
        task = (options or {}).get("task")
        if not isinstance(task, Task) or not {"question", "golden_answers"} <= set(task.payload):
            raise ValueError(f"options must have a 'task' with question and golden_answers, got {options!r}")
        question = str(task.payload["question"])
        golden = task.payload["golden_answers"]
        self._golden_answers = tuple(golden) if isinstance(golden, list | tuple) else ()
        if not question.strip() or not any(map(normalize_answer, self._golden_answers)):
            raise ValueError(
                f"task {task.task_id!r} must have a question and at least one golden answer that is more than articles "
                f"and punctuation, got {task}"
            )
        self._turns = 0
        self._metrics = dict(_NO_CALLS)
        return question, self._info(question, success=False) | {"instruction": question}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Judge the answer, or search.

        Raises:
            OSError: If the retriever failed more often than ``max_failures``.
            RunError: The same, from a retriever that had given up.
            TypeError: If the retriever's answer is no list of passages.
        """
        self._turns += 1
        answers = blocks(action, ANSWER)
        if answers:
            right = exact_match(answers[-1], self._golden_answers)
            return "", self.success_reward * right, True, False, self._info("", success=right)
        if self._turns >= self.max_turns:
            return "", 0.0, False, True, self._info("", success=False)
        queries = blocks(action, SEARCH)
        observation = self._search(queries[0]) if queries and queries[0] else ""
        return observation, 0.0, False, False, self._info(observation, success=False)

    def _info(self, anchor: str, success: bool) -> dict[str, Any]:
        return {"anchor": anchor, "success": success, "metrics": dict(self._metrics)}

    def _search(self, query: str) -> str:
        """What the retriever finds, or that it failed, as an observation; counts calls and time."""
        self._metrics["retriever_calls"] += 1
        started = time.perf_counter()
        try:
            found = self.retriever.search([query], self.top_k)
        except (RunError, OSError) as error:  # what connections and time limits raise is an OSError
            self._metrics["retriever_failures"] += 1
            if self._metrics["retriever_failures"] > self.max_failures:
                raise
            _logger.warning("a search failed: %s", error)
            return enclose(SEARCH_FAILED, self.information_format)
        finally:
            self._metrics["retriever_seconds"] += time.perf_counter() - started
        passages = self._checked(found)
        return write_information(passages[: self.top_k], self.information_format, self.max_passage_characters)

    def _checked(self, found: object) -> list[Passage]:
        """The passages of the one query, refused if they are not of the protocol's form."""
        if isinstance(found, list) and len(found) == 1 and isinstance(found[0], list):
            passages = found[0]
            if all(isinstance(passage, Passage) for passage in passages):
                return passages
        raise TypeError(
            f"retriever must give one list of passages a query, but {type(self.retriever).__name__}.search gave "
            f"{reprlib.repr(found)} for one query"
        )
