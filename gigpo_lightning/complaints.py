"""What is wrong with a configuration, in one line that begins with the full key."""

import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from pydoc import locate
from typing import Any

from gigpo_lightning.suggestions import did_you_mean, missing_methods, near_class, near_setting

_LONGEST = 120  # characters of a value in a message
_NESTED = re.compile(r'Parser key "(?P<key>[^"]+)":|Problem with given class_path \'(?P<class>[^\']+)\':')
_CALLABLE = re.compile(r"^Type .*? expects a function or a callable class: ")
_EXPECTED = re.compile(r"^Expected an? <class '(?:\w+\.)*(\w+)'>\.?$")
_ONE_OF = re.compile(r"^Expected an? typing\.Literal\[(.*)\]$")
_NO_PATH = "Expected a path but "  # said of every value that could also have been a file's name
_NO_SUBCLASS = "Not a valid subclass"
_ARGUMENT = re.compile(r"^'?([A-Za-z_]\w*)((?:\.\w+)*)'?(?=[\s=:,])")
_UNKNOWN = re.compile(r"^(?:Option '([^']+)' is not accepted|Group '(.*)' does not accept option '(.+)')$")
_MISSING = re.compile(r"^the following arguments are required: (.+)$")
_NO_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)$")
_IMPORTED = re.compile(r"^Import path (\S+) ")
_NO_PROTOCOL = re.compile(r"^Import path (\S+) does not implement protocol (\w+)$")
_CLASS_PATH = re.compile(r"class_path'?[=:] ?'([^']*)'")
_NO_CLASS = re.compile(r"^(?:\{(?!'class_path')|Namespace\((?!class_path))")
_LINK = re.compile(r"^Call to compute_fn of link '.*?' with args .* failed: ")
# Of the class itself, not of its arguments.
_OF_CLASS = ("module ", "No module named", "Import path ", "cannot import name", _NO_SUBCLASS)
# What the parser says around the one thing that is wrong: it lists every type that a value might have had.
_AROUND = (
    "Does not validate",
    "Subtypes:",
    "Errors:",
    "Subclass types expect one of:",
    "a class path (str)",
    "a dict with",
    "Given value type:",
)


def parser_complaint(text: str) -> str:
    """What jsonargparse says in ten lines or more, in one.

    It tries every type that a value might have; of these the first is the one that is meant, and the others are left
    out.

    Example:
        >>> parser_complaint('''Parser key "data":
        ...   Problem with given class_path 'datamodules.RolloutDataModule':
        ...     Parser key "group_size":
        ...       Expected a <class 'int'>. Got value: None''')
        'data.init_args.group_size must be int, got None'
    """
    text = _LINK.sub("", text)
    if choice := _NO_CHOICE.search(text):
        return text + did_you_mean(choice[1], re.findall(r"'(\w+)'", choice[2]))
    found = _Findings()
    for line in text.splitlines():
        if not found.read(line):
            break
    return found.said()


class _Findings:
    """What has been read of a message of the parser's: a key, the value that was given, and what is wrong with it."""

    def __init__(self) -> None:
        self.path: list[str] = []
        self.leaves: list[str] = []
        self.no_path = ""
        self.value = ""
        self._class = ""
        self._indent = 0

    def read(self, line: str) -> bool:
        """Take in a line; whether the next is of the same thing."""
        text, indent = line.strip().removeprefix("- "), len(line) - len(line.lstrip())
        if text.startswith("Given value:"):
            self.value = self.value or text.removeprefix("Given value:").partition(". Got value: ")[0].strip()
            return not self.leaves
        while match := _NESTED.match(text) or _CALLABLE.match(text):
            if self.leaves:
                return False
            self._descend(match)
            text = text[match.end() :].strip()
        if not text or text.startswith(_AROUND):
            return True
        if self.leaves and indent < self._indent:
            return False
        text, _, value = text.partition(". Got value: ")
        self.value = self.value or value.strip()
        if text.startswith(_NO_PATH):
            self.no_path = self.no_path or text
            return True
        self._indent = self._indent if self.leaves else indent
        self.leaves.append(text)
        return True

    def _descend(self, match: re.Match[str]) -> None:
        named = match.groupdict()
        if named.get("class"):
            self._class = named["class"]
        elif named.get("key"):
            if self._has_arguments() or (self.path and self.path[-1] == ""):
                self.path.append("init_args")
            self.path = [each for each in self.path if each]
            self.path.append(named["key"])
            self._class = ""
        else:
            self.path.append("")  # a class that makes something: what follows is of its arguments

    def _has_arguments(self) -> bool:
        """Whether what follows is under ``init_args``; of a dataclass it is not."""
        return bool(self._class) and not dataclasses.is_dataclass(locate(self._class))

    def said(self) -> str:
        """All of it in one line."""
        deferred = "" in self.path
        path = [each for each in self.path if each]
        key = ".".join(path)
        if not key:
            without = (_NO_SUBCLASS, "Expected a <class 'NoneType'>")
            leaves = [each for each in self.leaves if not each.startswith(without)] or self.leaves
            return " ".join(leaves) or self.no_path
        leaves = [each for each in self.leaves if "NoneType" not in each] or self.leaves
        leaves = [each for each in leaves if not each.startswith(_NO_SUBCLASS)] or leaves
        first = leaves[0] if leaves else self.no_path or "cannot be read"
        inside = f"{key}.init_args" if self._has_arguments() or deferred else key
        if unknown := _UNKNOWN.match(first):
            of, setting = f" of {self._class}" if self._class else "", ".".join(filter(None, unknown.groups()))
            return f"{inside}.{setting} is no setting{of}{near_setting(self._class, setting)}"
        if missing := _MISSING.match(first):
            return f"{inside}.{missing[1]} must be given"
        kinds = [match[1] for each in leaves if (match := _EXPECTED.match(each))]
        if values := ", ".join(match[1] for each in leaves if (match := _ONE_OF.match(each))):
            kinds.append(f"one of {values}")
        if kinds:
            return f"{key} must be {' or '.join(dict.fromkeys(kinds))}, got {shortened(self.value)}"
        if first.startswith(_NO_SUBCLASS) and _NO_CLASS.match(self.value):
            return f"{key} must have a class_path: {first}, got {shortened(self.value)}"
        if first.startswith(_OF_CLASS):
            named = _CLASS_PATH.search(self.value)
            imported = _IMPORTED.match(first)
            value = self._class or (named[1] if named else self.value or (imported[1] if imported else ""))
            return (
                f"{key}.class_path must name what can be used there, got {shortened(value)}: {_of_class(first, value)}"
            )
        return f"{key}: {'; '.join(leaves) or first}" + (f", got {shortened(self.value)}" if self.value else "")


