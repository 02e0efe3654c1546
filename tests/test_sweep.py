"""A sweep composes its runs from the configs of `gigpo fit`, checks all, carries each out once, and compares them."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from gigpo_lightning import cli
from gigpo_lightning.sweep import command
from gigpo_lightning.sweep.composition import CONFIGS, compose, folder_name
from gigpo_lightning.sweep.configuration import configured
from gigpo_lightning.sweep.launch import Launch, threads
from gigpo_lightning.sweep.run import Record, Run, State, Task, begin
from gigpo_lightning.sweep.table import Row, cells_table, held_out, row, runs_table, training, write_csv
from tests.sweep_process import start, start_run

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, str(Path(__file__).with_name("sweep_program.py")))
FINISHES, FAILS, STOPS, HANGS = range(4)
CREDIT = "model.init_args.credit.init_args."


@pytest.fixture(autouse=True)
def _in_the_checkout(monkeypatch):
    monkeypatch.chdir(ROOT)


def composed(*words: str, config_name: str = "default", multirun: bool = True, folders=()):
    return compose(config_name, folders, words, multirun)


class TestComposition:
    def test_a_sweep_is_every_combination_of_its_values_in_the_order_given(self):
        sweep = composed("credit=gigpo_paper,grpo", "seed_everything=range(2)")
        assert [run.name for run in sweep.runs] == [
            "credit=gigpo_paper,seed_everything=0",
            "credit=gigpo_paper,seed_everything=1",
            "credit=grpo,seed_everything=0",
            "credit=grpo,seed_everything=1",
        ]
        assert sweep.swept == ("credit", "seed_everything")

    def test_files_go_to_the_parser_in_their_order_and_overrides_last(self):
        (run,) = composed("data.init_args.sampling={temperature: 0.5}", "credit=grpo", "run=alfworld/tiny_cpu").runs
        assert run.options == (
            *("--config", "configs/alfworld/tiny_cpu.yaml", "--config", "configs/credit/grpo.yaml"),
            '--data.init_args.sampling={"temperature": 0.5}',
        )

    def test_a_sweep_can_be_written_down_and_what_is_said_goes_on_top(self):
        runs = composed("credit=rloo", "trainer.max_epochs=7", config_name="gridworld").runs
        assert [run.overrides["seed_everything"] for run in runs] == ["0", "1", "2"]
        assert runs[0].options == (
            *("--config", "configs/gridworld_cpu.yaml", "--config", "configs/credit/rloo.yaml"),
            *("--config", '{"trainer": {"max_epochs": 20}}', "--seed_everything=0", "--trainer.max_epochs=7"),
        )

    def test_configs_of_one_s_own_are_found_beside_the_project_s(self, tmp_path):
        for name in ("mine", "sweep/mine", "credit/mine", "optimizer/slow"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.yaml").write_text("{}\n")
        where = "/optimizer@model.init_args.optimizer: slow"
        primary = f"# @package _global_\ndefaults: [/run: mine, /credit: mine, {where}]\n"
        (tmp_path / "sweep/mine.yaml").write_text(primary)
        (tmp_path / "optimizer/slow.yaml").write_text("init_args: {lr: 1.0e-3}\n")
        (run,) = composed(config_name="mine", folders=[tmp_path]).runs
        inner = '{"model": {"init_args": {"optimizer": {"init_args": {"lr": 0.001}}}}}'
        files = (str(tmp_path / "mine.yaml"), str(tmp_path / "credit/mine.yaml"), inner)
        assert run.options == tuple(word for file in files for word in ("--config", file))

    def test_hydra_s_own_settings_are_no_part_of_a_run(self):
        sweep = composed("hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "hydra.sweep.dir=a b")
        assert sweep.folder == Path("a b")
        assert sweep.launcher["n_jobs"] == 3
        assert sweep.runs[0].options == ("--config", "configs/gridworld_cpu.yaml")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (("credit=grppo",), "Could not find 'credit/grppo' Available options in 'credit': gigpo_paper, "),
            (("run=alfworld/tiny",), "run must be one of alfworld/qwen2.5_1.5b, "),
            (("hydra/launcher=dask",), "Could not find 'hydra/launcher/dask' Available options"),
            (("hydra.launcher.n_jobs=2",), "Could not override 'hydra.launcher.n_jobs'"),
            (("max_epochs",), "max_epochs"),
            (("seed_everything=interval(0,1)",), "a sweep must list its values, got seed_everything=interval(0,1)"),
            (("seed_everything=1,1",), "each run must be asked for once, but seed_everything=1 is asked for 2 times"),
            (("trainer.default_root_dir=x",), "trainer.default_root_dir must be left to the sweep"),
            (("seed_everything=${oc.env:SEED}",), "a value must be written out, got seed_everything=${oc.env:SEED}"),
            (("~trainer.callbacks",), "a key cannot be deleted, got ~trainer.callbacks"),
        ],
        ids=lambda value: value[0] if isinstance(value, tuple) else "",
    )
    def test_what_is_wrong_is_said_in_one_line(self, words, expected):
        with pytest.raises(ValueError, match=r"^[^\n]*$") as refused:
            composed(*words)
        assert expected in str(refused.value)

    def test_several_values_need_multirun(self):
        with pytest.raises(ValueError, match="seed_everything=1,2 asks for several runs, which --multirun is for"):
            composed("seed_everything=1,2", multirun=False)

    def test_a_primary_config_that_is_not_there_is_named(self):
        with pytest.raises(ValueError, match="Cannot find primary config 'sweep/nowhere'"):
            composed(config_name="nowhere")


class TestAFoldersName:
    def test_the_order_of_overrides_is_none_of_it(self):
        one = {"seed_everything": "1", "credit": "grpo"}
        assert folder_name(one) == folder_name(dict(reversed(one.items()))) == "credit=grpo,seed_everything=1"

    def test_keys_that_end_alike_are_said_in_full(self):
        assert folder_name({"a.seed": "1", "b.seed": "2"}) == "a.seed=1,b.seed=2"

    def test_values_that_no_folder_can_have_are_told_apart(self):
        names = {folder_name({"splits": value}) for value in ("[a, b]", "[a b]", "[a: b]")}
        assert len(names) == 3
        assert all(name.startswith("splits=-a-b-,") for name in names)

    def test_a_long_one_keeps_what_is_short(self):
        long = {f"key_{index}": "x" * 40 for index in range(9)}
        names = [folder_name(long | {"seed": "3", "key_0": value}) for value in ("x" * 40, "y" * 40)]
        assert names[0] != names[1]
        assert all(len(name) <= 150 and ",seed=3," in name for name in names)


class TestConfiguration:
    def test_a_preset_of_another_class_leaves_nothing_of_the_first_behind(self):
        (run,) = composed("credit=grpo").runs  # the gridworld's config sets GiGPO's step_advantage_weight
        credit = yaml.safe_load(configured(run.options))["model"]["init_args"]["credit"]
        assert credit == yaml.safe_load((CONFIGS / "credit/grpo.yaml").read_text())["model"]["init_args"]["credit"]

    def test_a_misspelt_key_is_refused_in_the_parser_s_own_words(self, caplog, monkeypatch):
        options = ["--config", "configs/gridworld_cpu.yaml", f"--{CREDIT}discuont=0.9"]
        with pytest.raises(ValueError, match="Option 'discuont' is not accepted") as refused:
            configured(options)
        monkeypatch.setattr("sys.argv", ["gigpo", "fit", *options])
        with pytest.raises(SystemExit):
            cli.main()
        assert f"error: {refused.value}\n" in caplog.text

    def test_a_value_that_no_run_could_have_is_refused_before_any_has_begun(self, tmp_path):
        words = ["-m", f"{CREDIT}discount=0.9,1.5", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
        with pytest.raises(ValueError, match=r"^discount=1\.5: discount must be in \[0, 1\], got 1\.5$"):
            command.carry_out(words, PROGRAM)
        assert not any(tmp_path.iterdir())

    def test_a_look_at_a_run_leaves_the_environment_as_it_was(self):
        before = dict(os.environ)
        configured(["--config", "configs/gridworld_cpu.yaml"])
        assert dict(os.environ) == before


def text(folder: Path, seed: int, **more: object) -> str:
    """A configuration as far as a run's folder and the program know it."""
    return yaml.safe_dump({"seed_everything": seed, "trainer": {"default_root_dir": str(folder)} | more})


