"""What Hydra makes of a sweep's command line: the runs, each as options of ``gigpo fit``.

Hydra chooses the files and expands the sweep; it merges nothing. The files go to the parser in Hydra's order and the
overrides after them, so that a preset with another ``class_path`` replaces a class as a second ``--config`` does.
"""

import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra import initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from gigpo_lightning.yaml_files import load_yaml_file, read_text_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
PRIMARIES = "sweep"  # the folder of Hydra's own
_PRESETS = ("credit",)
_LONGEST_NAME = 140
_OURS = "trainer.default_root_dir"
# Hydra would make a folder of its own in every run's, and take the logging over.
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.job.chdir=false")


@dataclass(frozen=True, slots=True, kw_only=True)
class Composition:
    """One run of a sweep.

    Attributes:
        name: Of its folder, made of its overrides.
        overrides: Key and value of each, as text; the groups ``run`` and ``credit`` among them.
        options: Of ``gigpo fit``; where the run is to write is not among them.
    """

    name: str
    overrides: Mapping[str, str]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """What a command line asks for.

    Attributes:
        folder: Of the sweep, as it was given.
        swept: Keys with several values, the slowest first.
        runs: In the order in which they are to be carried out.
        source: Hydra's primary config, the folders of configs and Hydra's own overrides, for the launcher.
        launcher: What is configured of the launcher.
        variables: Of the environment that jobs are given (``hydra.job.env_set``).
    """

    folder: Path
    swept: tuple[str, ...]
    runs: tuple[Composition, ...]
    source: "Source"
    launcher: Mapping[str, Any]
    variables: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where Hydra reads.

    Attributes:
        config_name: The primary config, ``sweep/<name>``.
        folders: Trees of configs, the first wins.
        overrides: Those that are Hydra's own.
    """

    config_name: str
    folders: tuple[Path, ...]
    overrides: tuple[str, ...] = ()

    @contextlib.contextmanager
    def open(self) -> Iterator[ConfigLoader]:
        """Hydra's loader over the folders; ``run`` is a group of every config that is neither a preset nor a primary.

        Raises:
            ValueError: If Hydra refuses something, with what it says in one line.
        """
        for name in _run_names(self.folders):
            group, _, option = f"run/{name}".rpartition("/")
            ConfigStore.instance().store(option, {}, group=group, package="_global_", provider="gigpo-sweep")
        with (
            _in_one_line(self.config_name),
            initialize_config_dir(config_dir=str(self.folders[0]), version_base="1.3", job_name="gigpo-sweep"),
        ):
            yield GlobalHydra.instance().config_loader()

    def configuration(self, loader: ConfigLoader) -> DictConfig:
        """The sweep's own configuration, of which only ``hydra`` is of use."""
        return loader.load_configuration(self.config_name, list(self._all(())), run_mode=RunMode.MULTIRUN)

    def chosen(self, loader: ConfigLoader, overrides: Sequence[str]) -> tuple[list[Any], list[Override]]:
        """The files of a run in their order, and the overrides that choose none."""
        found = loader.compute_defaults_list(self.config_name, list(self._all(overrides)), run_mode=RunMode.RUN)
        files = [each for each in found.defaults if not str(each.config_path).startswith("hydra/")]
        return files, [each for each in found.config_overrides if not each.is_hydra_override()]

    def _all(self, overrides: Sequence[str]) -> tuple[str, ...]:
        paths = json.dumps([f"file://{folder}" for folder in self.folders[1:]])
        return (f"hydra.searchpath={paths}", *_QUIET, *self.overrides, *overrides)


