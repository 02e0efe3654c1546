"""How the command line reads what ``--config`` names: strictly, and with the file's name in what it refuses."""

import dataclasses
import inspect
import re
from argparse import ArgumentError
from pathlib import Path
from pydoc import locate
from typing import Any

import jsonargparse
import yaml
from jsonargparse import Namespace
from jsonargparse._actions import ActionConfigFile

from gigpo_lightning.complaints import config_nodes, parser_complaint, shortened
from gigpo_lightning.suggestions import did_you_mean
from gigpo_lightning.yaml_files import check_yaml, load_yaml_file

_OF_CLASS = ("class_path", "init_args", "dict_kwargs")
_UNKNOWN_OPTION = re.compile(r"(?:unrecognized arguments: --|does not accept option ')([\w.]+)")
_load = jsonargparse.get_loader("yaml")


def strict_load(text: str) -> Any:
    """What jsonargparse's own loader makes of a text that ``check_yaml`` does not refuse."""
    if ":" in text or "&" in text:
        check_yaml(text)
    return _load(text)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, and a word of an enumeration is a word: such as the default of Lightning's ``Timer``."""


_Dumper.add_multi_representer(str, lambda dumper, word: dumper.represent_str(str.__str__(word)))


def _dump(settings: Any) -> str:
    """Settings as YAML, in the form of jsonargparse's own dumper."""
    return yaml.dump(settings, Dumper=_Dumper, default_flow_style=False, allow_unicode=True, sort_keys=False)


jsonargparse.set_loader("yaml", strict_load, (yaml.YAMLError, UnicodeDecodeError))
jsonargparse.set_dumper("yaml", _dump)


class StrictConfigFile(ActionConfigFile):
    """``--config``, of which a file is looked at before the parser reads it."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Add what the file holds to the configuration.

        Raises:
            ValueError: If the file is not what the parser can read, or holds no settings; the message names it.
        """
        inline = (
            not isinstance(values, str) or any(each in values for each in ("\n", "{", ": ", "://")) or values == "-"
        )
        if not inline:  # else they are settings, standard input or an address
            _check_file(Path(values), known_options([parser]))
        try:
            self.apply_config(parser, namespace, self.dest, values if inline else self.chosen(values))
        except (TypeError, KeyError, ArgumentError) as error:
            name = shortened(values) if inline else Path(values)
            raise ValueError(f"{name}: {parser_complaint(str(error))}") from error

    def chosen(self, path: str) -> str:
        """What the parser takes of a file: its path, or a part of it as YAML."""
        return path


def add_config_option(parser: jsonargparse.ArgumentParser) -> None:
    """Give a parser the option ``--config``."""
    parser.add_argument("-c", "--config", action=StrictConfigFile, help="A YAML file; a later one goes on top.")


def known_options(parsers: list[Any]) -> list[str]:
    """The keys that the command line takes one by one, those of its subcommands too."""
    known: list[str] = []
    for parser in parsers:
        known += [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
        subcommands = parser._subcommands_action
        known += known_options(list(subcommands.choices.values())) if subcommands else []
    return known


def _check_file(path: Path, known: list[str]) -> None:
    if path.is_dir():
        raise ValueError(f"--config must name a YAML file, got the folder {str(path)!r}")
    if not path.exists():
        raise ValueError(f"--config must name a YAML file, got {str(path)!r}, which is not there")
    held = load_yaml_file(path)
    if not isinstance(held, dict):
        raise ValueError(no_section(str(path), held))
    _check_classes(path, held)
    for section in ("trainer", "model", "data"):
        if section in held and not isinstance(held[section], dict | str):
            raise ValueError(f"{path}: {no_section(section, held[section])}")
    for key in held["trainer"] if isinstance(held.get("trainer"), dict) and "trainer.max_epochs" in known else ():
        if (name := f"trainer.{key}".removesuffix("+")) not in known:
            raise ValueError(f"{path}: {name} is no setting of the Trainer{did_you_mean(name, known)}")


def _check_classes(path: Path, held: dict[str, Any]) -> None:
    """Refuse what no class takes, which the parser would call a class of another kind."""
    for key, node in config_nodes(held):
        if "class_path" not in node:
            continue
        if not isinstance(node["class_path"], str):
            given = "nothing" if node["class_path"] is None else shortened(node["class_path"])
            raise ValueError(f"{path}: {key}.class_path must be the import path of a class, got {given}")
        if beside := [each for each in node if each not in _OF_CLASS]:
            raise ValueError(f"{path}: {key}.{beside[0]} is no setting: beside a class_path stand its init_args alone")
        if not isinstance(node.get("init_args", {}), dict):
            raise ValueError(f"{path}: {no_section(f'{key}.init_args', node['init_args'])}")


def no_section(key: str, value: Any) -> str:
    """What is said where a key such as ``trainer`` holds no settings."""
    given = "nothing" if value is None else f"{type(value).__name__} {shortened(value)}"
    rest = "; leave the key out for its defaults" if key == "trainer" else ""
    return f"{key} must hold settings, each with its key, got {given}{rest}"


def with_near_words(said: str, parser: Any) -> str:
    """What the parser says of an unknown option, and the nearest that it knows."""
    if match := _UNKNOWN_OPTION.search(said):
        return said + did_you_mean(match[1], known_options([parser]))
    return said


def refuse_nothing(parser: Any, config: Namespace) -> None:
    """Refuse keys that are left empty although nothing is no value that they may have.

    Raises:
        ValueError: If there is one; the message names it.
    """
    jsonargparse.set_parsing_settings(unset_sentinel=True)
    try:
        parser.validate(config)
    except (TypeError, KeyError, ArgumentError) as error:
        raise ValueError(parser_complaint(str(error))) from error
    finally:
        jsonargparse.set_parsing_settings(unset_sentinel=False)
    for key, node in config_nodes(config):
        _check_groups(key, node)


def _check_groups(key: str, node: Namespace | dict[str, Any]) -> None:
    """Refuse a list or a word where a class wants a group of settings: the parser leaves that to the constructor."""
    made, given = locate(str(node.get("class_path"))), node.get("init_args")
    if not callable(made) or not isinstance(given, Namespace):
        return
    for name, parameter in inspect.signature(made).parameters.items():
        grouped = dataclasses.is_dataclass(parameter.default)
        if grouped and name in given and not isinstance(given[name], Namespace):
            raise ValueError(no_section(f"{key.partition('.')[2]}.init_args.{name}", given[name]))
