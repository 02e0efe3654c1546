"""What a prompt carries beside token ids reaches the engine, which refuses what it does not know."""

from dataclasses import replace

import pytest

from gigpo_lightning.prompts.gridworld import GridworldPrompt
from gigpo_lightning.rollout import SamplingParameters, TransformersEngine
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


class PicturePrompt(GridworldPrompt):
    """A gridworld turn with a picture beside its words."""

    def encode(self, view, tokenizer, max_tokens):
        return replace(super().encode(view, tokenizer, max_tokens), extras={"picture": view.observation})


def fit(folder, engine, module, *callbacks):
    data = walking_data(engine, sampling=SamplingParameters(max_tokens=2), tasks_per_epoch=1, group_size=2)
    data.player.prompt = PicturePrompt()
    quiet_trainer(folder, *callbacks, max_epochs=1, limit_val_batches=0).fit(module, data)


def test_an_engine_is_given_what_a_prompt_carries(tmp_path):
    module = tiny_module()
    engine = random_walk(module)
    fit(tmp_path, engine, module, ScriptedSync())
    assert all(request.extras["picture"] for request in engine.requests)


def test_an_engine_that_would_leave_it_out_refuses_the_prompt(tmp_path):
    with pytest.raises(ValueError, match=r"takes a prompt's token ids and \[\], but was given 'picture'"):
        fit(tmp_path, TransformersEngine(), tiny_module())
