"""Official files are read entry by entry, and an entry is found again by its place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.environments.webshop import files
from gigpo_lightning.environments.webshop.files import JsonFile

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
layouts = st.sampled_from([{}, {"indent": 2}, {"ensure_ascii": False}, {"separators": (",", ":")}])


@pytest.fixture(params=[1, 7, 1 << 22])
def chunk(request, monkeypatch):
    """Bytes that are read at a time; an entry may be longer."""
    monkeypatch.setattr(files, "_CHUNK", request.param)


def file_of(folder, text: str) -> JsonFile:
    (folder / "file.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    return JsonFile(folder / "file.json")


@pytest.mark.usefixtures("chunk")
def test_a_list_is_read_entry_by_entry(tmp_path_factory):
    @given(st.lists(values, max_size=5), layouts)
    def check(entries, layout):
        text = json.dumps(entries, **layout)
        if any("\ud800" <= character <= "\udfff" for character in text):
            return  # half a surrogate pair is no UTF-8
        file = file_of(tmp_path_factory.mktemp("list"), text)
        read = list(file.list_entries())
        assert [value for _, _, value in read] == entries
        assert [file.entry(start, length) for start, length, _ in read] == entries

    check()


@pytest.mark.usefixtures("chunk")
def test_an_object_is_read_entry_by_entry(tmp_path_factory):
    @given(st.dictionaries(st.text(), values, max_size=5))
    def check(entries):
        file = file_of(tmp_path_factory.mktemp("object"), json.dumps(entries))
        read = list(file.object_entries())
        assert {name: value for name, _, _, value in read} == entries
        assert {name: file.entry(start, length) for name, start, length, _ in read} == entries

    check()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", r"must be JSON: a list, with one of '\[' here, got '{' \(at byte 0\)"),
        ('[{"a": 1}', r"a list, with one of ',\]' here, got 'its end' \(at byte 9\)"),
        ('[{"a": 1', "must be JSON: whole, but "),
        ('[{"a": "é', "must be JSON: whole, but "),
        ("[1] 2", r"one value, but '2' follows it \(at byte 4\)"),
        ("[] 2", "one value, but '2' follows it"),
        ("[1 2]", r"got '2' \(at byte 3\)"),
        (" ", "got 'its end'"),
        ('["\udc80"]', "must be JSON: UTF-8, but "),
    ],
)
def test_a_file_that_is_no_list_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(file_of(tmp_path, text).list_entries())


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "an object, with one of '{'"), ('{"a" 1}', "with one of ':' here"), ('{"a": 1', "its end")],
)
def test_a_file_that_is_no_object_is_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        list(file_of(tmp_path, text).object_entries())


def test_what_is_wrong_at_the_beginning_is_found_without_reading_to_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 1 << 10)
    file = file_of(tmp_path, '[{"a": 1 "b": 2}' + ', {"c": 3}' * 100_000 + "]")
    window = files._Window(file)
    window.expect("[", "a list")
    with pytest.raises(ValueError, match="whole, but Expecting ',' delimiter"):
        window.value()
    assert window._read <= 4 << 10


def test_a_missing_file_and_an_empty_one_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"nothing.json must be a JSON file, but cannot be read"):
        JsonFile(tmp_path / "nothing.json")
    (tmp_path / "empty.json").touch()
    with pytest.raises(ValueError, match=r"empty.json must be a JSON file, but cannot be read"):
        JsonFile(tmp_path / "empty.json")
