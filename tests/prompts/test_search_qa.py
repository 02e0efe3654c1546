"""Search QA's two prompts and their parser."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.environments.search_qa import search_qa_words
from gigpo_lightning.prompts.base import Prompt, TurnView
from gigpo_lightning.prompts.search_qa import CompactSearchQAPrompt, SearchQAPrompt, compact_markers
from tests.prompts.word_tokenizer import GrowingTokenizer

QUESTION = "Where was the author of The Silver Lantern born?"
FIRST = TurnView(instruction=QUESTION, observation=QUESTION, admissible_actions=None, history=())
WORK = (
    '<information>Doc 1(Title: "The Silver Lantern") The Silver Lantern is a novel written by Mila Torv.</information>'
)
PERSON = (
    '<information>Doc 1(Title: "Mila Torv") Mila Torv is a painter who was born in Nordby.\n'
    'Doc 2(Title: "Ada Torv") Ada Torv is a cook who was born in Marstow.</information>'
)
LATER = TurnView(
    instruction=QUESTION,
    observation=PERSON,
    admissible_actions=None,
    history=(
        (QUESTION, "<search>silver lantern</search>"),
        (WORK, ""),
        ("", "<search>mila torv</search>"),
    ),
)


def shown(prompt: Prompt, view: TurnView, max_tokens: int = 10_000) -> str:
    tokenizer = GrowingTokenizer()
    return tokenizer.decode(prompt.encode(view, tokenizer, max_tokens).ids)


def lengths(prompt: Prompt, views: Sequence[TurnView]) -> list[int]:
    return [len(prompt.encode(view, GrowingTokenizer(), 10_000).ids) for view in views]


class TestTheChatPrompt:
    def test_every_turn_shows_the_question_once(self) -> None:
        assert shown(SearchQAPrompt(), FIRST).count("author of The Silver Lantern") == 1
        assert shown(SearchQAPrompt(), LATER).count("author of The Silver Lantern") == 1

    def test_every_turn_says_what_can_be_done(self) -> None:
        for view in (FIRST, LATER):
            text = shown(SearchQAPrompt(), view)
            assert "<search> your query < / search>" in text
            assert "<answer> Beijing < / answer>" in text
            assert "between <think> and < / think>" in text

    def test_the_first_turn_has_no_history(self) -> None:
        assert "so far" not in shown(SearchQAPrompt(), FIRST)

    def test_later_turns_show_each_action_with_what_came_of_it(self) -> None:
        text = shown(SearchQAPrompt(), LATER)
        assert "You have taken 3 steps so far" in text
        assert "Step 1 : <search> silver lantern < / search> <information> Doc 1" in text
        assert "written by Mila Torv . < / information> Step 2 : Step 3 : <search> mila torv" in text
        assert "born in Marstow . < / information>" in text

    def test_after_one_step_it_says_step(self) -> None:
        view = TurnView(instruction=QUESTION, observation="", admissible_actions=None, history=((QUESTION, ""),))
        assert "You have taken 1 step so far" in shown(SearchQAPrompt(), view)

    def test_only_the_last_turns_are_shown_with_their_numbers(self) -> None:
        text = shown(SearchQAPrompt(history_length=2), LATER)
        assert "Step 1" not in text
        assert "Step 2 : Step 3 : <search> mila torv" in text

    def test_the_oldest_turn_is_left_out_first(self) -> None:
        (full,) = lengths(SearchQAPrompt(), [LATER])
        text = shown(SearchQAPrompt(), LATER, full - 1)
        assert "silver lantern <" not in text
        assert "Step 2 : Step 3" in text
        assert "born in Nordby" in text

    def test_after_the_history_what_was_found_loses_its_beginning(self) -> None:
        (last_turn,) = lengths(SearchQAPrompt(history_length=1), [LATER])
        text = shown(SearchQAPrompt(), LATER, last_turn - 18)
        assert "Step 3 : <search> mila torv < / search> <information> …" in text
        assert "painter" not in text
        assert "born in Marstow" in text

    def test_a_shortened_prompt_says_so(self) -> None:
        (full,) = lengths(SearchQAPrompt(), [LATER])
        assert SearchQAPrompt().encode(LATER, GrowingTokenizer(), full - 1).truncated
        assert not SearchQAPrompt().encode(LATER, GrowingTokenizer(), full).truncated

    @pytest.mark.parametrize("view", [FIRST, LATER])
    def test_a_prompt_that_cannot_be_shortened_enough_names_the_argument(self, view: TurnView) -> None:
        with pytest.raises(ValueError, match="max_tokens must be >= "):
            SearchQAPrompt().encode(view, GrowingTokenizer(), 20)

    @pytest.mark.parametrize("prompt", [SearchQAPrompt, CompactSearchQAPrompt])
    def test_a_history_of_none_is_refused(self, prompt: type[SearchQAPrompt]) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 1, got 0: or no search would be of use"):
            prompt(history_length=0)


# Reply, action, whether it is valid; by hand.
REPLIES = [
    ("<think>x</think><search> silver lantern </search>", "<search>silver lantern</search>", True),
    ("<think>x</think><answer> Nordby\n</answer>", "<answer>Nordby</answer>", True),
    ("<search>no thoughts</search>", "<search>no thoughts</search>", True),
    ("<SEARCH>in capitals</Search>", "<search>in capitals</search>", True),
    ("<search>a\nb</search> and more", "<search>a\nb</search>", True),
    ("<search></search>", "<search></search>", True),
    ("<answer>x</answer></answer>", "<answer>x</answer>", True),
    # nothing to carry out
    ("", "", False),
    ("Nordby", "", False),
    ("<search>open", "", False),
    ("</search>x<search>", "", False),
    ("<think><search</think>", "", False),
    # both tags, wherever they are: carried out all the same
    ("<search>x</search><answer>y</answer>", "<search>x</search>", False),
    ("<answer>y</answer><search>x</search>", "<search>x</search>", False),
    ("<answer>y</answer> <search>open", "<answer>y</answer>", False),
    ("<think>shall I <answer>?</think><search>x</search>", "<search>x</search>", False),
    # one tag twice
    ("<search>x</search><search>y</search>", "<search>x</search>", False),
    ("<answer>x</answer><answer>y</answer>", "<answer>x</answer>", False),
    ("<search><search>x</search>", "<search><search>x</search>", False),
    # what follows the first closing tag is not looked at
    ("</search><search>x</search>", "", False),
    ("</search><answer>x</answer>", "", False),
    ("<answer>open </search> x</answer>", "", False),
]


class TestTheParser:
    @pytest.mark.parametrize(("reply", "action", "valid"), REPLIES)
    def test_a_reply_is_read_as_by_hand(self, reply: str, action: str, valid: bool) -> None:
        for prompt in (SearchQAPrompt(), CompactSearchQAPrompt()):
            parsed = prompt.parse(reply, FIRST)
            assert (parsed.action, parsed.valid, not parsed.problem) == (action, valid, valid)

    @pytest.mark.parametrize(
        ("reply", "problem"),
        [
            ("Nordby", "no search or answer tags"),
            ("<search>x</search><answer>y</answer>", "both search and answer tags"),
            ("<answer>x</answer><answer>y</answer>", "a tag twice"),
        ],
    )
    def test_it_says_which_rule_was_broken(self, reply: str, problem: str) -> None:
        assert SearchQAPrompt().parse(reply, FIRST).problem == problem

    @given(
        st.lists(
            st.sampled_from(
                ("<search>", "</search>", "<answer>", "</answer>", "<Search>", "</Answer>", " x ", "\n", "<think>")
            ),
            max_size=8,
        ).map("".join)
    )
    def test_it_follows_the_published_rule(self, reply: str) -> None:
        parsed = SearchQAPrompt().parse(reply, FIRST)
        assert (parsed.action, parsed.valid) == published_rule(reply)

    @given(st.text())
    def test_whatever_is_written_can_be_sent(self, reply: str) -> None:
        SearchQAPrompt().parse(f"<search>{reply}\ud83d</search>", FIRST).action.encode("utf-8")


def published_rule(reply: str) -> tuple[str, bool]:
    """The rule as one would say it: cut off, take the first block, count the opening tags."""
    cut = re.match(r".*?</search>", reply, re.DOTALL) or re.match(r".*?</answer>", reply, re.DOTALL)
    action = ""
    for tag in ("answer", "search"):
        found = re.search(f"<{tag}>(.*?)</{tag}>", cut[0] if cut else reply, re.DOTALL | re.IGNORECASE)
        action = f"<{tag}>{found[1].strip()}</{tag}>" if found else action
    counts = [len(re.findall(tag, reply, re.IGNORECASE)) for tag in ("<search>", "<answer>")]
    return action, bool(action) and sum(counts) == 1


class TestTheCompactPrompt:
    def test_the_first_turn_word_by_word(self) -> None:
        assert shown(CompactSearchQAPrompt(), FIRST) == "<task> where author silver lantern born <act>"

    def test_a_later_turn_word_by_word(self) -> None:
        assert shown(CompactSearchQAPrompt(), LATER) == (
            "<task> where author silver lantern born "
            "<did> silver lantern <saw> <passage> silver lantern novel written mila torv "
            "<did> <saw> "
            "<did> mila torv <saw> <passage> mila torv painter born nordby <passage> ada torv cook born marstow <act>"
        )

    def test_passages_in_json_read_the_same(self) -> None:
        plain = '<information>Doc 1(Title: "Zoë Torv") Zoë Torv is a cook.\nDoc 2(Title: A lamp.)</information>'
        escaped = (
            r'<information>{"result": "Doc 1: \"Zo\u00eb Torv\"\nZo\u00eb Torv is a cook.\nDoc 2: A lamp."}'
            "</information>"
        )
        views = [
            TurnView(instruction="x", observation=each, admissible_actions=None, history=(("x", ""),))
            for each in (plain, escaped)
        ]
        assert shown(CompactSearchQAPrompt(), views[1]) == (
            "<task> x <did> <saw> <passage> zoë torv cook <passage> lamp <act>"
        )
        assert shown(CompactSearchQAPrompt(), views[0]) == shown(CompactSearchQAPrompt(), views[1])

    def test_json_that_lost_its_beginning_is_read_as_it_is(self) -> None:
        view = TurnView(
            instruction="x",
            observation='born in Nordby."}</information>',
            admissible_actions=None,
            history=(("x", ""),),
        )
        assert shown(CompactSearchQAPrompt(), view) == "<task> x <did> <saw> born nordby <act>"

    def test_the_oldest_turn_is_left_out_first(self) -> None:
        assert shown(CompactSearchQAPrompt(history_length=1), LATER).startswith(
            "<task> where author silver lantern born <did> mila torv <saw>"
        )

    def test_too_long_a_prompt_keeps_its_question_and_query(self) -> None:
        (last_turn,) = lengths(CompactSearchQAPrompt(history_length=1), [LATER])
        assert shown(CompactSearchQAPrompt(), LATER, last_turn - 6) == (
            "<task> where author silver lantern born <did> mila torv <saw> <passage> ada torv cook born marstow <act>"
        )

    def test_a_monstrous_query_does_not_swell_the_next_prompt(self) -> None:
        history = ((QUESTION, f"<search>{'nordby ' * 3_000}</search>"),)
        view = TurnView(instruction="x", observation="", admissible_actions=None, history=history)
        assert lengths(CompactSearchQAPrompt(), [view]) == [2 + 1 + 8 + 1 + 1]

    def test_all_that_it_writes_is_in_the_vocabulary(self) -> None:
        words = {word for view in (FIRST, LATER) for word in shown(CompactSearchQAPrompt(), view).split()}
        assert words <= {*search_qa_words(), *compact_markers()}

    def test_the_tags_that_a_policy_writes_are_markers(self) -> None:
        assert {"<search>", "</search>", "<answer>", "</answer>"} <= set(compact_markers())