def compose(config_name: str, folders: Sequence[Path], words: Sequence[str], multirun: bool) -> Sweep:
    """Find out what is asked for.

    Args:
        config_name: Hydra's primary config, a file of ``sweep/`` in one of the folders.
        folders: Trees of configs beside the project's own.
        words: Hydra's overrides.
        multirun: Whether they may ask for several runs.

    Raises:
        ValueError: If Hydra refuses something, or a sweep cannot do it.
    """
    primary = f"{PRIMARIES}/{config_name}"
    trees = [CONFIGS, *(each.resolve() for each in folders)]
    trees.sort(key=lambda tree: not (tree / f"{primary}.yaml").is_file())  # Hydra looks for it in the first alone
    source = Source(config_name=primary, folders=tuple(trees))
    for folder in trees:
        if not folder.is_dir():
            raise ValueError(f"--config-dir must be a folder, and configs/ lie beside the package; {folder} is none")
    _check_defaults(trees[0] / f"{primary}.yaml", trees)
    with _naming_files(source.folders), source.open() as loader:
        parser = OverridesParser.create(config_loader=loader)
        given = parser.parse_overrides(list(words))
        ours = tuple(str(each.input_line) for each in given if each.is_hydra_override())
        source = Source(config_name=source.config_name, folders=source.folders, overrides=ours)
        configuration = source.configuration(loader)
        hydra = configuration.hydra
        if not str(hydra.sweeper.get("_target_")).endswith(".BasicSweeper"):
            raise ValueError("hydra/sweeper must be basic: every run is known and checked before the first one starts")
        if multirun:
            fixed = [f"{key}={value}" for key, value in (hydra.sweeper.get("params") or {}).items()]
            given = [*parser.parse_overrides(fixed), *given]
        choices = _choices([each for each in given if not each.is_hydra_override()], multirun)
        runs = [_run(source, loader, parser, each) for each in itertools.product(*choices.values())]
        with _resolving(configuration):
            folder = Path(str(hydra.sweep.dir))
        launcher, variables = dict(hydra.launcher), {str(name): str(value) for name, value in hydra.job.env_set.items()}
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each run must be asked for once, but {twice[0]} is asked for {names.count(twice[0])} times")
    swept = tuple(key for key in runs[0].overrides if len({run.overrides.get(key) for run in runs}) > 1)
    return Sweep(folder=folder, swept=swept, runs=tuple(runs), source=source, launcher=launcher, variables=variables)


def _choices(given: Sequence[Override], multirun: bool) -> dict[str, list[str]]:
    """Every key's overrides, one for each of its values; what is given later wins."""
    choices: dict[str, list[str]] = {}
    for override in given:
        if override.is_delete() and "." in override.key_or_group:
            raise ValueError(f"a key cannot be deleted, got {override.input_line}; null is the value of nothing")
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [str(override.input_line)]
        elif not multirun:
            raise ValueError(
                f"{override.input_line} asks for several runs, which --multirun is for; a list is {key}=[...], and "
                f"a text with commas {key}=\\'...\\'"
            )
        elif not override.is_discrete_sweep():
            raise ValueError(f"a sweep must list its values, got {override.input_line}")
        else:
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            if not choices[key]:
                raise ValueError(f"a sweep must have values, got {override.input_line}")
    return choices


def _run(source: Source, loader: ConfigLoader, parser: OverridesParser, words: Sequence[str]) -> Composition:
    given = {each.key_or_group: each for each in parser.parse_overrides(list(words))}
    names = _run_names(source.folders)
    if "run" in given and (asked := _text(given["run"].value())) not in names:
        raise ValueError(f"run must be one of {', '.join(names)}, got {asked!r}")
    files, overrides = source.chosen(loader, words)
    options: list[str] = []
    for file in files:
        options += _as_option(file, source.folders)
    for override in overrides:
        options.append(f"--{override.key_or_group}={_text(override.value())}")
        if override.package is not None:
            raise ValueError(f"a key must have no package, got {override.input_line}")
        if "${" in options[-1]:
            raise ValueError(f"a value must be written out, got {override.input_line}: nothing is interpolated")
        if override.key_or_group == _OURS:
            raise ValueError(f"{_OURS} must be left to the sweep: each run has a folder in hydra.sweep.dir")
    texts = {key: _text(each.value()) for key, each in given.items()}
    return Composition(name=folder_name(texts), overrides=texts, options=tuple(options))


def _as_option(file: Any, folders: Sequence[Path]) -> list[str]:
    """A file of the list as ``--config``: its path, or, of Hydra's own, what it holds besides Hydra's keys."""
    path = _path(file.config_path, folders)
    held = load_yaml_file(path) or {}
    mapped = isinstance(held, dict)
    kept = {key: value for key, value in held.items() if key not in ("defaults", "hydra")} if mapped else held
    package = str(file.package or "")
    # Every file is whole, as `gigpo fit --config` takes it, unless the defaults list says where it belongs.
    if package not in ("", file.config_path.rpartition("/")[0].replace("/", ".")):
        for key in reversed(package.split(".")):
            kept = {key: kept}
    elif mapped and len(kept) == len(held):
        return ["--config", str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)]
    return ["--config", json.dumps(kept)] if kept else []


