"""What the documents say can be done, can be done."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.check_command import carry_out as check_environment
from gigpo_lightning.cli import build_cli
from gigpo_lightning.engines.vllm_server.command import server_command
from gigpo_lightning.rollout.store import write_trajectories
from gigpo_lightning.sweep.command import command_line
from gigpo_lightning.sweep.composition import compose
from gigpo_lightning.trajectory import StepTable
from tests.documents import DOCUMENTS, ROOT, SHELLS, Desk, blocks, commands, files
from tests.episodes import group, step, trajectory

CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
SUBCOMMANDS = {"fit", "validate", "test", "predict", "export", "check-environment"}
LINK = re.compile(r"\[[^\]]*\]\((?!https?:|#|mailto:)([^)#\s]+)[^)]*\)")
TRAINED = Path("runs/alfworld_tiny/lightning_logs/version_0/trajectories/epoch_69.parquet")
"""What a reader has once the quickstart has trained."""
EPISODES = [group(trajectory(step(reward=10.0), success=True), trajectory(step(), step(), episode_index=1))]
every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def named(program: str) -> list[list[str]]:
    """Every command of a program in any document."""
    return [words for document in DOCUMENTS for words in commands(program, document)]


def test_every_make_target_in_the_documents_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    used = {word for words in named("make") for word in words if "=" not in word}
    assert {"train", "test"} <= used
    assert used - targets == set()


def test_every_target_of_the_makefile_is_in_its_help() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^([a-z-]+):.*## \w", makefile, re.MULTILINE)) == targets


def test_every_subcommand_in_the_documents_exists() -> None:
    used = {words[0] for words in named("gigpo") if words and not words[0].startswith("-")}
    assert "fit" in used
    assert used <= SUBCOMMANDS


def test_every_server_command_in_the_documents_is_one() -> None:
    servers = named("gigpo-server")
    assert servers
    assert all(server_command(words)[0][-4] == "--host" for words in servers)


@pytest.mark.slow
def test_every_sweep_in_the_documents_composes() -> None:
    sweeps = named("gigpo-sweep")
    assert sweeps
    for words in sweeps:
        arguments = command_line().parse_intermixed_args(words)
        assert compose(arguments.config_name, arguments.config_dir, arguments.overrides, arguments.multirun).runs


def test_every_config_in_the_documents_exists() -> None:
    used = {name for document in DOCUMENTS for name in re.findall(r"configs/[\w./-]+\.yaml", document.read_text())}
    used -= {"configs/gridworld.yaml"}  # one of the mistakes that benchmarks/mistakes.py makes
    assert sorted(name for name in used if not (ROOT / name).is_file()) == []


def test_every_test_that_a_document_names_exists() -> None:
    used = {name for document in DOCUMENTS for name in re.findall(r"`(test_[a-z_0-9]+)`", document.read_text())}
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(used) > 10
    used -= {"test_splits"}  # a key of the configuration
    assert sorted(name for name in used if f"def {name}(" not in sources) == []


def test_every_config_is_in_the_documents() -> None:
    texts = "\n".join(document.read_text() for document in DOCUMENTS)
    assert [str(config) for config in CONFIGS if config.relative_to(ROOT).as_posix() not in texts] == []


@every_document
def test_every_link_leads_to_a_file(document: Path) -> None:
    assert [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()] == []


@every_document
def test_every_link_within_a_page_leads_to_a_heading(document: Path) -> None:
    text = document.read_text()
    headings = [re.sub(r"[^\w\- ]", "", line.lower()) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)]
    known = {heading.replace(" ", "-") for heading in headings}
    assert [link for link in re.findall(r"\]\(#([^)]+)\)", text) if link not in known] == []


@pytest.fixture
def desk(document: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Sit where a reader of the document sits, its files written down."""
    desk = Desk(document, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["gigpo"])
    yield desk
    desk.forget()


@every_document
def test_the_python_of_a_document_runs_from_top_to_bottom(document: Path, desk: Desk) -> None:
    write_trajectories(TRAINED, EPISODES, GiGPO().estimate(StepTable.from_groups(EPISODES)))
    namespace: dict[str, object] = {"__name__": "__document__"}
    for code in blocks(document, "python"):
        if code not in desk.names.values() and "Trainer(" not in code:  # test_learning trains
            exec(compile(code, str(document), "exec"), namespace)


