"""No two runs write into one folder: it is made when its number is chosen, and one that is refused leaves none."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from gigpo_lightning.cli import build_cli
from gigpo_lightning.environments.gridworld import GridworldTasks
from gigpo_lightning.errors import RunError
from modules.run_folder import chosen_folder, claim, claimed
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data

GRIDWORLD = str(Path(__file__).resolve().parent.parent / "configs/gridworld_cpu.yaml")
RUNS = 4


def trainer_with(folder, *loggers):
    return quiet_trainer(folder, ScriptedSync(), logger=list(loggers), max_epochs=1, limit_val_batches=0)


@pytest.mark.parametrize("kind", [TensorBoardLogger, CSVLogger])
def test_runs_that_all_look_before_any_has_made_its_folder_get_one_each(tmp_path, kind):
    have_looked = threading.Barrier(RUNS)

    class Logger(kind):
        def _get_next_version(self):
            number = super()._get_next_version()
            have_looked.wait()
            return number

    (tmp_path / "lightning_logs" / "version_4").mkdir(parents=True)
    trainers = [trainer_with(tmp_path, Logger(tmp_path)) for _ in range(RUNS)]
    threads = [threading.Thread(target=claim, args=(trainer,)) for trainer in trainers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(Path(trainer.log_dir).name for trainer in trainers) == [f"version_{5 + run}" for run in range(RUNS)]
    assert all(Path(trainer.log_dir).is_dir() for trainer in trainers)


def test_a_folder_named_with_a_variable_is_claimed_where_tensorboard_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("RUNS_FOLDER", str(tmp_path))
    trainers = [trainer_with(tmp_path, TensorBoardLogger("$RUNS_FOLDER", name="", sub_dir="events")) for _ in "ab"]
    folders = [claim(trainer)[0].folder for trainer in trainers]
    assert folders == [tmp_path / "version_0", tmp_path / "version_1"]
    assert [Path(trainer.log_dir) for trainer in trainers] == [folder / "events" for folder in folders]


def test_each_logger_has_a_number_of_its_own_and_a_given_one_is_kept(tmp_path):
    loggers = [CSVLogger(tmp_path), TensorBoardLogger(tmp_path), CSVLogger(tmp_path, version="mine")]
    loggers.append(TensorBoardLogger(tmp_path, version=0))
    assert [each.folder.name for each in claim(trainer_with(tmp_path, *loggers))] == ["version_0", "version_1"]
    assert [logger.version for logger in loggers] == [0, 1, "mine", 0]


def test_a_number_is_chosen_once(tmp_path):
    trainer = trainer_with(tmp_path, CSVLogger(tmp_path))
    assert chosen_folder(trainer) is None
    claim(trainer)
    assert claim(trainer) == ()
    assert chosen_folder(trainer) == tmp_path / "lightning_logs" / "version_0"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has a folder that nothing can be made in")
def test_where_no_folder_can_be_made_the_run_ends(tmp_path):
    with pytest.raises(FileNotFoundError, match="/proc/runs"):
        claim(trainer_with(tmp_path, CSVLogger("/proc/runs")))


class Watched(GridworldTasks):
    """Notes which folders there are while data would be made."""

    def __init__(self, root, error=None):
        super().__init__(size=3, num_walls=0)
        self.root = root
        self.error = error
        self.seen = []

    def prepare(self):
        self.seen += [path.name for path in self.root.rglob("version_*")]
        if self.error is not None:
            raise self.error


def fit(folder, tasks):
    module = tiny_module()
    data = walking_data(random_walk(module))
    data.player.tasks = tasks
    trainer_with(folder, TensorBoardLogger(folder)).fit(module, data)


@pytest.mark.slow
def test_in_python_too_the_folder_is_claimed_before_data_is_made(tmp_path):
    for number in range(2):
        fit(tmp_path, tasks := Watched(tmp_path))
        assert f"version_{number}" in tasks.seen
    assert len(list(tmp_path.rglob("version_*"))) == 2


def test_a_run_whose_data_cannot_be_made_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="no such data"):
        fit(tmp_path, tasks := Watched(tmp_path, ValueError("no such data")))
    assert tasks.seen == ["version_0"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong",
    [
        ["--ckpt_path", "last"],  # refused by the command line itself
        ["--data.init_args.tasks_per_epoch", "100000"],  # once config.yaml and TensorBoard's file are written
        ["--dry_run"],
    ],
)
def test_a_run_that_never_begins_leaves_nothing(tmp_path, wrong):
    root = ["--trainer.default_root_dir", str(tmp_path), "--trainer.accelerator", "cpu"]
    if wrong == ["--dry_run"]:
        build_cli(["fit", "--config", GRIDWORLD, *root, *wrong])
    else:
        with pytest.raises(ValueError, match=r"ckpt_path 'last' needs|tasks_per_epoch must be"):
            build_cli(["fit", "--config", GRIDWORLD, *root, *wrong])
    assert list(tmp_path.iterdir()) == []


AT_WORK = """
import fcntl, sys
held = open(sys.argv[1], "ab")
fcntl.lockf(held, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--trainer.logger", "false"], ["--trainer.logger.version", "7"]])
def test_where_a_run_is_at_work_in_a_folder_without_a_choice_no_other_begins(tmp_path, options):
    if "false" not in options:
        options = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", str(tmp_path), *options]
    folder = tmp_path if "false" in options else tmp_path / "lightning_logs" / "version_7"
    folder.mkdir(parents=True, exist_ok=True)
    words = ["fit", "--config", GRIDWORLD, "--trainer.default_root_dir", str(tmp_path), *options]
    lock = str(folder / ".checkpoints.lock")
    with subprocess.Popen(
        [sys.executable, "-c", AT_WORK, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"another is at work in {folder / 'checkpoints'}; choose another"):
            build_cli(words)
        other.stdin.close()
    with pytest.raises(ValueError, match="tasks_per_epoch"):  # it is free, so that the run gets further
        build_cli([*words, "--data.init_args.tasks_per_epoch", "100000"])


class Broken(ScriptedSync):
    """Raises in a hook."""

    def __init__(self, hook, error):
        super().__init__()
        self.error = error
        setattr(self, hook, self.fail)

    def fail(self, *args):
        raise self.error


def fit_until_it_breaks(folder, hook, error):
    module = tiny_module()
    trainer = trainer_with(folder, TensorBoardLogger(folder))
    trainer.callbacks.append(Broken(hook, error))
    with pytest.raises(type(error), match="too late"), claimed(trainer):
        trainer.fit(module, walking_data(random_walk(module)))
    return [path for path in folder.rglob("version_0/*") if path.name.startswith("events")]


@pytest.mark.parametrize("error", [ValueError("too late"), RunError("too late"), SystemExit("too late")])
def test_a_run_that_is_refused_in_its_first_rollout_leaves_no_folder(tmp_path, error):
    assert fit_until_it_breaks(tmp_path, "on_train_epoch_start", error) == []
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_has_learnt_keeps_its_folder_when_it_fails(tmp_path):
    assert fit_until_it_breaks(tmp_path, "on_train_epoch_end", ValueError("too late"))


def test_a_defect_of_ours_leaves_the_folder(tmp_path):
    assert fit_until_it_breaks(tmp_path, "on_train_epoch_start", AssertionError("too late"))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="only Linux has a folder that nothing can be made in")
def test_a_folder_that_cannot_be_made_is_named_with_its_key(tmp_path):
    trainer = quiet_trainer("/proc/runs", ScriptedSync(), logger=[CSVLogger("/proc/runs")])
    with (
        pytest.raises(ValueError, match=r"trainer\.default_root_dir must be a folder .*, got '/proc/runs'"),
        claimed(trainer),
    ):
        pass


def test_what_somebody_else_put_into_the_folder_stays(tmp_path):
    trainer = trainer_with(tmp_path, CSVLogger(tmp_path))
    kept = tmp_path / "lightning_logs" / "version_0" / "notes.txt"

    def refuse():
        kept.write_text("precious")
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"), claimed(trainer):
        refuse()
    assert kept.read_text() == "precious"
