"""ALFWorld's two prompts."""

from collections.abc import Sequence

import pytest

from gigpo_lightning.prompts.alfworld import AlfworldPrompt, CompactAlfworldPrompt, compact_markers
from gigpo_lightning.prompts.base import Prompt, TurnView
from tests.prompts.word_tokenizer import GrowingTokenizer

INTRO = (
    "-= Welcome to TextWorld, ALFRED! =-\n\nYou are in the middle of a room. Looking quickly around you, you see a "
    "desk 1, and a drawer 1.\n\nYour task is to: look at cd under the desklamp."
)
FIRST = TurnView(
    instruction="look at cd under the desklamp",
    observation=INTRO,
    admissible_actions=("go to desk 1", "go to drawer 1", "help", "inventory", "look"),
    history=(),
)
LATER = TurnView(
    instruction="look at cd under the desklamp",
    observation="Nothing happens.",
    admissible_actions=(
        "close drawer 1",
        "examine drawer 1",
        "go to desk 1",
        "help",
        "inventory",
        "look",
        "take cd 2 from drawer 1",
    ),
    history=(
        (INTRO, "go to desk 1"),
        ("You arrive at desk 1. On the desk 1, you see a desklamp 1, and a pen 3.", "go to drawer 1"),
        ("You arrive at drawer 1. The drawer 1 is closed.", "open drawer 1"),
        ("You open the drawer 1. The drawer 1 is open. In it, you see a cd 2.", "fly away"),
    ),
)
MALFORMED = (
    "",
    "   \n\t ",
    "去 desk 1 → ünïcode 🙂",
    "<action><action>go to desk 1</action></action>",
    "<action>go to desk 1",
    "</action>go to desk 1<action>",
    "GO TO DESK 1",
    "go\nto\ndesk\n1",
    "go " * 3_334,
    "\ud83d go to \udc00 desk 1",
    "\x00",
)


def shown(prompt: Prompt, view: TurnView, max_tokens: int = 10_000) -> str:
    tokenizer = GrowingTokenizer()
    return tokenizer.decode(prompt.encode(view, tokenizer, max_tokens).ids)


def lengths(prompt: Prompt, views: Sequence[TurnView]) -> list[int]:
    return [len(prompt.encode(view, GrowingTokenizer(), 10_000).ids) for view in views]


class TestTheChatPrompt:
    def test_the_first_turn_shows_the_observation_that_brings_the_task(self) -> None:
        assert "look at cd under the desklamp" in shown(AlfworldPrompt(), FIRST)

    def test_the_first_turn_does_not_name_the_task_twice(self) -> None:
        assert shown(AlfworldPrompt(), FIRST).count("look at cd under the desklamp") == 1

    def test_later_turns_name_the_task(self) -> None:
        assert "Your task is : look at cd under the desklamp" in shown(AlfworldPrompt(), LATER)

    def test_only_the_last_turns_are_shown(self) -> None:
        text = shown(AlfworldPrompt(history_length=2), LATER)
        assert "Action 3 : ' open drawer 1 '" in text
        assert "Action 4 : ' fly away '" in text
        assert "Action 2" not in text

    def test_a_history_of_none_shows_no_earlier_turn(self) -> None:
        assert "Action 4" not in shown(AlfworldPrompt(history_length=0), LATER)

    def test_the_current_step_has_the_number_after_the_last_one(self) -> None:
        assert "This is step 5" in shown(AlfworldPrompt(), LATER)

    def test_every_available_action_is_offered_but_help(self) -> None:
        text = shown(AlfworldPrompt(), LATER)
        assert "' take cd 2 from drawer 1 '" in text
        assert "' inventory '" in text
        assert "' help '" not in text

    def test_without_admissible_actions_none_are_offered(self) -> None:
        view = TurnView(instruction="x", observation="y", admissible_actions=None, history=())
        assert "available actions are" not in shown(AlfworldPrompt(), view)

    def test_the_oldest_turn_is_left_out_first(self) -> None:
        (full,) = lengths(AlfworldPrompt(history_length=2), [LATER])
        text = shown(AlfworldPrompt(history_length=2), LATER, full - 1)
        assert "Action 3" not in text
        assert "Action 4" in text

    def test_a_shortened_prompt_says_so(self) -> None:
        (full,) = lengths(AlfworldPrompt(history_length=2), [LATER])
        assert AlfworldPrompt(history_length=2).encode(LATER, GrowingTokenizer(), full - 1).truncated

    def test_a_whole_prompt_says_so(self) -> None:
        (full,) = lengths(AlfworldPrompt(history_length=2), [LATER])
        assert not AlfworldPrompt(history_length=2).encode(LATER, GrowingTokenizer(), full).truncated

    def test_after_the_history_the_observation_loses_its_beginning(self) -> None:
        (full,) = lengths(AlfworldPrompt(), [FIRST])
        text = shown(AlfworldPrompt(), FIRST, full - 3)
        assert "Welcome" not in text
        assert "look at cd under the desklamp" in text

    def test_no_more_of_the_observation_is_lost_than_must_be(self) -> None:
        (full,) = lengths(AlfworldPrompt(), [FIRST])
        assert len(AlfworldPrompt().encode(FIRST, GrowingTokenizer(), full - 8).ids) > full - 12

    @pytest.mark.parametrize("less", range(1, 40, 3))
    def test_a_shortened_prompt_is_never_too_long(self, less: int) -> None:
        (full,) = lengths(AlfworldPrompt(), [FIRST])
        assert len(AlfworldPrompt().encode(FIRST, GrowingTokenizer(), full - less).ids) <= full - less

    def test_a_prompt_that_cannot_be_shortened_enough_names_the_argument(self) -> None:
        with pytest.raises(ValueError, match="max_tokens must be >= "):
            AlfworldPrompt().encode(FIRST, GrowingTokenizer(), 20)

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 0, got -1"):
            AlfworldPrompt(history_length=-1)


