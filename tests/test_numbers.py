"""Every number that a configuration can hold has a rule: what is no number of its kind is refused by name."""

import importlib
import inspect
import math
import pkgutil
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

import pytest

import gigpo_lightning.environments
import gigpo_lightning.prompts
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.chat_model import ScriptedChat
from gigpo_lightning.environments.gridworld import GridworldEnvironment, GridworldTasks
from gigpo_lightning.environments.webshop import Catalogue
from gigpo_lightning.imitation import StoredEpisodes
from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import ScriptedEngine
from modules import TinyPolicy

PACKAGES = ["modules", "datamodules", "callbacks", "gigpo_lightning.algorithm", "gigpo_lightning.rollout"]
PACKAGES += ["gigpo_lightning.retrieval"]
for package in (gigpo_lightning.environments, gigpo_lightning.prompts):
    PACKAGES += [found.name for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]

# What is made while a run plays or trains; no configuration names it.
RECORDS = {
    *(
        "Completion",
        "GenerationRequest",
        "HeldOutGroups",
        "Rollout",
        "Passage",
        "EnvironmentEvent",
        "Answer",
        "AnchorGroups",
        "ChatReply",
        "Level",
        "Trial",
        "Verdict",
    ),
    *("Goal", "Product", "Page", "Turn", "EncodedPrompt", "Credit", "Collector", "Bm25Index"),
}
SIGNED = {"success_reward", "success_return", "finish_reward", "exponent", "final_exponent"}
ENDLESS = {"max_grad_norm"}  # its infinity clips nothing
ELSEWHERE = {"Deadlines"}  # tests/rollout
FREE_OF = {("Bm25Retriever", "k1"), ("Bm25Retriever", "b")}


class NoExpert:
    """It is never asked."""

    def act(self, *_: object) -> str:
        raise NotImplementedError


def no_retriever(queries: list[str], top_k: int) -> list[list[Any]]:
    raise NotImplementedError


def words() -> list[str]:
    return ["left"]


def given(name: str, owner: str, folder: Any) -> Any:
    """A value for an argument without a default."""
    catalogue = Catalogue("products.json", "attributes.json")
    (folder / "epoch_0.parquet").touch()
    return {
        "policy": TinyPolicy([words]),
        "base": TinyPolicy([words]),
        "vocabulary": [words],
        "credit": GiGPO(),
        "environment": GridworldEnvironment(),
        "tasks": GridworldTasks(),
        "prompt": GridworldPrompt(),
        "engine": ScriptedEngine(lambda request: [0]),
        "script": lambda request: [0],
        "extra_groups": 1,
        "urls": "http://127.0.0.1:1",
        "url": "http://127.0.0.1:1",
        "env_id": "CartPole-v1",
        "judge": ScriptedChat(lambda messages: ""),
        "rubric": "Was the task done?",
        "record": str(folder / "verdicts.jsonl"),
        "model": "model",
        "catalogue": catalogue,
        "products": "products.json",
        "attributes": "attributes.json",
        "folder": str(folder),
        "demonstrations": StoredEpisodes([str(folder)]),
    }.get(name)


def numbers() -> Iterator[tuple[type, str, bool]]:
    """Class, argument and whether it is a whole number, of all that a configuration can make."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", [each for each in vars(module) if not each.startswith("_")]):
            made = getattr(module, name)
            ours = inspect.isclass(made) and made.__module__.split(".")[0] in ("gigpo_lightning", *PACKAGES[:3])
            if (
                ours
                and not inspect.isabstract(made)
                and not issubclass(made, BaseException)
                and not getattr(made, "_is_protocol", False)
            ):
                found[made] = name
    for made, name in sorted(found.items(), key=lambda each: each[1]):
        if name in RECORDS | ELSEWHERE:
            continue
        for argument, kind in get_type_hints(made.__init__).items():
            kinds = {each for each in (kind, *get_args(kind)) if each in (int, float)}
            if argument != "return" and kinds and (kind in kinds or type(None) in get_args(kind)):
                yield made, argument, float not in kinds


ALL = [
    each
    for each in numbers()
    if not any(p in ("expert", "retriever", "corpus_path") for p in inspect.signature(each[0]).parameters)
]


def refusal(made: type, argument: str, value: float, folder: Any) -> str:
    """What is said of a number; nothing if it is taken."""
    parameters = inspect.signature(made).parameters.values()
    required = {each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD}
    arguments = {name: given(name, made.__name__, folder) for name in required} | {argument: value}
    try:
        made(**arguments)
    except ValueError as error:
        return str(error)
    return ""


def test_the_walk_finds_what_configurations_name():
    found = {(made.__name__, argument) for made, argument, _ in ALL}
    assert len(found) > 80
    assert {
        ("GiGPOModule", "max_grad_norm"),
        ("RolloutPlayer", "group_size"),
        ("RolloutDataModule", "micro_batch_tokens"),
        ("VLLMEngine", "kv_cache_gib"),
    } <= found


@pytest.mark.parametrize(("made", "argument", "whole"), ALL, ids=lambda each: getattr(each, "__name__", str(each)))
def test_a_number_of_no_sense_is_refused_by_name(made, argument, whole, tmp_path):
    nonsense = [] if argument in SIGNED else [-7 if whole else -7.0]
    if not whole:
        nonsense += [math.nan, -math.inf] + ([] if argument in ENDLESS else [math.inf])
    assert [value for value in nonsense if argument not in refusal(made, argument, value, tmp_path)] == []