def _path(config_path: str, folders: Sequence[Path]) -> Path:
    for folder in folders:
        for name in (config_path, config_path.removeprefix("run/")):
            if (path := folder / f"{name}.yaml").is_file():
                return path
    raise ValueError(f"{config_path} must be a YAML file of {' or '.join(map(str, folders))}, and is none")


def folder_name(overrides: Mapping[str, str]) -> str:
    """A name that says what a run is, whatever order it was said in, of characters that every file system takes.

    A key is its last word, unless two share it. Where something had to be left out, first the longest, eight digits of
    a hash tell what is left apart.

    Args:
        overrides: Key and value of each.

    Example:
        >>> folder_name({"run": "alfworld/tiny_cpu", "model.init_args.credit.init_args.discount": "0.9"})
        'discount=0.9,run=alfworld-tiny_cpu'
        >>> folder_name({"data.init_args.held_out_splits": "[a, b]"})
        'held_out_splits=-a-b-,557c6c86'
    """
    last = [key.rpartition(".")[2] for key in overrides]
    short = {key: key if last.count(word) > 1 else word for key, word in zip(overrides, last, strict=True)}
    pairs = sorted(f"{short[key]}={value}".replace("/", "-") for key, value in overrides.items())
    said = [re.sub(r"[^\w.=+@-]+", "-", pair, flags=re.ASCII) for pair in pairs]
    whole = said == pairs
    while len(",".join(said)) > _LONGEST_NAME:
        said.remove(max(said, key=len))
        whole = False
    if not whole:
        exact = json.dumps(dict(overrides), sort_keys=True)
        said.append(hashlib.sha256(exact.encode()).hexdigest()[:8])
    return ",".join(said) or "run"


def _run_names(folders: Sequence[Path]) -> list[str]:
    """Every config that a run can be made of."""
    paths = [path.relative_to(folder) for folder in folders for path in folder.rglob("*.yaml")]
    own = [path.with_suffix("") for path in paths if path.parts[0] not in (PRIMARIES, *_PRESETS)]
    return sorted({path.as_posix().removeprefix("run/") for path in own})


def _text(value: Any) -> str:
    """A value as the command line of ``gigpo fit`` takes it."""
    return value if isinstance(value, str) else json.dumps(value)


@contextlib.contextmanager
def _resolving(configuration: DictConfig) -> Iterator[None]:
    """Have ``${hydra:...}`` resolved by this configuration."""
    instance: Any = HydraConfig.instance()
    before = instance.cfg
    instance.cfg = configuration
    try:
        yield
    finally:
        instance.cfg = before


def _check_defaults(path: Path, folders: Sequence[Path]) -> None:
    """Refuse a group that is nowhere; with no option Hydra takes it for one that is left out.

    Raises:
        ValueError: If there is one, or the file cannot be read.
    """
    held = load_yaml_file(path) if path.is_file() else None
    if not isinstance(held, dict | None):
        raise ValueError(f"{path} must hold settings, each with its key, got {type(held).__name__} {held!r}")
    listed = held.get("defaults") if isinstance(held, dict) else None
    for entry in listed if isinstance(listed, list) else ():
        for key in entry if isinstance(entry, dict) else ():
            group = str(key).split()[-1].partition("@")[0].strip("/")
            places = [path.parent, *folders]
            if (
                group != "run"
                and not group.startswith("hydra/")
                and not any((each / group).is_dir() for each in places)
            ):
                raise ValueError(f"{path}, defaults: {key} must name a folder of configs, and none is called {group!r}")


@contextlib.contextmanager
def _naming_files(folders: Sequence[Path]) -> Iterator[None]:
    """Have a file in another encoding named, which Hydra does not."""
    try:
        yield
    except UnicodeDecodeError:
        for path in (path for folder in folders for path in folder.rglob("*.yaml")):
            read_text_file(path)
        raise


@contextlib.contextmanager
def _in_one_line(primary: str) -> Iterator[None]:
    try:
        yield
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except (HydraException, OmegaConfBaseException) as error:
        said = str(error) or str(error.__cause__)
        if said.startswith("Could not override"):
            said = f"{primary}.yaml, defaults: {said}"
        said = re.sub(r"^In '?([\w/.-]+)'?: ", r"\1.yaml, defaults: ", said)
        wanted = said.partition("Config search path:")[0].partition("See https:")[0]
        raise ValueError(" ".join(wanted.replace("\n\t", ", ").replace(":,", ":").split())) from error
