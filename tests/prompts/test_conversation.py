"""A conversation repeats the tokens of its turns, exactly as they were shown and written."""

import pytest

from gigpo_lightning.prompts.base import NoRoomError, Turn, TurnView
from gigpo_lightning.prompts.conversation import CompactConversationPrompt
from gigpo_lightning.rollout import SamplingParameters
from modules.tiny_policy import word_tokenizer
from modules.tokenizer import TransformersTokenizer
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

TOKENIZER = TransformersTokenizer(word_tokenizer(["<task>", "<now>", "<act>", "find", "a", "door", "wall", "north"]))
FIRST = TurnView(instruction="find a door", observation="wall", admissible_actions=("north",))


def text(ids):
    return TOKENIZER.exact_text(ids)


def second(first_ids):
    turn = Turn(
        observation="wall",
        action="north",
        response="north",
        prompt_ids=first_ids,
        completion_ids=(*TOKENIZER.encode("north"), TOKENIZER.end_token_id),
    )
    return TurnView(instruction="find a door", observation="door", admissible_actions=("north",), turns=(turn,))


def test_the_first_turn_says_the_task_and_where_the_agent_is():
    encoded = CompactConversationPrompt().encode(FIRST, TOKENIZER, 20)
    assert text(encoded.ids) == "<task> find a door <now> wall <act>"


def test_the_next_begins_with_what_was_shown_and_written():
    prompt = CompactConversationPrompt()
    first = prompt.encode(FIRST, TOKENIZER, 20).ids
    grown = prompt.encode(second(first), TOKENIZER, 20)
    assert grown.ids[: len(first)] == first
    assert text(grown.ids) == "<task> find a door <now> wall <act> north <end> <now> door <act>"
    assert not grown.truncated


def test_without_room_the_conversation_begins_anew_and_says_so():
    prompt = CompactConversationPrompt()
    view = second(prompt.encode(FIRST, TOKENIZER, 20).ids)
    anew = prompt.encode(view, TOKENIZER, 8)
    assert text(anew.ids) == "<task> find a door <now> door <act>"
    assert anew.truncated
    with pytest.raises(NoRoomError, match="max_tokens must be >= 7 for this turn, got 6"):
        prompt.encode(view, TOKENIZER, 6)


def test_turns_that_are_known_in_words_alone_are_refused():
    view = TurnView(instruction="", observation="door", admissible_actions=None, history=(("wall", "north"),))
    with pytest.raises(ValueError, match="must have the tokens of its earlier turns"):
        CompactConversationPrompt().encode(view, TOKENIZER, 20)


def test_turns_say_what_a_history_says():
    assert second(()).history == (("wall", "north"),)


def test_an_episode_is_played_on_the_tokens_of_its_own_turns(tmp_path):
    module = tiny_module()
    engine = random_walk(module)
    data = walking_data(engine, sampling=SamplingParameters(max_tokens=2), tasks_per_epoch=2, group_size=2)
    data.player.prompt = CompactConversationPrompt()
    trainer = quiet_trainer(tmp_path, ScriptedSync(), max_epochs=1, limit_val_batches=0)
    data.player.prompt.markers = ()  # the gridworld's vocabulary has none of them, and knows them as unknown
    trainer.fit(module, data)
    for episode in data.experience.trajectories():
        for before, after in zip(episode.steps, episode.steps[1:], strict=False):
            assert after.prompt_ids[: len(before.prompt_ids)] == before.prompt_ids
            assert after.prompt_ids[len(before.prompt_ids) :][: len(before.completion_ids)] == before.completion_ids