@every_document
def test_the_shell_of_a_document_is_bash(document: Path) -> None:
    for code in blocks(document, *SHELLS):
        checked = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, check=False)
        assert not checked.stderr, code


@every_document
def test_every_program_in_the_virtual_environment_is_there(document: Path) -> None:
    used = {name for code in blocks(document, *SHELLS) for name in re.findall(r"\.venv/bin/([\w.-]+)", code)}
    optional = {"alfworld-download"} if importlib.util.find_spec("alfworld") is None else set()
    assert {name for name in used - optional if not Path(sys.executable).with_name(name).exists()} == set()


def printed(*words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    """What the command line prints of a command instead of carrying it out; it has to end well."""
    asks = any(word.endswith("help") or word == "--print_config" for word in words)
    with pytest.raises(SystemExit) as stop:
        build_cli([*words] if asks else [*words, "--print_config"])
    assert stop.value.code == 0, words
    output = capsys.readouterr().out
    return output if asks else yaml.safe_load(output)


@every_document
@pytest.mark.slow
def test_every_command_of_a_document_is_understood(
    document: Path, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in dict.fromkeys(map(tuple, commands("gigpo", document))):
        if set(words[3:]) - {"--ckpt_path", "last"} or words[1] != "--config":  # other tests parse a config alone
            printed(*words, capsys=capsys)


@pytest.mark.slow
@every_document
def test_the_yaml_of_a_document_goes_on_top_of_a_config(
    document: Path, desk: Desk, capsys: pytest.CaptureFixture[str]
) -> None:
    named_in_commands = {word for words in commands("gigpo", document) for word in words}
    for number, code in enumerate(blocks(document, "yaml")):
        if not named_in_commands & {name for name, text in desk.names.items() if text == code}:
            Path(f"block_{number}.yaml").write_text(code)
            configs = ["--config", "configs/gridworld_cpu.yaml", "--config", f"block_{number}.yaml"]
            assert printed("fit", *configs, capsys=capsys)["model"]


QUICK = ["--trainer.max_epochs", "1", "--trainer.num_sanity_val_steps", "0", "--trainer.check_val_every_n_epoch", "1"]
QUICK += ["--data.init_args.engine", "gigpo_lightning.rollout.TransformersEngine"]
QUICK += ["--data.init_args.tasks_per_epoch", "4", "--data.init_args.group_size", "4"]
QUICK += ["--data.init_args.held_out_tasks", "4"]
OWN = [document for document in DOCUMENTS if any(name.endswith(".py") for name in files(document))]


@pytest.fixture
def one_thread():
    """Contended, two threads are many times slower than one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("document", OWN, ids=lambda path: path.name)
def test_what_a_document_brings_along_trains(document: Path, desk: Desk) -> None:
    """An epoch of every command that names a file of the document's, on a CPU and without vLLM."""
    own = [name.removesuffix(".py") for name in desk.names]
    used = [words for words in commands("gigpo", document) if any(name in word for name in own for word in words)]
    for words in [words for words in used if words[0] == "check-environment"]:
        assert check_environment(words[1:]) == 0
        used.remove(words)
    trained = [words for words in used if not any("qwen" in word for word in words)]
    assert trained
    for words in trained:
        build_cli([*words, *QUICK])
        (log_dir,) = Path("runs").glob("*/lightning_logs/version_0")
        steps = pq.read_table(log_dir / "trajectories" / "epoch_0.parquet")
        assert len(set(steps["trajectory_id"].to_pylist())) == 16
        assert np.abs(steps["advantage"].to_numpy()).max() > 0
        evaluated = (log_dir / "evaluations.jsonl").read_text().splitlines()
        assert len(evaluated) == 4
        assert json.loads(evaluated[0])["policy_version"] > 0  # something was learnt from


def test_both_ways_of_bringing_something_along_are_tried() -> None:
    assert {document.name for document in OWN} >= {"environment.md", "credit.md"}


def test_an_environment_is_forty_lines_without_its_name() -> None:
    (code,) = [code for code in files(ROOT / "docs" / "environment.md").values() if "gymnasium.Env" in code]
    assert len(code.splitlines()) - 1 <= 40