@pytest.fixture
def stop_file(tmp_path):
    return tmp_path / ".stop"


@pytest.fixture
def new(tmp_path):
    """Makes a run that is ready to begin."""

    def make(seed: int, name: str = "run") -> Run:
        run = Run(folder=tmp_path / name)
        config = text(run.folder, seed)
        assert run.prepare(config)
        begin(run, config)
        return run

    return make


def checkpoint(run: Run) -> None:
    (run.folder / "last.ckpt").write_bytes(b"learnt")


class TestARun:
    def test_one_that_has_finished_is_left_alone(self, new, stop_file):
        run = new(FINISHES)
        record = run.carry_out(PROGRAM, stop_file)
        assert (record.state, record.exit_code) == (State.FINISHED, 0)
        assert not run.prepare(text(run.folder, FINISHES))
        assert run.carry_out(PROGRAM, stop_file) == record
        assert run.log.read_text().count("$ ") == 1

    def test_one_that_fails_says_so_and_is_begun_anew(self, new, stop_file):
        run = new(FAILS)
        record = run.carry_out(PROGRAM, stop_file)
        assert (record.state, record.exit_code) == (State.FAILED, 2)
        assert "error: the engine is gone" in run.log.read_text()
        assert run.prepare(text(run.folder, FAILS))
        assert run.carry_out(PROGRAM, stop_file).begun > record.begun
        assert "--ckpt_path" not in run.log.read_text()

    def test_one_that_was_killed_goes_on_from_its_checkpoint(self, new, stop_file):
        run = new(FINISHES)
        killed = Record(state=State.RUNNING, begun=time.time(), seconds=100.0)
        run.write(killed)
        checkpoint(run)
        config = text(run.folder, FINISHES)
        assert run.prepare(config)
        begin(run, config)
        assert run.record.state == State.STOPPED
        record = run.carry_out(PROGRAM, stop_file)
        assert run.log.read_text().endswith("--ckpt_path last\n")
        assert record.begun == killed.begun
        assert record.seconds > 100.0

    def test_what_was_learnt_is_not_gone_on_with_under_another_configuration(self, new):
        run = new(FAILS)
        checkpoint(run)
        with pytest.raises(ValueError, match=r"same configuration, but trainer\.max_epochs was None and is 9; choose"):
            run.prepare(text(run.folder, FAILS, max_epochs=9))

    def test_what_has_finished_is_not_taken_for_another_configuration_s(self, new, stop_file):
        run = new(FINISHES)
        run.carry_out(PROGRAM, stop_file)
        with pytest.raises(ValueError, match=r"but trainer\.max_epochs was None and is 9"):
            run.prepare(text(run.folder, FINISHES, max_epochs=9))

    def test_where_nothing_was_learnt_another_configuration_may_begin(self, new, stop_file):
        run = new(FAILS)
        run.carry_out(PROGRAM, stop_file)
        mended = text(run.folder, FINISHES)
        assert run.prepare(mended)
        begin(run, mended)
        assert run.carry_out(PROGRAM, stop_file).state == State.FINISHED

    def test_two_sweeps_do_not_share_one(self, new, stop_file):
        run = new(FINISHES)
        with run.held():
            with pytest.raises(ValueError, match=f"one is at work in {run.folder}"):
                run.prepare(text(run.folder, FINISHES))
            assert run.carry_out(PROGRAM, stop_file).state == State.WAITING
        assert not run.log.exists()

    def test_none_begins_once_the_sweep_is_stopping(self, new, stop_file):
        run = new(FINISHES)
        stop_file.touch()
        assert run.carry_out(PROGRAM, stop_file).state == State.WAITING


