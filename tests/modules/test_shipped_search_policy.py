"""The tiny policy that is shipped for search QA: what configs/search_qa/warm_start.yaml made."""

from pathlib import Path

import pytest
import torch

from gigpo_lightning.environments.search_qa import search_qa_words
from gigpo_lightning.prompts.base import TurnView
from gigpo_lightning.prompts.search_qa import CompactSearchQAPrompt, compact_markers
from modules import Policy, PretrainedPolicy

# By hand, in the invented world's words.
QUESTION = "Where was the author of The Silver Lantern born?"
LANTERN = (
    '<information>Doc 1(Title: "The Silver Lantern") The Silver Lantern is a novel written by Mila Torv.\n'
    'Doc 2(Title: "The Silent Lantern") The Silent Lantern is a novel written by Hugo Dahl.\n'
    'Doc 3(Title: "The Silver Door") The Silver Door is a novel written by Ada Rask.</information>'
)
TORV = (
    '<information>Doc 1(Title: "Mila Torv") Mila Torv is a painter who was born in Nordby.\n'
    'Doc 2(Title: "The Silver Lantern") The Silver Lantern is a novel written by Mila Torv.\n'
    'Doc 3(Title: "Ada Torv") Ada Torv is a cook who was born in Marstow.</information>'
)
FIRST = TurnView(instruction=QUESTION, observation=QUESTION, admissible_actions=None, history=())
LAST = TurnView(
    instruction=QUESTION,
    observation=TORV,
    admissible_actions=None,
    history=((QUESTION, "<search>silver lantern</search>"), (LANTERN, "<search>mila torv</search>")),
)


@pytest.fixture(scope="module")
def folder(repository_root: Path) -> Path:
    return repository_root / "configs" / "search_qa" / "tiny_policy"


@pytest.fixture(scope="module")
def policy(folder: Path) -> Policy:
    return PretrainedPolicy(str(folder)).build().eval()


def probability(policy: Policy, view: TurnView, reply: str) -> float:
    """How likely a reply is, its end included."""
    prompt = CompactSearchQAPrompt().encode(view, policy.tokenizer, 240).ids
    ids = [*prompt, *policy.tokenizer.encode(reply), policy.tokenizer.end_token_id]
    with torch.no_grad():
        logprobs = policy.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    places = range(len(prompt), len(ids))
    return float(sum(logprobs[place - 1, ids[place]] for place in places).exp())


def test_it_is_small_enough_to_ship(folder: Path) -> None:
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 1 << 20


def test_it_knows_every_word_and_marker(policy: Policy) -> None:
    unknown = policy.tokenizer.encode("<unk>")[0]
    words = (*search_qa_words(), *compact_markers())
    assert [word for word in words if policy.tokenizer.encode(word) == [unknown]] == []


def test_it_has_begun_to_search_and_has_something_to_learn(policy: Policy) -> None:
    assert 0.2 < probability(policy, FIRST, "<search> silver lantern </search>") < 0.8


def test_it_has_learnt_to_read(policy: Policy) -> None:
    assert probability(policy, LAST, "<answer> nordby </answer>") > 0.3
