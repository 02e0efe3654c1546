"""YAML that another reader would pass over in silence is refused, with file and line."""

import pytest

from gigpo_lightning.yaml_files import load_yaml_file


@pytest.fixture
def refused(tmp_path):
    """What is said of a file of that content, after its name."""
    path = tmp_path / "run.yaml"

    def said(content: bytes) -> str:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="must be") as error:
            load_yaml_file(path)
        assert "\n" not in str(error.value)
        assert str(error.value).startswith(str(path))
        return str(error.value).removeprefix(f"{path} must be ")

    return said


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: 1\nb: 2\na: 3\n", "a YAML file: line 3, column 1: the key 'a' stands twice, first in line 1"),
        (b"a:\n  b: 1\n  b: 1\n", "line 3, column 3: the key 'b' stands twice, first in line 2"),
        (b"a: [{b: 1, b: 2}]\n", "the key 'b' stands twice"),
        (b"a: &x [*x]\n", "line 1, column 4: an alias must not stand within its own anchor"),
        (b"? [a]\n: 1\n", "a key must be a word"),
        (b"a: *x\n", "line 1, column 4: found undefined alias"),
        (b"a: [1\n", "line 2, column 1: "),
        (b"a: 1\n--- \nb: 1\n", "line 2, column 1: expected a single document"),
        (b"a: 1\nb: \0\n", "line 2: the character #x0000 is none of a text"),
        (b"a: 2020-13-45\n", "a YAML file: month must be in 1..12"),
        (b"[" * 200 + b"]" * 200, "a value must be at most 100 levels deep"),
        (b"!!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: 1\nb: é\n".encode("latin-1"), "a text file in UTF-8, but line 2 has the byte 0xe9"),
        ("a: 1\n".encode("utf-16"), "a text file in UTF-8, but is in UTF-16"),
        ("a: 1\n".encode("utf-32"), "a text file in UTF-8, but is in UTF-32"),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(refused, content, expected):
    assert expected in refused(content)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    (tmp_path / "run.yaml").write_bytes("a: é\n".encode("utf-8-sig"))
    assert load_yaml_file(tmp_path / "run.yaml") == {"a": "é"}


def test_a_merged_key_may_be_given_again(tmp_path):
    (tmp_path / "run.yaml").write_text("a: &x {k: 1, l: 2}\nb: {<<: *x, k: 3}\n")
    assert load_yaml_file(tmp_path / "run.yaml")["b"] == {"k": 3, "l": 2}
