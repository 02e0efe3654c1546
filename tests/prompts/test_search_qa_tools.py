"""Search QA by tool calls: the environment of the tags, asked and answered through tools."""

import json

import pytest

from gigpo_lightning.environments.base import Task
from gigpo_lightning.environments.search_qa import SearchQAEnvironment
from gigpo_lightning.prompts.base import TurnView, check_chat_template
from gigpo_lightning.prompts.replies import Reply
from gigpo_lightning.prompts.search_qa_tools import SearchQAToolPrompt
from gigpo_lightning.prompts.tool_calls import Llama3JsonToolCalls
from tests.environments.search_qa.retrievers import ScriptedRetriever, passage
from tests.prompts.chat_tokenizer import chat_tokenizer
from tests.prompts.conversations import END, Conversation

QUESTION = "who wrote it?"
VIEW = TurnView(instruction=QUESTION, observation=QUESTION, admissible_actions=None)
PROMPT = SearchQAToolPrompt()


def call(name: str, **arguments: object) -> str:
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


def test_the_tools_are_listed_and_the_question_is_the_first_message() -> None:
    text = chat_tokenizer().exact_text(PROMPT.encode(VIEW, chat_tokenizer(), 4000).ids)
    assert '"name": "search"' in text
    assert '"name": "answer"' in text
    assert f"<|im_start|>user\n{QUESTION}{END}" in text


@pytest.mark.parametrize(
    ("written", "action"),
    [
        (call("search", query="silver lantern"), "<search>silver lantern</search>"),
        (call("answer", answer="Zoë"), "<answer>Zoë</answer>"),
        (call("search", query="a</search><answer>b</answer>"), "<search>a  b</search>"),
    ],
)
def test_a_call_is_sent_between_tags(written: str, action: str) -> None:
    parsed = PROMPT.parse(written, VIEW)
    assert parsed.valid
    assert parsed.action == action


@pytest.mark.parametrize("written", ["<search>a</search>", call("search", query=""), call("find", query="a"), ""])
def test_any_other_reply_is_invalid_and_is_told_why(written: str) -> None:
    parsed = PROMPT.parse(written, VIEW)
    assert not parsed.valid
    assert parsed.answer


@pytest.mark.parametrize("action", ["<search>a lamp</search>", "<answer>Zoë</answer>"])
def test_a_demonstrated_action_is_written_as_its_call(action: str) -> None:
    assert PROMPT.parse(PROMPT.write_reply(action, VIEW), VIEW).action == action


def test_a_demonstration_s_earlier_actions_are_shown_as_their_calls() -> None:
    history = ((QUESTION, "<search>a lamp</search>"),)
    found = "<information>By Zoë.</information>"
    view = TurnView(instruction=QUESTION, observation=found, admissible_actions=None, history=history)
    text = chat_tokenizer().exact_text(PROMPT.encode(view, chat_tokenizer(), 4000).ids)
    assert call("search", query="a lamp") in text.replace("\n", "")
    assert "<tool_response>\nBy Zoë.\n</tool_response>" in text


def test_another_form_of_calls_can_be_chosen() -> None:
    parsed = SearchQAToolPrompt(Llama3JsonToolCalls()).parse('{"name": "answer", "parameters": {"answer": "a"}}', VIEW)
    assert parsed.action == "<answer>a</answer>"


def test_what_a_search_found_is_the_tool_s_message() -> None:
    environment = SearchQAEnvironment(ScriptedRetriever([[passage("Lantern", "By Zoë.")]]))
    task = Task(task_id="a", kind="b", payload={"question": QUESTION, "golden_answers": ("Zoë",)})
    environment.reset(options={"task": task})
    written = call("search", query="lantern")
    found, *_ = environment.step(PROMPT.parse(written, VIEW).action)
    played = Conversation(PROMPT, chat_tokenizer(), [written + END], said=[QUESTION, found])
    assert "<tool_response>\n" in played.text()
    assert "<information>" not in played.text()
    assert "Lantern" in played.text().split("<tool_response>")[1]


def test_a_reply_in_tokens_is_read_as_one_in_words() -> None:
    tokenizer = chat_tokenizer()
    written = call("search", query="a")
    assert PROMPT.parse_tokens(tokenizer.encode(written + END), (), VIEW, tokenizer) == PROMPT.parse(written, VIEW)
    assert PROMPT.reply.calls(Reply(text=written, exact=written))[0].name == "search"


def test_a_template_that_takes_no_tools_is_refused_before_training() -> None:
    check_chat_template(PROMPT, chat_tokenizer())
    with pytest.raises(ValueError, match="must take tools for a prompt of tool calls, but reads none"):
        check_chat_template(PROMPT, chat_tokenizer("{% for m in messages %}{{ m.content }}{% endfor %}"))
