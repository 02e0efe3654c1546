"""Chats in JSONL files as rows to be learnt."""

import json
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.imitation import ChatMessages, DemonstrationSource, Example
from tests.imitation.words import END, Words
from tests.prompts.chat_tokenizer import STRIPPING, chat_tokenizer

CHAT = [
    {"role": "system", "content": "walk"},
    {"role": "user", "content": "at a"},
    {"role": "assistant", "content": "left"},
    {"role": "user", "content": "at b"},
    {"role": "assistant", "content": "right"},
]


def written(words: Words, row: Example) -> str:
    """What is learnt of a row."""
    mask = row.written or (True,) * len(row.reply_ids)
    return words.exact([token for token, kept in zip(row.reply_ids, mask, strict=True) if kept])


def shown(words: Words, row: Example) -> str:
    return words.exact(row.prompt_ids)


def file_of(folder: Path, *lines: Any, name: str = "chats.jsonl") -> str:
    path = folder / name
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return str(path)


def rows(folder: Path, *lines: Any, words: Words | None = None, **arguments: Any) -> list[list[Example]]:
    source = ChatMessages(file_of(folder, *lines), **({"held_out_share": 0.0} | arguments))
    source.prepare()
    return [list(each) for each in source.episodes(words or Words(), held_out=False, seed=0)]


def test_it_is_a_source_of_demonstrations(tmp_path: Path) -> None:
    assert isinstance(ChatMessages(str(tmp_path)), DemonstrationSource)


def test_only_the_assistant_s_messages_are_learnt(tmp_path: Path) -> None:
    words = Words()
    (((row,)),) = rows(tmp_path, {"messages": CHAT}, words=words)
    assert shown(words, row) == "<system> walk <end> <user> at a <end> <assistant>"
    assert written(words, row) == "left <end> right <end>"


def test_a_conversation_that_grows_is_read_once(tmp_path: Path) -> None:
    words = Words()
    ((row,),) = rows(tmp_path, {"messages": CHAT}, words=words)
    assert words.exact(row.reply_ids) == "left <end> <user> at b <end> <assistant> right <end>"


class Forgetful(Words):
    """A template that leaves earlier replies out, as those of models that think do with their thoughts."""

    def encode_chat(self, messages: Any, **_: Any) -> list[int]:
        last = len(messages) - 1
        kept = [each for at, each in enumerate(messages) if each["role"] != "assistant" or at == last]
        return super().encode_chat(kept)


def test_replies_of_a_template_that_rewrites_earlier_turns_have_rows_of_their_own(tmp_path: Path) -> None:
    words = Forgetful()
    ((first, second),) = rows(tmp_path, {"messages": CHAT}, words=words)
    assert written(words, first).startswith("left")
    assert shown(words, second) == "<system> walk <end> <user> at a <end> <user> at b <end> <assistant>"
    assert written(words, second).startswith("right")


@pytest.mark.parametrize(
    ("turns_shown", "prompt"),
    [
        (0, "<system> walk <end> <user> at b <end> <assistant>"),
        (1, "<system> walk <end> <user> at a <end> <assistant> left <end> <user> at b <end> <assistant>"),
    ],
)
def test_earlier_turns_are_shown_as_far_as_asked_for(tmp_path: Path, turns_shown: int, prompt: str) -> None:
    words = Words()
    (episode,) = rows(tmp_path, {"messages": CHAT}, words=words, turns_shown=turns_shown)
    last = episode[-1]
    whole = words.exact((*last.prompt_ids, *last.reply_ids))
    assert whole == f"{prompt} right <end>"


def test_of_a_prompt_of_messages_nothing_is_learnt(tmp_path: Path) -> None:
    words = Words()
    ((row,),) = rows(tmp_path, {"prompt": CHAT[:4], "completion": CHAT[4:]}, words=words)
    assert written(words, row) == "right <end>"
    assert "left" in shown(words, row)


def test_a_prompt_of_plain_text_goes_around_the_chat_template(tmp_path: Path) -> None:
    words = Words()
    ((row,),) = rows(tmp_path, {"prompt": "at a", "completion": "left"}, words=words)
    assert (shown(words, row), written(words, row)) == ("at a", f"left {END}")


def test_a_reply_ends_as_the_template_ends_a_turn(tmp_path: Path) -> None:
    words = Words(turn_end=END)
    ((row,),) = rows(tmp_path, {"messages": CHAT[:3]}, words=words)
    assert written(words, row) == f"left {END}"


