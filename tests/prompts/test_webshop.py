"""WebShop's two prompts."""

import pytest

from gigpo_lightning.prompts.base import Prompt, ReplyWriter, TurnView
from gigpo_lightning.prompts.webshop import CompactWebShopPrompt, WebShopPrompt, webshop_markers
from tests.prompts.shop_pages import (
    CHOSEN,
    FIRST,
    FOUND,
    FOUND_AGAIN,
    INDEX,
    INSTRUCTION,
    ITEM,
    ON_RESULTS,
    OPENED,
    QUERY,
    READ,
    RESULTS,
    turn,
)
from tests.prompts.test_alfworld import MALFORMED
from tests.prompts.word_tokenizer import GrowingTokenizer

TASK = "<task> slim fit rain jackets daily wear color blue size small <limit> 50"


def shown(prompt: Prompt, view: TurnView, max_tokens: int = 100_000) -> str:
    tokenizer = GrowingTokenizer()
    return tokenizer.decode(prompt.encode(view, tokenizer, max_tokens).ids)


def message(view: TurnView, history_length: int = 2) -> str:
    prompt = WebShopPrompt(history_length)
    return prompt.message(view, prompt.num_turns(view), view.observation)


def long_turn(length: int) -> TurnView:
    """A turn whose message has so many characters, history included."""
    empty = turn("", (), (INDEX, QUERY))
    return turn("x" * (length - len(message(empty))), (), (INDEX, QUERY))


class TestTheChatPrompt:
    def test_the_first_turn_names_the_task(self) -> None:
        assert f"Your task is: {INSTRUCTION}\n" in message(FIRST)

    def test_the_page_is_shown_as_it_is(self) -> None:
        assert f"You now observe: {RESULTS}\n" in message(FOUND)

    def test_only_the_last_turns_are_shown(self) -> None:
        text = message(FOUND_AGAIN)
        assert "Action 4: 'click[< prev]'" in text
        assert "Action 3: 'click[blue]'" in text
        assert "Action 2" not in text

    def test_the_current_step_has_the_number_after_the_last_one(self) -> None:
        assert "You have taken 4 steps so far." in message(FOUND_AGAIN)
        assert "This is step 5." in message(FOUND_AGAIN)

    def test_the_search_bar_is_offered_as_a_form_to_fill_in(self) -> None:
        assert "\n  'search[<your query>]'\n" in message(FIRST)

    def test_what_can_be_clicked_is_offered_one_a_line(self) -> None:
        assert "\n".join(f"  '{action}'" for action in ON_RESULTS) in message(FOUND)

    def test_the_search_button_is_not_offered(self) -> None:
        assert "click[search]" not in message(turn(INDEX, ("search[<your query>]", "click[search]")))

    def test_without_admissible_actions_none_are_offered(self) -> None:
        assert "available actions are" not in message(turn(INDEX, None))

    def test_a_message_of_thirteen_thousand_characters_keeps_its_history(self) -> None:
        assert "Action 1" in shown(WebShopPrompt(), long_turn(13_000))

    def test_a_longer_message_drops_its_history_and_says_so(self) -> None:
        prompt, view = WebShopPrompt(), long_turn(13_001)
        assert "Action 1" not in shown(prompt, view)
        assert prompt.encode(view, GrowingTokenizer(), 100_000).truncated

    def test_a_whole_prompt_says_so(self) -> None:
        assert not WebShopPrompt().encode(FOUND_AGAIN, GrowingTokenizer(), 100_000).truncated

    def test_the_oldest_turn_is_left_out_first_where_tokens_are_few(self) -> None:
        full = len(WebShopPrompt().encode(FOUND_AGAIN, GrowingTokenizer(), 100_000).ids)
        text = shown(WebShopPrompt(), FOUND_AGAIN, full - 1)
        assert "Action 3" not in text
        assert "Action 4" in text

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 0, got -1"):
            WebShopPrompt(history_length=-1)


