"""A step's advantage is spread over its tokens: by hand, by what must always hold, and through a whole epoch."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import ForkingTokens, GiGPO
from gigpo_lightning.algorithm.token_credit import TokenFacts
from gigpo_lightning.batch import prepare
from gigpo_lightning.experience import Batching, Experience
from gigpo_lightning.rollout.group_sampler import PlayedGroups
from gigpo_lightning.rollout.progress import RolloutProgress
from tests.episodes import group, step, trajectory
from tests.scripted_run import tiny_module


def played_experience():
    """Two episodes of eight steps, replies of one to three tokens; one wins."""
    replies = [[5 + number % 3] * (1 + number % 3) for number in range(8)]
    steps = [step([3, 4, number % 5 + 3], reply, logprobs=(-1.0,) * len(reply)) for number, reply in enumerate(replies)]
    episodes = [trajectory(*steps[:7], step([3], [6], logprobs=(-1.0,), reward=reward)) for reward in (0.0, 1.0)]
    groups = (group(*(replace(each, episode_index=number) for number, each in enumerate(episodes))),)
    played = PlayedGroups(groups=groups, progress=RolloutProgress(name="epoch 0", total=2), seconds=1.0)
    return Experience.of(played, GiGPO(), epoch=0)


def facts(entropy, advantage=1.0):
    """Replies of which nothing but the entropies is known; not a number is off the mask."""
    entropy = torch.tensor(entropy)
    mask = ~entropy.isnan()
    return TokenFacts(advantage=advantage * mask.float(), action_mask=mask, entropy=entropy.nan_to_num(9.0))


def test_the_tokens_of_largest_entropy_keep_their_step_s_advantage():
    minibatch = [facts([[0.1, 2.0, 0.3], [0.2, torch.nan, torch.nan]], 3.0), facts([[1.0]], -1.0)]
    one, other = ForkingTokens(share=0.4).spread([minibatch], progress=0.0)[0]
    assert one.tolist() == [[0.0, 3.0, 0.0], [0.0, 0.0, 0.0]]
    assert other.tolist() == [[-1.0]]


@given(st.lists(st.floats(0, 5, width=32), min_size=1, max_size=20, unique=True), st.floats(0, 1))
def test_as_many_tokens_are_learnt_from_as_the_share_says(entropies, share):
    (spread,) = ForkingTokens(share).spread([[facts([entropies])]], progress=0.0)[0]
    assert int((spread != 0).sum()) == round(share * len(entropies))


def test_all_of_them_are_what_no_token_credit_is():
    (spread,) = ForkingTokens(share=1.0).spread([[facts([[0.1, 2.0], [0.0, torch.nan]], -0.5)]], progress=0.0)[0]
    assert torch.equal(spread, torch.tensor([[-0.5, -0.5], [-0.5, 0.0]]))


def test_a_share_beyond_one_is_refused():
    with pytest.raises(ValueError, match=r"share must be in \[0, 1\], got 2.0"):
        ForkingTokens(2.0)


class Doubles:
    """Needs nothing, and says where it is asked."""

    needs = frozenset()

    def __init__(self):
        self.progress = []

    def spread(self, minibatches, progress):
        self.progress.append(progress)
        assert all(each.entropy is None and each.logprobs is None for part in minibatches for each in part)
        return [[2 * each.advantage for each in part] for part in minibatches]


def test_it_changes_the_advantages_of_the_minibatches_and_nothing_else():
    module, experience = tiny_module(), played_experience()
    plain = experience.minibatches(module, Batching(minibatch_size=5))
    credit = Doubles()
    doubled = experience.minibatches(module, Batching(minibatch_size=5, token_credit=credit), 0.25)
    assert credit.progress == [0.25]
    for before, after in zip(plain, doubled, strict=True):
        assert before.counts == after.counts
        for one, other in zip(before.micro_batches, after.micro_batches, strict=True):
            assert torch.equal(2 * one.advantage, other.advantage)
            assert torch.equal(one.old_logprobs, other.old_logprobs)
            assert torch.equal(one.row, other.row)


def test_the_entropies_are_the_policy_s_own():
    module, experience = tiny_module(), played_experience()
    plain = experience.minibatches(module, Batching())
    kept = experience.minibatches(module, Batching(token_credit=ForkingTokens(0.5)))
    for before, after in zip(plain, kept, strict=True):
        scored = [module.score(part.tokens, before.temperature)[1] for part in before.micro_batches]
        masks = [part.tokens.action_mask for part in before.micro_batches]
        entropies = torch.cat([each[mask] for each, mask in zip(scored, masks, strict=True)])
        learnt = torch.cat([part.advantage[mask] != 0 for part, mask in zip(after.micro_batches, masks, strict=True)])
        had = torch.cat([part.advantage[mask] != 0 for part, mask in zip(before.micro_batches, masks, strict=True)])
        assert 0 < learnt.sum() < had.sum()
        assert entropies[learnt].min() >= entropies[had & ~learnt].max() - 1e-6


def test_numbers_that_are_none_are_refused_by_the_name_of_the_class():
    class Broken(Doubles):
        def spread(self, minibatches, progress):
            return [[each.advantage[:, :0] for each in part] for part in minibatches]

    module, experience = tiny_module(), played_experience()
    minibatches = experience.minibatches(module, Batching())
    with pytest.raises(ValueError, match=r"Broken\.spread must give a finite number for each token"):
        prepare(minibatches, module, Broken())
    assert prepare(minibatches, module) == minibatches
