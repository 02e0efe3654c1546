"""The prompts for any environment of strings."""

from dataclasses import replace

import pytest

from gigpo_lightning.prompts.base import Prompt, TurnView
from gigpo_lightning.prompts.text import CompactTextPrompt, TextPrompt, compact_text_markers
from tests.prompts.word_tokenizer import GrowingTokenizer

VIEW = TurnView(
    instruction="open the door",
    observation="room 2 has a Door .",
    admissible_actions=("left", "open Door"),
    history=(("room 0 has nothing .", "right"), ("room 1 has a key .", "take")),
)
BARE = TurnView(instruction="", observation="room 2 has a Door .", admissible_actions=None, history=())
MALFORMED = (
    "",
    " \n\t ",
    "<action>open Door",
    "</action>open Door<action>",
    "去",
    "\ud83d open \udc00",
    "\x00",
    "a" * 9999,
)


def shown(prompt: Prompt, view: TurnView, max_tokens: int = 1000) -> str:
    tokenizer = GrowingTokenizer()
    return tokenizer.decode(prompt.encode(view, tokenizer, max_tokens).ids)


class TestTextPrompt:
    def test_a_question_that_is_the_first_observation_too_is_written_once(self) -> None:
        view = TurnView(instruction="2 + 2 ?", observation="2 + 2 ?", admissible_actions=None, history=())
        assert TextPrompt().message(view, 0, view.observation).count("2 + 2 ?") == 1

    def test_a_turn_in_full(self) -> None:
        assert TextPrompt("You are in a house.").message(VIEW, 1, VIEW.observation).split("\n\n") == [
            "You are in a house.",
            "Your task is: open the door",
            "You have taken 2 steps so far.",
            "The last 1 of them:\n[Observation 2: 'room 1 has a key .'; Action 2: 'take']",
            "You now observe: room 2 has a Door .",
            "The available actions are:\n  'left'\n  'open Door'",
            "Choose what to do next. First think it through, step by step, between <think> and </think>. Then write "
            "exactly one action between <action> and </action>.",
        ]

    def test_an_environment_that_says_only_what_it_must_is_shown_no_more(self) -> None:
        assert TextPrompt(require_think=False).message(BARE, 0, BARE.observation).split("\n\n") == [
            "You now observe: room 2 has a Door .",
            "Choose what to do next. Write exactly one action between <action> and </action>.",
        ]

    def test_as_many_turns_are_shown_as_were_asked_for(self) -> None:
        assert "right" in shown(TextPrompt(history_length=2), VIEW)
        assert "right" not in shown(TextPrompt(history_length=1), VIEW)

    @pytest.mark.parametrize("action", ["open Door", "去厨房", "fly away", ""])
    def test_an_action_is_what_stands_between_the_tags_as_it_was_written(self, action: str) -> None:
        parsed = TextPrompt().parse(f"<think>so</think><action> {action} </action><action>left</action>", VIEW)
        assert (parsed.action, parsed.valid) == (action, True)

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_without_tags_nothing_is_sent(self, reply: str) -> None:
        parsed = TextPrompt().parse(reply, VIEW)
        assert (parsed.action, parsed.valid, parsed.problem) == ("", False, "no action tags")

    def test_a_reply_without_thoughts_is_invalid_where_they_are_asked_for(self) -> None:
        reply = "<action>left</action>"
        assert TextPrompt().parse(reply, VIEW).problem == "no think tags"
        assert TextPrompt(require_think=False).parse(reply, VIEW).valid

    def test_an_action_that_is_not_offered_is_invalid_if_that_is_asked_for(self) -> None:
        prompt, reply = TextPrompt(require_think=False, require_admissible=True), "<action>open door</action>"
        assert prompt.parse(reply, VIEW).problem == "not an available action"
        assert prompt.parse(reply, BARE).valid

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 0, got -1"):
            TextPrompt(history_length=-1)


class TestCompactTextPrompt:
    def test_a_turn_word_by_word(self) -> None:
        assert shown(CompactTextPrompt(history_length=1), VIEW) == (
            "<task> open the door <did> take <now> room 2 has a Door . <can> left open Door <act>"
        )

    def test_an_instruction_that_is_always_the_same_can_be_left_out(self) -> None:
        prompt = CompactTextPrompt(show_instruction=False)
        assert shown(prompt, VIEW) == "<now> room 2 has a Door . <can> left open Door <act>"

    def test_an_environment_that_says_only_what_it_must_is_shown_no_more(self) -> None:
        assert shown(CompactTextPrompt(), BARE) == "<now> room 2 has a Door . <act>"

    def test_too_long_a_prompt_loses_its_earliest_actions_first(self) -> None:
        assert "<did> take <now> room 2" in shown(CompactTextPrompt(history_length=2), VIEW, 18)
        assert "right" not in shown(CompactTextPrompt(history_length=2), VIEW, 18)

    def test_every_marker_is_in_the_vocabulary(self) -> None:
        written = {word for word in shown(CompactTextPrompt(history_length=2), VIEW).split() if word.startswith("<")}
        assert written == set(compact_text_markers())

    @pytest.mark.parametrize(("reply", "action"), [("left", "left"), (" open Door\n", "open Door")])
    def test_the_whole_reply_is_the_action(self, reply: str, action: str) -> None:
        parsed = CompactTextPrompt().parse(reply, VIEW)
        assert (parsed.action, parsed.valid) == (action, True)

    @pytest.mark.parametrize("reply", [*MALFORMED, "left left", "LEFT"])
    def test_any_other_reply_is_invalid(self, reply: str) -> None:
        assert not CompactTextPrompt().parse(reply, VIEW).valid

    def test_where_nothing_is_offered_all_but_nothing_is_valid(self) -> None:
        assert CompactTextPrompt().parse("fly away", BARE).valid
        assert not CompactTextPrompt().parse(" ", replace(BARE)).valid

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 0, got -1"):
            CompactTextPrompt(history_length=-1)
