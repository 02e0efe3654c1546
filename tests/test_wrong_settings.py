"""A wrong setting is refused by ``--dry_run`` in one line that names its full key, and its file if it is in one."""

import re
from pathlib import Path

import pytest

from gigpo_lightning import cli
from gigpo_lightning.complaints import parser_complaint

ROOT = Path(__file__).resolve().parent.parent
GRIDWORLD = ROOT / "configs" / "gridworld_cpu.yaml"


@pytest.fixture
def refused(tmp_path, monkeypatch):
    """What ``gigpo fit --dry_run`` says of the gridworld's configuration, changed, and of options."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["gigpo"])

    def said(pattern: str = "", replacement: str = "", options: tuple[str, ...] = ()) -> str:
        path = tmp_path / "run.yaml"
        text = GRIDWORLD.read_text()
        changed = re.sub(pattern, replacement, text, count=1, flags=re.DOTALL) if pattern else text
        assert not pattern or changed != text
        path.write_text(changed)
        with pytest.raises(cli.MENDABLE) as error:
            cli.build_cli(["fit", "--config", str(path), *options, "--dry_run"])
        line = cli.what_is_wrong(error.value)
        assert "\n" not in line
        return line.removeprefix(f"{path}: ")

    return said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pattern", "replacement", "expected"),
    [
        ("group_size: 8", "group_size:", "data.init_args.group_size must be int, got None"),
        ("temperature: 1.0", "temperature: null", "data.init_args.sampling.temperature must be float, got None"),
        ("devices: 1", "devices:", "trainer.devices must be list or str or int, got None"),
        ("trainer:.*model:", "trainer:\nmodel:", "trainer must hold settings, each with its key, got nothing; leave"),
        ("data:.*", "data:\n", "data must hold settings, each with its key, got nothing"),
        ("data:.*", "data: [1, 2]\n", r"data must hold settings, each with its key, got list [1, 2]"),
        ("loss: {.*?}", "loss: [1]", "model.init_args.loss must hold settings, each with its key, got list [1]"),
        ("seed_everything: 0", "seed_everything:", "seed_everything must be a whole number, got nothing"),
        (
            r"class_path: callbacks.GroupFigure\n.*",
            "class_path: callbacks.GroupFigure\n      init_args: true",
            "trainer.callbacks[0].init_args must hold settings, each with its key, got bool True",
        ),
        (
            r"class_path: callbacks.GroupFigure\n.*",
            "class_path: callbacks.GroupFigure\n      init_args:",
            "trainer.callbacks[0].init_args must hold settings, each with its key, got nothing",
        ),
        (
            r"class_path: callbacks.GroupFigure\n.*",
            "class_path:",
            "trainer.callbacks[0].class_path must be the import path of a class, got nothing",
        ),
        (
            r"class_path: callbacks.GroupFigure\n.*",
            "class_path: callbacks.GroupFigure\n      heat: 1",
            "trainer.callbacks[0].heat is no setting: beside a class_path",
        ),
        ("group_size", "groupsize", "data.init_args.groupsize is no setting of datamodules.RolloutDataModule"),
        ("every_n_epochs: 20", "every_n_epochs: x", "trainer.callbacks.init_args.every_n_epochs must be int, got x"),
        (
            "AdamW",
            "AdamX",
            "model.init_args.optimizer.class_path must name what can be used there, got torch.optim.AdamX",
        ),
        ("lr: 4.0e-3", "lr: .inf", "model.init_args.optimizer.init_args.lr must be >= 0 and finite, got inf"),
        ("lr: 4.0e-3", "lr: -1", "model.init_args.optimizer.init_args.lr: Invalid learning rate: -1.0"),
        ("temperature: 1.0", "temperature: .nan", "data.init_args.sampling.temperature must be >= 0, got nan"),
        (
            "num_layers: 2",
            "intermediate_size: -7",
            "model.init_args.policy.init_args.intermediate_size must be in [1, ",
        ),
        (
            "every_n_epochs: 20",
            "every_n_epochs: -2",
            "trainer.callbacks[0].init_args.every_n_epochs must be >= 0, got -2",
        ),
        ("seed_everything: 0", "seed_everything: -1", "seed_everything must be in [0, 4294967295], got -1"),
        (
            "trainer:",
            "trainer:\n  limit_train_batches: 0",
            "trainer.limit_train_batches must be > 0, got 0: a run would train on nothing",
        ),
    ],
)
def test_the_full_key_comes_first(refused, pattern, replacement, expected):
    assert refused(pattern, replacement).startswith(expected)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        (
            "data.environment",
            "nopkg.Env",
            "data.init_args.environment.class_path must name what can be used there, got nopkg.Env: No module named",
        ),
        (
            "trainer.callbacks",
            "[{class_path: callbacks.Export, init_args: {keep: 0}}]",
            "trainer.callbacks[0].init_args.keep must be >= 1, got 0",
        ),
        ("trainer.precision", "half", "trainer.precision must be int or one of 'transformer-engine', "),
        ("optimizer_settings", "mine", "optimizer_settings must be one of 'checkpoint', 'config', got mine"),
        ("trainer.max_epoch", "4", "unrecognized arguments: --trainer.max_epoch 4; did you mean trainer.max_epochs"),
        ("data.max_turns", "4", "data.init_args.max_turns is no setting of datamodules.RolloutDataModule"),
        (
            "data.groupsize",
            "4",
            "data.init_args.groupsize is no setting of datamodules.RolloutDataModule; did you mean",
        ),
        ("model.credit", "gigpo_lightning.algorithm.GIGPO", "model.init_args.credit.class_path must name what can be"),
        ("model.optimizer.lr", "-1e-3", "model.init_args.optimizer.init_args.lr: Invalid learning rate: -0.001"),
        ("ckpt_path", "configs", "ckpt_path must name a whole checkpoint that a Trainer wrote, got 'configs'"),
        ("ckpt_path", "", "ckpt_path must name a whole checkpoint that a Trainer wrote, got ''"),
    ],
)
def test_an_option_is_refused_by_its_key_and_in_no_more_words_than_it_takes(refused, option, value, expected):
    line = refused(options=(f"--{option}", value))
    assert line.startswith(expected)
    assert "Expected a path" not in line
    assert "Not a valid subclass" not in line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("option", "value", "meant"),
    [
        ("data.groupsize", "4", "; did you mean group_size"),
        ("model.credit", "gigpo_lightning.algorithm.GIGPO", "; did you mean gigpo_lightning.algorithm.GiGPO"),
        ("data.environment", "corridor.Corridor", "; the folder that holds corridor must be on PYTHONPATH"),
        (
            "trainer.callbacks",
            "[{class_path: EarlyStopping, init_args: {monitor: success_rate}}]",
            "rollout/success_rate",
        ),
        ("model.lr_scheduler", "lightning.pytorch.cli.ReduceLROnPlateau", "monitor must be given"),
    ],
)
def test_what_may_be_meant_is_said(refused, option, value, meant):
    assert meant in refused(options=(f"--{option}", value))


def test_a_misspelt_subcommand_gets_the_nearest(monkeypatch):
    monkeypatch.setattr("sys.argv", ["gigpo"])
    with pytest.raises(cli.MENDABLE) as error:
        cli.build_cli(["predcit"])
    assert cli.what_is_wrong(error.value).endswith("; did you mean predict?")


@pytest.mark.parametrize("devices", ["-3", "two", "[0, 0]", "null"])
def test_devices_that_are_none_are_named(refused, devices):
    assert refused(options=("--trainer.devices", devices)).startswith("trainer.devices must be a number >= 1")


@pytest.mark.slow
def test_a_scheduler_that_needs_a_metric_is_named_with_its_key(refused):
    plateau = "torch.optim.lr_scheduler.ReduceLROnPlateau"
    line = refused(options=("--model.lr_scheduler", plateau))
    assert line.startswith(
        "model.init_args.lr_scheduler must be stepped without a metric, or name one as lightning.pytorch.cli.Reduce"
    )


@pytest.mark.slow
def test_a_real_fit_refuses_it_before_an_engine_starts(monkeypatch):
    """A real ``fit`` refuses what its rehearsal refuses, and no engine has started by then."""

    def start(self: object, model_folder: str) -> None:
        pytest.fail("an engine was started")

    monkeypatch.setattr("sys.argv", ["gigpo"])
    monkeypatch.setattr("gigpo_lightning.rollout.VLLMEngine.start", start)
    path = str(GRIDWORLD)
    with pytest.raises(ValueError, match="LBFGS"):
        cli.build_cli(["fit", "--config", path, "--model.optimizer", "torch.optim.LBFGS"])


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "got nothing"), (b"- 3\n", "got list [3]"), (b"3\n", "got int 3"), ("a: é".encode("utf-16"), "UTF-16")],
)
def test_a_file_that_holds_no_settings_is_named(tmp_path, monkeypatch, content, expected):
    monkeypatch.setattr("sys.argv", ["gigpo"])
    path = tmp_path / "run.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(expected)) as error:
        cli.build_cli(["fit", "--config", str(path)])
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("section", ["trainer", "data"])
def test_a_file_of_a_section_that_is_no_text_is_named(refused, tmp_path, section):
    path = tmp_path / "section.yaml"
    path.write_bytes("max_epochs: 1\n".encode("utf-16"))
    line = refused(options=(f"--{section}", str(path)))
    assert line.startswith(section)
    assert str(path) in line


def test_a_folder_is_no_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["gigpo"])
    with pytest.raises(ValueError, match=r"^--config must name a YAML file, got the folder"):
        cli.build_cli(["fit", "--config", str(tmp_path)])


def test_of_all_the_types_a_value_might_have_had_the_first_is_said():
    said = """Parser key "trainer.callbacks":
  Does not validate against any of the Union subtypes
  Subtypes: [list[Callback], <class 'Callback'>, <class 'NoneType'>]
  Errors:
    - Problem with given class_path 'callbacks.GroupFigure':
        Option 'every_x' is not accepted
    - Not a valid subclass of Callback
    - Expected a <class 'NoneType'>
  Given value type: <class 'list'>
  Given value: [...]"""
    assert parser_complaint(said) == "trainer.callbacks.init_args.every_x is no setting of callbacks.GroupFigure"
