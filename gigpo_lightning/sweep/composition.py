"""What a sweep's command line asks for: its runs, each as options of ``gigpo fit``.

Hydra reads ``configs/sweep/`` and expands the values. Of runs and presets it knows only the names: their files go to
the parser of ``gigpo fit``, so that a preset with another ``class_path`` replaces a class as in ``gigpo fit --config``.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import hydra
from hydra.core import config_store, global_hydra, hydra_config
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from gigpo_lightning.text import folder_name
from gigpo_lightning.yaml_files import load_yaml_file

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# Hydra would make a folder in every run's folder, and set up logging.
_QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.job.chdir=false")


@dataclass(frozen=True, kw_only=True)
class Composition:
    """One run: the name of its folder, its overrides as text, and its options of ``gigpo fit``."""

    name: str
    overrides: Mapping[str, str]
    options: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The sweep's folder, the keys with several values (the slowest first), the runs; Hydra's settings and loader."""

    folder: Path
    swept: tuple[str, ...]
    runs: tuple[Composition, ...]
    config: DictConfig
    loader: Any


def compose(config_name: str, folders: Sequence[Path], words: Sequence[str], multirun: bool) -> Sweep:
    """Find out which runs the overrides ask for, on top of a file of ``sweep/`` in one of the folders of configs.

    Raises:
        ValueError: If Hydra refuses something, or a sweep cannot do it.
    """
    trees = [CONFIGS, *(each.resolve() for each in folders)]
    for tree in trees:
        if not tree.is_dir():
            raise ValueError(f"--config-dir must be a folder, and configs/ lie beside the package; {tree} is none")
    trees.sort(key=lambda tree: not (tree / f"sweep/{config_name}.yaml").is_file())  # Hydra reads it in the first
    groups: dict[str, dict[str, Path]] = {"run": {}, "credit": {}, "sweep": {}}
    for root, path in ((tree, path) for tree in reversed(trees) for path in tree.rglob("*.yaml")):
        name = path.relative_to(root).with_suffix("").as_posix()
        group = next((each for each in ("credit", "sweep") if name.startswith(f"{each}/")), "run")
        groups[group][name.removeprefix(f"{group}/")] = path
    sweeps = groups.pop("sweep")
    if config_name not in sweeps:
        raise ValueError(f"--config-name must be one of {', '.join(sorted(sweeps))}, got {config_name!r}")
    for path in sweeps.values():
        if not isinstance(held := load_yaml_file(path), dict | None):  # Hydra is not as strict, and names no file
            raise ValueError(f"{path} must hold settings, each with its key, got {type(held).__name__} {held!r}")
    for group, name in ((group, name) for group, files in groups.items() for name in files):
        inner, _, last = f"{group}/{name}".rpartition("/")
        config_store.ConfigStore.instance().store(last, {}, group=inner, package="_global_")
    try:
        with hydra.initialize_config_dir(f"{trees[0]}/sweep", version_base="1.3", job_name="gigpo-sweep"):
            return _sweep(config_name, [f"file://{tree}/sweep" for tree in trees[1:]], words, multirun, groups)
    except (HydraException, OmegaConfBaseException) as error:
        said = (str(error) or str(error.__cause__)).partition("Config search path:")[0].partition("See https:")[0]
        raise ValueError(" ".join(said.split())) from error


def _sweep(name: str, others: list[str], words: Sequence[str], multirun: bool, groups: Mapping[str, Any]) -> Sweep:
    loader: Any = global_hydra.GlobalHydra.instance().config_loader()
    parser = OverridesParser.create(config_loader=loader)
    given = parser.parse_overrides(list(words))
    hydras = [str(each.input_line) for each in given if each.is_hydra_override()]
    fixed = [f"hydra.searchpath={json.dumps(others)}", *_QUIET, *hydras]
    config = hydra.compose(name, fixed, return_hydra_config=True)
    for key in map(str, config.hydra.runtime.choices):
        if not key.startswith("hydra/") and not loader.get_group_options(key.partition("@")[0], None, name, fixed):
            raise ValueError(f"sweep/{name}.yaml, defaults: {key} must name a folder of configs, and there is none")
    if not str(config.hydra.sweeper.get("_target_")).endswith(".BasicSweeper"):
        raise ValueError("hydra/sweeper must be basic: every run is known and checked before the first one starts")
    if multirun:
        params = config.hydra.sweeper.get("params") or {}
        given = [*parser.parse_overrides([f"{key}={value}" for key, value in params.items()]), *given]
    choices = dict(_choice(each, multirun) for each in given if not each.is_hydra_override())  # the last one wins
    runs = tuple(_run(parser.parse_overrides(list(each)), groups, config) for each in product(*choices.values()))
    names = [run.name for run in runs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"each run must be asked for once, but {twice[0]} is asked for {names.count(twice[0])} times")
    hydra_config.HydraConfig.instance().set_config(config)  # which ${hydra:...} in the folder's name refers to
    swept = tuple(key for key in choices if len({run.overrides[key] for run in runs}) > 1)
    return Sweep(folder=Path(str(config.hydra.sweep.dir)), swept=swept, runs=runs, config=config, loader=loader)


def _choice(override: Override, multirun: bool) -> tuple[str, list[str]]:
    """A key and its overrides, one for each of its values."""
    key, line = override.key_or_group, str(override.input_line)
    if override.is_delete() or override.package is not None:
        raise ValueError(f"a key cannot be deleted, or put in a package, got {line}; null is the value of nothing")
    if not override.is_sweep_override():
        return key, [line]
    if not multirun:
        raise ValueError(f"{line} asks for several runs, which --multirun is for; a list is {key}=[...]")
    values = list(override.sweep_string_iterator()) if override.is_discrete_sweep() else []
    if not values:
        raise ValueError(f"a sweep must list its values, got {line}")
    return key, [f"{key}={value}" for value in values]


def _run(given: Sequence[Override], groups: Mapping[str, Mapping[str, Path]], config: DictConfig) -> Composition:
    """One run: the files of its groups, what the sweep's file adds to them, and the overrides."""
    values = {each.key_or_group: each.value() for each in given}
    options: list[str] = []
    for group, files in groups.items():
        chosen = values.get(group, config.hydra.runtime.choices.get(group))
        if chosen is not None and str(chosen) not in files:
            raise ValueError(f"{group} must be one of {', '.join(sorted(files))}, got {chosen!r}")
        options += [] if chosen is None else ["--config", str(files[str(chosen)])]
    added = {key: value for key, value in dict(OmegaConf.to_container(config)).items() if key != "hydra"}  # type: ignore
    options += ["--config", json.dumps(added)] if added else []
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}
    for key, text in texts.items():
        if "${" in text:
            raise ValueError(f"a value must be written out, got {key}={text}: nothing is interpolated")
        if key == "trainer.default_root_dir":
            raise ValueError(f"{key} must be left to the sweep: each run has a folder in hydra.sweep.dir")
    options += [f"--{key}={text}" for key, text in texts.items() if key not in groups]
    return Composition(name=folder_name(texts), overrides=texts, options=tuple(options))
