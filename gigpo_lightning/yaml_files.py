"""A user's YAML files, read strictly: a key that stands twice is refused, with file and line."""

import codecs
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

_MERGE = "tag:yaml.org,2002:merge"
_BOMS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # begins as UTF-16's does
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_DEEPEST = 100
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def load_yaml_file(path: str | Path) -> Any:
    """What a YAML file holds.

    Raises:
        ValueError: If it is not UTF-8 or not YAML, names a key twice, or holds itself; the message names the file.
        OSError: If it cannot be read.
    """
    text = read_text_file(path)
    try:
        check_yaml(text)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError) as error:  # such as a date that is none
        said = in_one_line(error, text) if isinstance(error, yaml.YAMLError) else error
        raise ValueError(f"{path} must be a YAML file: {said}") from error


def read_text_file(path: str | Path) -> str:
    """The text of a file in UTF-8, without the mark that some editors begin it with.

    Raises:
        ValueError: If it has another encoding; the message names the file and the line.
        OSError: If it cannot be read.
    """
    content = Path(path).read_bytes()
    for mark, encoding in _BOMS.items():
        if content.startswith(mark):
            raise ValueError(f"{path} must be a text file in UTF-8, but is in {encoding}; save it in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{path} must be a text file in UTF-8, but line {line} has the byte 0x{content[error.start]:02x}, which is "
            "none of it; save it in UTF-8"
        ) from error


def check_yaml(text: str) -> None:
    """Refuse a document in which a key stands twice, or a value holds itself.

    Of a key that stands twice PyYAML takes the last, and says nothing.

    Raises:
        yaml.YAMLError: If it is so, or the text is no YAML.
    """
    root = yaml.compose(text, Loader=_Loader)
    if root is not None:
        _check_node(root, (), set())


def in_one_line(error: yaml.YAMLError, text: str = "") -> str:
    """What is wrong with a document and in which line, counted from 1."""
    mark = getattr(error, "problem_mark", None)
    if isinstance(error, yaml.reader.ReaderError):
        line = text.count("\n", 0, error.position) + 1
        return f"line {line}: the character #x{error.character:04x} is none of a text"
    if mark is None:
        return " ".join(str(error).split())
    said = ", ".join(each for each in (getattr(error, "context", None), getattr(error, "problem", None)) if each)
    return f"line {mark.line + 1}, column {mark.column + 1}: {said}"


def _check_node(node: Node, above: tuple[Node, ...], checked: set[int]) -> None:
    if len(above) > _DEEPEST:
        raise ConstructorError(None, None, f"a value must be at most {_DEEPEST} levels deep", node.start_mark)
    if any(each is node for each in above):
        raise ConstructorError(None, None, "an alias must not stand within its own anchor", node.start_mark)
    if id(node) in checked or isinstance(node, ScalarNode):
        return
    checked.add(id(node))
    if isinstance(node, MappingNode):
        _check_keys(node)
    children = node.value if isinstance(node, SequenceNode) else [each for pair in node.value for each in pair]
    for child in children:
        _check_node(child, (*above, node), checked)


def _check_keys(node: MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, ScalarNode):
            raise ConstructorError(None, None, "a key must be a word, not a list or a mapping", key.start_mark)
        name = (key.tag, key.value)
        if name in lines and key.tag != _MERGE:
            said = f"the key {key.value!r} stands twice, first in line {lines[name]}; leave one of them out"
            raise ConstructorError(None, None, said, key.start_mark)
        lines[name] = key.start_mark.line + 1