def launched(runs: list[Run], stop_file: Path, *hydra: str) -> Launch:
    task = Task(runs=tuple(runs), command=PROGRAM, stop_file=stop_file)
    return Launch(source=composed(*hydra).source, folder=stop_file.parent, task=task, environment={})


def wait_for(run: Run, state: State) -> None:
    deadline = time.monotonic() + 60
    while run.record.state != state or (state == State.RUNNING and not list(run.folder.glob("version_*"))):
        assert time.monotonic() < deadline, f"{run.folder} is {run.record.state}"
        time.sleep(0.05)


class TestALaunch:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_stops_the_run_under_way_in_good_order_and_begins_no_other(self, number, new, stop_file):
        runs = [new(STOPS, "first"), new(FINISHES, "second")]
        process = start(launched(runs, stop_file))
        wait_for(runs[0], State.RUNNING)
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == number
        assert [run.record.state for run in runs] == [State.STOPPED, State.WAITING]
        assert runs[0].has_checkpoint()
        assert not stop_file.exists()

    def test_a_second_signal_kills_what_does_not_stop(self, new, stop_file):
        run = new(HANGS)
        process = start(launched([run], stop_file))
        wait_for(run, State.RUNNING)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(1.0)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert (run.record.state, run.record.exit_code) == (State.STOPPED, -signal.SIGKILL)

    def test_a_sweep_that_is_killed_leaves_no_run_going(self, new, stop_file):
        run = new(STOPS)
        process = start(launched([run], stop_file))
        wait_for(run, State.RUNNING)
        process.kill()
        wait_for(run, State.STOPPED)
        assert run.has_checkpoint()

    def test_a_run_whose_worker_was_killed_still_holds_its_folder(self, new, stop_file):
        run = new(HANGS)
        worker = start_run(run, PROGRAM, stop_file)
        wait_for(run, State.RUNNING)
        (orphan,) = psutil.Process(worker.pid).children()
        worker.kill()
        worker.join()
        with pytest.raises(ValueError, match="one is at work"):
            run.prepare(text(run.folder, HANGS))
        orphan.kill()
        orphan.wait(60)
        assert run.prepare(text(run.folder, HANGS))