class TestTheChatParser:
    def test_an_action_after_thinking_is_valid(self) -> None:
        parsed = WebShopPrompt().parse("<think>first</think><action> Click[Buy Now] </action>", OPENED)
        assert (parsed.action, parsed.valid, parsed.problem) == ("click[buy now]", True, "")

    def test_without_tags_the_last_twenty_characters_are_sent(self) -> None:
        parsed = WebShopPrompt().parse("<think></think>" + "A" * 40, FIRST)
        assert (parsed.action, parsed.valid) == ("a" * 20, False)

    def test_without_think_tags_the_action_is_sent_but_not_valid(self) -> None:
        parsed = WebShopPrompt().parse("<action>click[buy now]</action>", OPENED)
        assert (parsed.action, parsed.valid) == ("click[buy now]", False)

    def test_a_chinese_character_makes_a_reply_invalid(self) -> None:
        assert not WebShopPrompt().parse("<think>买</think><action>click[buy now]</action>", OPENED).valid

    def test_an_unavailable_action_is_valid_as_in_the_paper(self) -> None:
        assert WebShopPrompt().parse("<think></think><action>click[green]</action>", OPENED).valid

    @pytest.mark.parametrize(
        ("view", "action", "valid"),
        [
            (OPENED, "click[green]", False),
            (OPENED, "click[blue]", True),
            (FIRST, "search[blue jackets]", True),
            (FIRST, "search[]", False),
            (FIRST, "search[ ]", False),
            (FIRST, "search[blue", False),
            (OPENED, "search[blue jackets]", False),
        ],
    )
    def test_an_unavailable_action_can_be_refused(self, view: TurnView, action: str, valid: bool) -> None:
        prompt = WebShopPrompt(require_admissible=True)
        assert prompt.parse(f"<think></think><action>{action}</action>", view).valid == valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_a_malformed_reply_is_invalid(self, reply: str) -> None:
        assert not WebShopPrompt().parse(reply, FIRST).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_what_is_sent_can_be_encoded(self, reply: str) -> None:
        WebShopPrompt().parse(f"<action>{reply}</action>", FIRST).action.encode("utf-8")


class TestTheCompactPrompt:
    def test_the_first_turn_word_by_word(self) -> None:
        assert shown(CompactWebShopPrompt(), FIRST) == f"{TASK} <now> <can> search <act>"

    def test_a_page_of_results_shows_what_the_instruction_names_and_prices_rounded_up(self) -> None:
        assert shown(CompactWebShopPrompt(), FOUND) == (
            f"{TASK} <did> search <now> page 1 <can> <item> 1 slim fit rain jackets 20 "
            "<item> 2 daily wear slim fit rain jackets 46 next <act>"
        )

    def test_products_looked_at_before_come_last(self) -> None:
        assert shown(CompactWebShopPrompt(), FOUND_AGAIN) == (
            f"{TASK} <did> search <did> click 1 <did> click blue <did> click prev <now> page 1 "
            "<can> <item> 2 daily wear slim fit rain jackets 46 next <tried> <item> 1 slim fit rain jackets 20 <act>"
        )

    def test_they_need_not_come_last(self) -> None:
        text = shown(CompactWebShopPrompt(mark_tried=False), FOUND_AGAIN)
        assert text.index("<item> 1") < text.index("<item> 2")
        assert "<tried>" not in text

    def test_an_item_word_by_word(self) -> None:
        assert shown(CompactWebShopPrompt(), OPENED) == (
            f"{TASK} <did> search <did> click 2 <now> daily wear slim fit rain jackets 46 "
            "<can> blue red small x large prev buy now <act>"
        )

    def test_only_what_was_chosen_of_this_item_comes_last(self) -> None:
        text = shown(CompactWebShopPrompt(history_length=0), CHOSEN)
        assert text.endswith("<can> blue red x large prev buy now <tried> small <act>")

    def test_what_is_told_about_an_item_shows_the_words_that_the_instruction_names(self) -> None:
        assert shown(CompactWebShopPrompt(), READ).endswith("<did> click features <now> daily wear <can> prev <act>")

    def test_an_instruction_without_a_price_has_no_limit(self) -> None:
        view = TurnView(instruction="Find me hats", observation=INDEX, admissible_actions=None, history=())
        assert shown(CompactWebShopPrompt(), view) == "<task> hats <now> <can> <act>"

    def test_the_oldest_action_is_left_out_first(self) -> None:
        text = shown(CompactWebShopPrompt(history_length=1), FOUND_AGAIN)
        assert text.startswith(f"{TASK} <did> click prev <now>")

    def test_a_prompt_that_cannot_be_shortened_enough_names_the_argument(self) -> None:
        with pytest.raises(ValueError, match="max_tokens must be >= 17"):
            CompactWebShopPrompt().encode(FIRST, GrowingTokenizer(), 11)

    def test_a_monstrous_reply_does_not_swell_the_next_prompt(self) -> None:
        history = ((INDEX, "go " * 3_333), (INDEX, f"search[{'go ' * 3_333}]"))
        text = shown(CompactWebShopPrompt(), turn(INDEX, ("search[<your query>]",), *history))
        assert text.endswith("<did>" + " go" * 12 + " <did> search <now> <can> search <act>")

    def test_its_markers_are_listed(self) -> None:
        texts = [shown(CompactWebShopPrompt(), view) for view in (FOUND_AGAIN, CHOSEN)]
        marked = {word for text in texts for word in text.split() if word.startswith("<")}
        assert marked == set(CompactWebShopPrompt.markers)
        assert set(CompactWebShopPrompt.markers) < set(webshop_markers())

    def test_a_negative_history_is_refused(self) -> None:
        with pytest.raises(ValueError, match="history_length must be >= 0, got -2"):
            CompactWebShopPrompt(history_length=-2)