class TestTheChatParser:
    def test_an_action_after_thinking_is_valid(self) -> None:
        parsed = AlfworldPrompt().parse("<think>the desk</think><action>go to desk 1</action>", FIRST)
        assert (parsed.action, parsed.valid, parsed.problem) == ("go to desk 1", True, "")

    def test_the_action_is_lower_cased_and_stripped(self) -> None:
        parsed = AlfworldPrompt().parse("<think></think><ACTION> Go To\tDesk 1\n</Action>", FIRST)
        assert (parsed.action, parsed.valid) == ("go to\tdesk 1", True)

    def test_the_first_of_two_actions_is_taken(self) -> None:
        reply = "<think></think><action>look</action><action>help</action>"
        assert AlfworldPrompt().parse(reply, FIRST).action == "look"

    def test_without_tags_the_last_thirty_characters_are_sent(self) -> None:
        parsed = AlfworldPrompt().parse("<think></think>" + "A" * 40, FIRST)
        assert (parsed.action, parsed.valid) == ("a" * 30, False)

    def test_without_think_tags_the_action_is_sent_but_not_valid(self) -> None:
        parsed = AlfworldPrompt().parse("<action>look</action>", FIRST)
        assert (parsed.action, parsed.valid) == ("look", False)

    def test_think_tags_in_upper_case_are_none(self) -> None:
        assert not AlfworldPrompt().parse("<THINK></THINK><action>look</action>", FIRST).valid

    def test_think_tags_need_not_be_required(self) -> None:
        assert AlfworldPrompt(require_think=False).parse("<action>look</action>", FIRST).valid

    def test_a_chinese_character_makes_a_reply_invalid(self) -> None:
        parsed = AlfworldPrompt().parse("<think>去</think><action>look</action>", FIRST)
        assert (parsed.action, parsed.valid) == ("look", False)

    def test_an_unavailable_action_is_valid_as_in_the_paper(self) -> None:
        assert AlfworldPrompt().parse("<think></think><action>fly</action>", FIRST).valid

    def test_an_unavailable_action_can_be_refused(self) -> None:
        prompt = AlfworldPrompt(require_admissible=True)
        assert not prompt.parse("<think></think><action>fly</action>", FIRST).valid

    def test_an_available_action_passes_that_rule(self) -> None:
        prompt = AlfworldPrompt(require_admissible=True)
        assert prompt.parse("<think></think><action>Look</action>", FIRST).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_a_malformed_reply_is_invalid(self, reply: str) -> None:
        assert not AlfworldPrompt().parse(reply, FIRST).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_what_is_sent_can_be_encoded(self, reply: str) -> None:
        AlfworldPrompt().parse(f"<action>{reply}</action>", FIRST).action.encode("utf-8")


