"""The whole command: every run is checked by the parser of `gigpo fit` before the first starts."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gigpo_lightning import cli
from gigpo_lightning.cli import checked_configuration
from gigpo_lightning.sweep import command
from gigpo_lightning.sweep.composition import CONFIGS, compose
from tests.sweep.runs import FAILS, FINISHES, PROGRAM

ROOT = Path(__file__).resolve().parents[2]
CREDIT = "model.init_args.credit.init_args."


class TestConfiguration:
    @pytest.mark.slow
    def test_a_preset_of_another_class_leaves_nothing_of_the_first_behind(self):
        (run,) = compose("default", (), ["credit=grpo"], False).runs
        credit = yaml.safe_load(checked_configuration(run.options))["model"]["init_args"]["credit"]
        assert credit == yaml.safe_load((CONFIGS / "credit/grpo.yaml").read_text())["model"]["init_args"]["credit"]

    @pytest.mark.slow
    def test_a_misspelt_key_is_refused_in_the_parser_s_own_words(self, caplog, monkeypatch):
        options = ["--config", "configs/gridworld_cpu.yaml", f"--{CREDIT}discuont=0.9"]
        with pytest.raises(ValueError, match="discuont is no setting of gigpo_lightning") as refused:
            checked_configuration(options)
        monkeypatch.setattr("sys.argv", ["gigpo", "fit", *options])
        with pytest.raises(SystemExit):
            cli.main()
        assert f"error: {refused.value}\n" in caplog.text

    @pytest.mark.slow
    def test_a_value_that_no_run_could_have_is_refused_before_any_has_begun(self, tmp_path):
        words = ["-m", f"{CREDIT}discount=0.9,1.5", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        with pytest.raises(
            ValueError,
            match=r"^discount=1\.5: model\.init_args\.credit\.init_args\.discount must be in \[0, 1\], got 1\.5$",
        ):
            command.carry_out(words, PROGRAM)
        assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_one_run_that_fails_does_not_take_the_others_along_and_is_all_that_is_done_again(tmp_path, capsys, caplog):
    words = ["-m", f"seed_everything={FAILS},{FINISHES}", f"hydra.sweep.dir={tmp_path}"]
    caplog.set_level("INFO")
    assert command.carry_out(words, PROGRAM) == 1
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines() if "%" in line] == [
        [str(FAILS), "failed"],
        [str(FINISHES), "finished"],
    ]
    failed = tmp_path / f"seed_everything={FAILS}"
    assert f"{failed.name} failed with exit code 2: see {failed / 'log.txt'}" in caplog.text
    assert command.carry_out(words, PROGRAM) == 1
    logs = [(tmp_path / f"seed_everything={seed}" / "log.txt").read_text() for seed in (FAILS, FINISHES)]
    assert [log.count("$ ") for log in logs] == [2, 1]
    assert {path.name for path in tmp_path.iterdir()} == {failed.name, f"seed_everything={FINISHES}", "results.csv"}


@pytest.mark.slow
def test_a_dry_run_says_what_would_be_done_and_does_none_of_it(tmp_path, caplog):
    caplog.set_level("INFO")
    folder = tmp_path / "sweep"
    assert command.carry_out([f"hydra.sweep.dir={folder}", "seed_everything=0", "--dry_run"], PROGRAM) == 0
    assert f"{folder / 'seed_everything=0'}: begins" in caplog.text
    assert not folder.exists()


@pytest.mark.slow
def test_two_runs_side_by_side_through_the_console_script(tmp_path):
    data, policy = "data.init_args.", "model.init_args.policy.init_args."
    words = [
        "run=gridworld_cpu",
        "credit=gigpo_paper,grpo",
        "trainer.max_epochs=1",
        "trainer.check_val_every_n_epoch=1",
    ]
    words += [f"{data}engine=gigpo_lightning.rollout.TransformersEngine", f"{policy}hidden_size=16"]
    words += [f"{data}tasks_per_epoch=2", f"{data}group_size=2", f"{data}max_steps=2"]
    words += ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    script = Path(sys.executable).with_name("gigpo-sweep")
    result = subprocess.run(
        [script, "-m", *words], capture_output=True, text=True, check=False, env=environment, timeout=300, cwd=ROOT
    )
    assert result.returncode == 0, result.stderr[-4000:]
    with (tmp_path / "sweep/results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["credit"], line["state"]) for line in lines] == [("gigpo_paper", "finished"), ("grpo", "finished")]
    assert all(line["valid_unseen_before"] and line["valid_unseen_after"] and line["train_success"] for line in lines)
    assert "2 of 2 runs left to do" in result.stderr
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []  # Hydra has left nothing