def test_other_keys_and_blank_lines_are_ignored(tmp_path: Path) -> None:
    assert len(rows(tmp_path, {"messages": CHAT, "source": "me"}, "", {"messages": CHAT})) == 2


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"messages": [', "Expecting value"),
        ({"text": "left"}, r"must be \{.messages.* or .*, got \{'text': 'left'\}"),
        ([1], "must be .*, got .1."),
        ({"messages": []}, r"messages must be a list of messages, got \[\]"),
        ({"messages": [{"role": "user"}]}, r"messages\[0\] must have text as its 'content', got \{'role': 'user'\}"),
        ({"messages": [{"role": "user", "content": ["a"]}]}, r"messages\[0\] must have text as its 'content'"),
        ({"messages": CHAT[:2]}, "must have a message of the role 'assistant', which is what is learnt, got none"),
        ({"messages": CHAT[2:]}, "must have a message before the assistant's first"),
        ({"messages": [CHAT[1], {"role": "assistant", "content": ""}]}, r"messages\[1\] must not be empty"),
        ({"prompt": "a", "completion": CHAT[4:]}, "prompt and completion must both be text, or both lists"),
        ({"prompt": "a", "completion": ""}, "completion must not be empty"),
        ({"prompt": "a"}, "must be "),
        ({"messages": CHAT, "prompt": "a", "completion": "b"}, "must be "),
    ],
)
def test_a_bad_line_is_named_with_its_file_before_a_model_is_loaded(tmp_path: Path, line: Any, problem: str) -> None:
    source = ChatMessages(file_of(tmp_path, {"messages": CHAT}, "", line))
    with pytest.raises(ValueError, match=rf"chats\.jsonl, line 3: {problem}"):
        source.prepare()


def test_what_the_template_refuses_is_named_with_its_line(tmp_path: Path) -> None:
    class Strict(Words):
        def encode_chat(self, messages: Any, **_: Any) -> list[int]:
            if messages[0]["role"] == "system":
                raise ValueError("no system messages")
            return super().encode_chat(messages)

    with pytest.raises(ValueError, match=r"chats\.jsonl, line 2: no system messages"):
        rows(tmp_path, {"messages": CHAT[1:]}, {"messages": CHAT}, words=Strict())


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"chats\.jsonl must hold an episode a line, but is empty"):
        ChatMessages(file_of(tmp_path, "")).prepare()


@pytest.mark.parametrize("name", ["files", "held_out_files"])
def test_a_file_that_is_not_there_is_named(tmp_path: Path, name: str) -> None:
    arguments = {"files": file_of(tmp_path, {"messages": CHAT}), name: str(tmp_path / "other.jsonl")}
    with pytest.raises(ValueError, match=rf"{name} must name a file or a folder that exists, got .*other\.jsonl"):
        ChatMessages(**arguments).prepare()


def chats_about(*places: str) -> list[dict[str, Any]]:
    return [{"prompt": place, "completion": "go"} for place in places]


def test_a_share_of_the_episodes_is_held_out(tmp_path: Path) -> None:
    words, path = Words(), file_of(tmp_path, *chats_about(*"abcdefghij"))
    source = ChatMessages(path, held_out_share=0.2)
    learnt, held_out = (
        {shown(words, each[0]) for each in source.episodes(words, held_out=part, seed=0)} for part in (False, True)
    )
    assert (len(learnt), len(held_out), learnt & held_out) == (8, 2, set())


def test_episodes_that_begin_alike_are_held_out_together(tmp_path: Path) -> None:
    words, path = Words(), file_of(tmp_path, *chats_about(*"aabbccdd"))
    held_out = ChatMessages(path, held_out_share=0.5).episodes(words, held_out=True, seed=0)
    assert len(held_out) == 4
    assert len({shown(words, each[0]) for each in held_out}) == 2


def test_held_out_files_take_the_place_of_a_share(tmp_path: Path) -> None:
    words = Words()
    held_out = file_of(tmp_path, *chats_about("z"), name="held_out.jsonl")
    source = ChatMessages(file_of(tmp_path, *chats_about(*"abc")), held_out_files=held_out)
    assert len(source.episodes(words, held_out=False, seed=0)) == 3
    assert [shown(words, each[0]) for each in source.episodes(words, held_out=True, seed=0)] == ["z"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"held_out_share": 1.0}, r"held_out_share must be in \[0, 0.9\], got 1.0"),
        ({"turns_shown": -1}, "turns_shown must be >= 0, got -1"),
    ],
)
def test_a_number_out_of_its_range_is_refused(arguments: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        ChatMessages("chats.jsonl", **arguments)


def test_the_template_s_keywords_are_passed_on(tmp_path: Path) -> None:
    tokenizer = chat_tokenizer(STRIPPING)
    source = ChatMessages(
        file_of(tmp_path, {"messages": CHAT[:3]}), held_out_share=0.0, chat_template_kwargs={"enable_thinking": False}
    )
    ((row,),) = source.episodes(tokenizer, held_out=False, seed=0)
    assert tokenizer.exact_text(row.prompt_ids).endswith("<think>\n\n</think>\n\n")