class TestTheCompactPrompt:
    def test_the_first_turn_word_by_word(self) -> None:
        assert shown(CompactAlfworldPrompt(), FIRST) == (
            "<task> look cd under desklamp <now> desk 1 drawer 1 <can> go desk 1 go drawer 1 <act>"
        )

    def test_a_later_turn_word_by_word(self) -> None:
        assert shown(CompactAlfworldPrompt(), LATER) == (
            "<task> look cd under desklamp "
            "<did> go desk 1 <saw> desklamp 1 <did> go drawer 1 <did> open drawer 1 <saw> cd 2 "
            "<did> fly away <nothing> <now> open drawer 1 open cd 2 "
            "<can> take cd 2 drawer 1 <tried> go desk 1 <act>"
        )

    def test_where_nothing_has_ever_been_said_the_observation_is_empty(self) -> None:
        view = TurnView(instruction="x", observation="Nothing happens.", admissible_actions=(), history=())
        assert shown(CompactAlfworldPrompt(), view) == "<task> x <now> <can> <act>"

    @pytest.mark.parametrize("answer", ["", "You are.", "-= =-"])
    def test_an_answer_that_says_nothing_is_left_out(self, answer: str) -> None:
        history = (("You arrive at desk 1.", "go to desk 1"), (answer, "examine desk 1"))
        view = TurnView(instruction="a cd", observation="On it is a cd 2.", admissible_actions=(), history=history)
        assert shown(CompactAlfworldPrompt(), view) == (
            "<task> cd <did> go desk 1 <did> examine desk 1 <saw> cd 2 <now> cd 2 <can> <act>"
        )

    def test_commands_tried_before_need_not_come_last(self) -> None:
        text = shown(CompactAlfworldPrompt(mark_tried=False), LATER)
        assert text.endswith("<can> go desk 1 take cd 2 drawer 1 <act>")

    def test_what_failed_does_not_hide_where_the_policy_is(self) -> None:
        lost = TurnView(
            instruction="x",
            observation="Nothing happens.",
            admissible_actions=(),
            history=(("You arrive at desk 1.", "fly"), ("Nothing happens.", "fly")),
        )
        assert "<now> desk 1 <can>" in shown(CompactAlfworldPrompt(), lost)

    def test_a_name_said_twice_in_a_row_is_shown_once(self) -> None:
        closed = "You arrive at drawer 1. The drawer 1 is closed."
        view = TurnView(instruction="x", observation=closed, admissible_actions=(), history=())
        assert "<now> drawer 1 closed <can>" in shown(CompactAlfworldPrompt(), view)

    def test_two_things_of_one_kind_are_both_shown(self) -> None:
        listed = "On the desk 1, you see a cd 2, and a cd 1."
        view = TurnView(instruction="x", observation=listed, admissible_actions=(), history=())
        assert "<now> desk 1 cd 2 cd 1 <can>" in shown(CompactAlfworldPrompt(), view)

    def test_the_oldest_action_is_left_out_first(self) -> None:
        assert shown(CompactAlfworldPrompt(history_length=1), LATER).startswith(
            "<task> look cd under desklamp <did> fly away <nothing> <now>"
        )

    def test_what_was_tried_is_marked_even_when_it_is_too_long_ago_to_be_shown(self) -> None:
        assert "<tried> go desk 1 <act>" in shown(CompactAlfworldPrompt(history_length=0), LATER)

    def test_too_long_a_prompt_keeps_its_commands(self) -> None:
        (full,) = lengths(CompactAlfworldPrompt(), [FIRST])
        assert shown(CompactAlfworldPrompt(), FIRST, full - 2) == (
            "<task> look cd under desklamp <now> drawer 1 <can> go desk 1 go drawer 1 <act>"
        )

    def test_a_prompt_that_cannot_be_shortened_enough_names_the_argument(self) -> None:
        with pytest.raises(ValueError, match="max_tokens must be >= 14"):
            CompactAlfworldPrompt().encode(FIRST, GrowingTokenizer(), 11)

    def test_a_monstrous_reply_does_not_swell_the_next_prompt(self) -> None:
        history = ((INTRO, "go " * 3_333),)
        view = TurnView(instruction="x", observation="Nothing happens.", admissible_actions=("look",), history=history)
        assert lengths(CompactAlfworldPrompt(), [view]) == [2 + 1 + 8 + 1 + 5 + 2]

    def test_its_markers_are_listed(self) -> None:
        text = shown(CompactAlfworldPrompt(), LATER)
        assert {word for word in text.split() if word.startswith("<")} == set(compact_markers())

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 0, got -2"):
            CompactAlfworldPrompt(history_length=-2)


class TestTheCompactParser:
    def test_an_admissible_command_is_valid(self) -> None:
        parsed = CompactAlfworldPrompt().parse(" go to desk 1\n", FIRST)
        assert (parsed.action, parsed.valid) == ("go to desk 1", True)

    def test_a_command_that_is_not_shown_may_be_written(self) -> None:
        assert CompactAlfworldPrompt().parse("inventory", FIRST).valid

    def test_an_inadmissible_command_is_sent_but_not_valid(self) -> None:
        parsed = CompactAlfworldPrompt().parse("go to desk 2", FIRST)
        assert (parsed.action, parsed.valid, parsed.problem) == ("go to desk 2", False, "not admissible")

    def test_without_admissible_actions_any_words_are_valid(self) -> None:
        view = TurnView(instruction="x", observation="y", admissible_actions=None, history=())
        assert CompactAlfworldPrompt().parse("sing", view).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_a_malformed_reply_is_invalid(self, reply: str) -> None:
        assert not CompactAlfworldPrompt().parse(reply, FIRST).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_what_is_sent_can_be_encoded(self, reply: str) -> None:
        CompactAlfworldPrompt().parse(reply, FIRST).action.encode("utf-8")