def _of_class(said: str, class_path: str) -> str:
    """What is wrong with a class, and what might be meant."""
    if match := _NO_PROTOCOL.match(said):
        lacking = missing_methods(match[1], match[2])
        return f"{said}: {lacking}" if lacking else said
    return said if said.startswith(("Import path ", _NO_SUBCLASS)) else said + near_class(class_path)


def shortened(value: Any) -> str:
    """A value as a message shows it."""
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split()) or "nothing"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def constructor_complaint(error: BaseException, made: Callable[..., Any], given: Mapping[str, Any], key: str) -> str:
    """What the constructor ``made`` refused of the arguments ``given``, with the argument's full key below ``key``.

    Example:
        >>> def play(group_size: int) -> None: ...
        >>> constructor_complaint(ValueError("group_size must be >= 2, got 1"), play, {}, "data.init_args")
        'data.init_args.group_size must be >= 2, got 1'
    """
    said = " ".join(str(error).split()) or type(error).__name__
    first = _ARGUMENT.match(said)
    owner = key.removesuffix(".init_args").rpartition(".")[2]
    if first and first[1] == owner and first[2]:  # a message such as "deadlines.step must be"
        return f"{key}{first[2]}{said[first.end() :]}"
    parameters = inspect.signature(made).parameters
    names = {*parameters, *given}
    if first and first[1] in names:
        return f"{key}.{said}"

    def is_said(value: Any) -> bool:
        return re.search(rf"(?<![\w.]){re.escape(str(value))}(?![\w.])", said) is not None

    mentioned = [name for name in names if re.search(rf"\b{name}\b", said)]
    if not mentioned:
        mentioned = [name for name, value in given.items() if any(map(is_said, _flat(value)))]
    if len(mentioned) == 1:
        return f"{key}.{mentioned[0]}: {said}"
    settings = ", ".join(
        f"{name} {shortened(value)}"
        for name, value in given.items()
        if isinstance(value, bool | int | float | str)
        and not (name in parameters and repr(parameters[name].default) == repr(value))
    )
    return f"{key} of {getattr(made, '__name__', made)}{f' ({settings})' if settings else ''}: {said}"


def _flat(value: Any) -> Iterator[Any]:
    """The numbers and words of a value."""
    if isinstance(value, list | tuple):
        for each in value:
            yield from _flat(each)
    elif isinstance(value, int | float | str) and not isinstance(value, bool) and str(value):
        yield value


def with_section(said: str, made: Callable[..., Any], section: str) -> str:
    """The message; if it begins with an argument of the class, with the full key.

    Example:
        >>> def train(optimizer: object) -> None: ...
        >>> with_section("optimizer.init_args.lr must be >= 0", train, "model.init_args")
        'model.init_args.optimizer.init_args.lr must be >= 0'
    """
    first = _ARGUMENT.match(said)
    return f"{section}.{said}" if first and first[1] in inspect.signature(made).parameters else said


def find_key(configuration: Any, made: Callable[..., Any], given: Mapping[str, Any]) -> str:
    """The full key of the arguments that an object is made from; nothing if they cannot be found.

    Arguments that are objects themselves are not compared.
    """
    name = getattr(made, "__name__", "")
    plain = {key: repr(value) for key, value in given.items() if isinstance(value, bool | int | float | str)}
    found = ""
    for key, node in config_nodes(configuration):
        class_path = node.get("class_path")
        arguments = node.get("init_args") if class_path else node
        if not isinstance(class_path, str | None) or not hasattr(arguments, "keys"):
            continue
        if class_path is not None and class_path.rpartition(".")[2] != name:
            continue
        held = _children(arguments)
        if class_path is None and (not given or held.keys() != given.keys()):
            continue
        here = f"{key}.init_args" if class_path else key
        found = found or here
        if all(repr(held.get(each)) == value for each, value in plain.items()):
            return here
    return found


def config_nodes(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every namespace of a configuration, with its key."""
    if isinstance(value, list | tuple):
        for index, each in enumerate(value):
            yield from config_nodes(each, f"{key}[{index}]")
    elif hasattr(value, "keys"):
        yield key, value
        for name, each in _children(value).items():
            yield from config_nodes(each, f"{key}.{name}" if key else name)


def _children(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, dict) else dict(vars(value))