MEANINGS = [
    (FIRST, "search", QUERY),
    (FIRST, "search blue jackets", "search[blue jackets]"),
    (FOUND, "click 2", "click[b000000002]"),
    (FOUND, "click next", "click[next >]"),
    (FOUND, "click back to search", "click[back to search]"),
    (OPENED, "click x large", "click[x-large]"),
    (OPENED, "click prev", "click[< prev]"),
    (OPENED, "click buy now", "click[buy now]"),
    (OPENED, "click features", "click[features]"),
]


class TestTheCompactParser:
    @pytest.mark.parametrize(("view", "reply", "action"), MEANINGS)
    def test_a_reply_means_an_action(self, view: TurnView, reply: str, action: str) -> None:
        parsed = CompactWebShopPrompt().parse(f" {reply}\n", view)
        assert (parsed.action, parsed.valid) == (action, True)

    @pytest.mark.parametrize(("view", "reply", "action"), MEANINGS)
    def test_the_reply_of_an_action_is_what_means_it(self, view: TurnView, reply: str, action: str) -> None:
        prompt = CompactWebShopPrompt()
        assert isinstance(prompt, ReplyWriter)
        assert prompt.write_reply(action, view) == reply

    @pytest.mark.parametrize(
        ("view", "reply"),
        [(FOUND, "click 3"), (FOUND, "search"), (OPENED, "click 2"), (OPENED, "click green"), (FIRST, "click search")],
    )
    def test_what_cannot_be_done_is_sent_but_not_valid(self, view: TurnView, reply: str) -> None:
        parsed = CompactWebShopPrompt().parse(reply, view)
        assert (parsed.action, parsed.valid, parsed.problem) == (reply, False, "not admissible")

    def test_without_admissible_actions_any_words_are_valid(self) -> None:
        assert CompactWebShopPrompt().parse("sing", turn(ITEM, None)).valid

    def test_a_search_for_nothing_is_not_valid(self) -> None:
        view = TurnView(instruction="", observation=INDEX, admissible_actions=FIRST.admissible_actions, history=())
        assert not CompactWebShopPrompt().parse("search", view).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_a_malformed_reply_is_invalid(self, reply: str) -> None:
        assert not CompactWebShopPrompt().parse(reply, FOUND).valid

    @pytest.mark.parametrize("reply", MALFORMED)
    def test_what_is_sent_can_be_encoded(self, reply: str) -> None:
        CompactWebShopPrompt().parse(reply, FIRST).action.encode("utf-8")