@pytest.mark.parametrize(
    ("launcher", "num_runs", "variables", "expected"),
    [
        ({}, 8, {}, None),
        ({"n_jobs": 1}, 8, {}, None),
        ({"n_jobs": 4}, 8, {}, "2"),
        ({"n_jobs": -1}, 8, {}, "1"),
        ({"n_jobs": 4}, 2, {}, "4"),
        ({"n_jobs": 4}, 1, {}, None),
        ({"n_jobs": 4}, 8, {"OMP_NUM_THREADS": "7"}, None),
    ],
    ids=["basic", "one", "four", "all", "fewer_runs", "one_run", "said"],
)
def test_runs_that_share_a_machine_share_half_of_its_cores(launcher, num_runs, variables, expected, monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    assert threads(launcher, num_runs, variables).get("OMP_NUM_THREADS") == expected


class TestTheTable:
    def test_success_before_and_after_counts_every_task_once(self, tmp_path):
        """Task a is won in one of two repeats, then in both; b never."""
        run = Run(folder=tmp_path)
        plays = [(0, "a", 0, True), (0, "a", 1, False), (0, "b", 0, False)]
        plays += [(9, "a", 0, True), (9, "a", 1, True), (9, "b", 0, False)]
        self.write(tmp_path / "version_0", plays)
        assert held_out(run, 0.0) == ({"valid": 0.25}, {"valid": 0.5})

    def test_what_was_played_again_after_an_interruption_counts_once(self, tmp_path):
        self.write(tmp_path / "version_0", [(9, "a", 0, False)])
        (tmp_path / "version_0/evaluations.jsonl").open("a").write('{"split": "val')  # killed while it wrote
        os.utime(tmp_path / "version_0/evaluations.jsonl", (1.0, 1.0))
        self.write(tmp_path / "version_1", [(9, "a", 0, True), (9, "b", 0, True)])
        assert held_out(Run(folder=tmp_path), 0.0) == ({}, {"valid": 1.0})

    def test_an_earlier_attempt_s_files_do_not_count(self, tmp_path):
        self.write(tmp_path / "version_0", [(0, "a", 0, True)])
        assert held_out(Run(folder=tmp_path), time.time() + 100) == ({}, {})

    def test_training_success_is_the_last_epoch_s_over_all_ranks(self, tmp_path):
        files = {"epoch_9": [(0, False)], "epoch_10.0": [(0, True), (0, True), (1, False)], "epoch_10.1": [(0, True)]}
        for name, rows in files.items():
            trajectory, success = ([each[column] for each in rows] for column in (0, 1))
            (tmp_path / "trajectories").mkdir(exist_ok=True)
            table = pa.table({"trajectory_id": trajectory, "success": success})
            pq.write_table(table, tmp_path / "trajectories" / f"{name}.parquet")
        assert training(Run(folder=tmp_path), 0.0) == pytest.approx(2 / 3)  # by episode, not by step

    def test_a_cell_s_mean_is_over_the_seeds_that_have_finished(self, tmp_path):
        finished, failed = Record(state=State.FINISHED), Record(state=State.FAILED)
        figures = [("grpo", finished, 0.2), ("grpo", finished, 0.4), ("grpo", failed, 0.9), ("gigpo", finished, 0.5)]
        rows = [
            Row(
                run=Run(folder=tmp_path / str(seed)),
                overrides={"credit": credit, "seed_everything": str(seed)},
                record=record,
                after={"valid": after},
            )
            for seed, (credit, record, after) in enumerate(figures)
        ]
        cells = cells_table(rows)
        assert [list(column.cells) for column in cells.columns][:2] == [["grpo", "gigpo"], ["2", "1"]]
        assert list(cells.columns[3].cells) == ["30.0 ± 14.1 %", "50.0 %"]

    def test_runs_of_one_seed_have_no_mean(self, tmp_path):
        one = Row(run=Run(folder=tmp_path), overrides={"credit": "grpo"}, record=Record(state=State.FINISHED))
        assert cells_table([one]) is None

    def test_keys_that_end_alike_are_told_apart(self, tmp_path):
        overrides = {"a.init_args.seed": "1", "b.seed": "2", "c.lr": "3"}
        table = runs_table([Row(run=Run(folder=tmp_path), overrides=overrides, record=Record())])
        assert [column.header for column in table.columns][:3] == ["a.seed", "b.seed", "lr"]

    def test_a_file_has_every_key_in_full_and_every_figure(self, tmp_path, new, stop_file):
        run = new(FINISHES)
        run.carry_out(PROGRAM, stop_file)
        write_csv(tmp_path / "results.csv", [row(run, {"model.init_args.x": "1"})])
        with (tmp_path / "results.csv").open() as file:
            (line,) = csv.DictReader(file)
        assert float(line.pop("seconds")) > 0
        assert line == {
            "run": "run",
            "model.init_args.x": "1",
            "state": "finished",
            "exit_code": "0",
            "valid_before": "0.0000",
            "valid_after": "0.5000",
            "train_success": "",
            "log": str(run.log),
        }

    def write(self, folder: Path, plays: list[tuple[int, str, int, bool]]) -> None:
        folder.mkdir()
        names = ("policy_version", "task_id", "repeat", "success")
        lines = [{"split": "valid"} | dict(zip(names, play, strict=True)) for play in plays]
        (folder / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


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
        "trainer.max_epochs=2",
        "trainer.check_val_every_n_epoch=2",
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
    assert sorted(path.name for path in tmp_path.rglob(".*")) == [".lock", ".lock"]  # Hydra has left nothing
