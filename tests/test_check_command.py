"""``gigpo check-environment`` says whether an environment keeps the rules, and what its anchors are worth."""

import importlib
import subprocess
import sys

import gymnasium
import pytest
import yaml

from gigpo_lightning.chat_model import ChatServerError
from gigpo_lightning.check_command import BROKEN, carry_out, main
from gigpo_lightning.cli import build_cli
from gigpo_lightning.errors import RunError
from tests.conftest import ROOT

GRIDWORLD = "gigpo_lightning.environments.gridworld.GridworldEnvironment"
TASKS = "gigpo_lightning.environments.gridworld.GridworldTasks"
ADAPTER = "gigpo_lightning.environments.gymnasium_text.GymnasiumEnvironment"
FEW = ["--num_tasks", "2", "--group_size", "2", "--max_steps", "5"]


class Clock(gymnasium.Env):
    """Nothing in it comes twice, not even its first observation, and it never says who succeeded."""

    number = 0

    def reset(self, *, seed=None, options=None):
        Clock.number += 1
        return f"it is {self.number}", {}

    def step(self, action):
        return "later", 0.0, False, False, {}


class Silent(gymnasium.Env):
    """Keeps the rules, and never says who succeeded."""

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return "0", {"admissible_actions": ["wait"]}

    def step(self, action):
        self.time += 1
        return str(self.time), 0.0, False, False, {"admissible_actions": ["wait"]}


class Raising(Silent):
    def step(self, action):
        raise KeyError("no door")


class Leaving(Silent):
    def step(self, action):
        if self.time == 9:
            raise SystemExit(0)
        return super().step(action)


class NeedsPackage(Silent):
    def reset(self, *, seed=None, options=None):
        importlib.import_module("no_such_package_of_mine")


class NeedsServer(Silent):
    """Its server goes away once the rules have been checked."""

    def step(self, action):
        if self.time == 9:
            raise ConnectionRefusedError("nobody listens at http://worlds:1")
        return super().step(action)


def broken_off(messages):
    raise ChatServerError("http://judge", "answered with 503: out of order", 503)


def checked(capsys, *words):
    code = carry_out(words)
    return code, capsys.readouterr().out


def test_an_environment_that_keeps_the_rules_ends_with_0_and_shows_what_it_is_worth(capsys):
    code, said = checked(capsys, GRIDWORLD, "--tasks", TASKS, "--tasks.num_walls", "0", *FEW)
    assert code == 0
    assert said.startswith(f"{GRIDWORLD} on 2 tasks of split 'train'\nrules: kept\n")
    for part in ("a random episode\ntask '", "anchors: ", "later steps", "success: ", "return: ", "steps/s"):
        assert part in said


def test_a_broken_rule_ends_with_1_and_is_named_with_its_task(capsys):
    code, said = checked(capsys, f"{__name__}.Clock", *FEW)
    assert code == BROKEN == 1
    assert "rule broken: task 'seed/0': the same task and commands must give the same episode, but reset gave" in said
    assert f"gigpo check-environment {ADAPTER} --environment.env_id {__name__}.Clock" in said
    assert "steps/s" not in said


def test_an_adapter_of_ours_is_not_said_to_know_no_tasks(capsys):
    code, said = checked(capsys, "gigpo_lightning.environments.scienceworld.ScienceWorldEnvironment", *FEW)
    assert code == BROKEN
    assert said.rstrip().endswith("If it has tasks of its own, give --tasks)")


def test_actions_as_a_list_in_json_may_have_commas(capsys):
    _, said = checked(capsys, GRIDWORLD, "--tasks", TASKS, "--actions", '["sit, look", "sit, look"]', *FEW)
    assert "  1 > sit, look\n" in said


@pytest.mark.slow
def test_a_run_of_imitation_is_checked_by_what_its_player_plays(capsys):
    code, said = checked(capsys, "--config", str(ROOT / "configs/sokoban/warm_start.yaml"), *FEW)
    assert code == 0
    assert "    # # # # # #\n" in said  # the map as it is


def test_an_exception_is_a_broken_rule_with_its_place(capsys):
    code, said = checked(capsys, f"{__name__}.Raising", *FEW)
    assert code == BROKEN
    assert "reset and step must not raise, but: KeyError: 'no door'" in said
    assert "test_check_command.py, line" in said


def test_an_environment_that_ends_its_process_late_does_not_look_as_if_all_were_well(capsys):
    code, said = checked(capsys, f"{__name__}.Leaving", *FEW[:4], "--max_steps", "12")
    assert code == BROKEN
    assert "rule broken: task 'seed/0', step 10 ('wait'): SystemExit: 0" in said


def test_a_success_that_never_comes_is_said(capsys):
    code, said = checked(capsys, f"{__name__}.Silent", *FEW)
    assert code == 0
    assert "success: info['success'] never came" in said


def test_an_id_of_gymnasium_is_played_by_its_adapter_on_seeds(capsys):
    code, said = checked(capsys, "CartPole-v1")
    assert code == BROKEN
    assert said.startswith(f"{ADAPTER} (CartPole-v1) on 4 tasks of split 'train'\n")
    assert "task 'seed/0': CartPole-v1 must give observations that are strings" in said


def test_the_data_section_of_runs_says_what_is_checked(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    on_top = {"tasks": {"class_path": TASKS, "init_args": {"size": 2, "num_walls": 0}}, "tasks_per_epoch": 3}
    path.write_text(yaml.safe_dump({"trainer": {"max_epochs": 3}, "data": {"init_args": on_top}}))
    configs = ["--config", str(ROOT / "configs/gridworld_cpu.yaml"), "--config", str(path)]
    code, said = checked(capsys, *configs, "--data.init_args.max_steps", "1", "--data.tasks.kinds", "[near]", *FEW[:4])
    assert code == 0
    assert "row 2" not in said
    assert "length: 1.0 steps" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "CLASS_OR_ID or --config must say which environment is checked"),
        (["corridor.Corridor"], "environment.class_path must name what can be used there, got corridor.Corridor"),
        (["CartPole-v7"], "environment.init_args.env_id must be registered, or the import path of a class"),
        ([GRIDWORLD, "--num_task", "3"], "did you mean num_tasks?"),
        ([GRIDWORLD, "--num_tasks", "0"], "num_tasks must be >= 1, got 0"),
        ([GRIDWORLD, "--environment.reward", "3"], "environment.init_args.reward is no setting of"),
        ([GRIDWORLD, "--tasks", TASKS, "--tasks.size", "1"], "tasks.init_args.size must be >= 2, got 1"),
        ([GRIDWORLD, "--tasks", TASKS, "--train_split", "nowhere"], "split must be one of ('train',"),
        ([GRIDWORLD, "--tasks", TASKS, "--held_out_splits", "[train]"], "splits must not name the split"),
        (["--config", "nowhere.yaml"], "--config must name a YAML file, got 'nowhere.yaml'"),
        (["--config", str(ROOT / "configs/credit/grpo.yaml")], "data.init_args.environment must be given by --config"),
    ],
)
def test_a_mistake_ends_with_2_and_one_line(words, said, monkeypatch, caplog):
    assert said in only_line(words, monkeypatch, caplog)


def only_line(words, monkeypatch, caplog):
    """What a command says that ends with 2."""
    monkeypatch.setattr(sys, "argv", ["gigpo", "check-environment", *words])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert caplog.messages[-1].count("\n") == 1  # and where to find more
    return caplog.messages[-1]


ENVIRONMENTS = "gigpo_lightning.environments"
TEXTWORLD = ["--environment.kwargs", "{challenge: tw-simple}"]
MINIGRID = ["--environment.wrappers", f"[{ENVIRONMENTS}.minigrid_text.MiniGridText]"]
SCIENCE = f"{ENVIRONMENTS}.scienceworld.Science"
NOWHERE = ["--environment.url", "http://127.0.0.1:1", "--environment.deadline", "0.1"]
JUDGE = ["--environment.environment", GRIDWORLD, "--environment.rubric", "x", "--environment.record"]


@pytest.mark.parametrize(
    ("words", "gone", "said"),
    [
        ([f"{ENVIRONMENTS}.textarena.TextArenaEnvironment"], "textarena", "the extra 'textarena'. Install them with"),
        (
            [f"{ENVIRONMENTS}.reasoning_gym.ReasoningGymEnvironment", "--environment.dataset", "leg_counting"],
            "reasoning_gym",
            "the extra 'reasoning-gym'. Install them with",
        ),
        (["minigrid:MiniGrid-Empty-5x5-v0", *MINIGRID], "minigrid", "the extra 'minigrid'. Install them with"),
        (
            [ADAPTER, "--environment.env_id", f"{ENVIRONMENTS}.textworld_games.TextWorldGames", *TEXTWORLD],
            "textworld",
            "the extra 'alfworld'. Install them with",
        ),
        (
            [f"{SCIENCE}WorldEnvironment", "--tasks", f"{SCIENCE}WorldTasks"],
            "Java",
            "(the extra 'scienceworld') needs Java 8 or newer",
        ),
        (
            [f"{ENVIRONMENTS}.openenv.OpenEnvEnvironment", *NOWHERE],
            "a server",
            "could not be checked: the environment server http://127.0.0.1:1 cannot be reached",
        ),
        ([f"{__name__}.NeedsPackage"], "a package", "could not be checked: No module named 'no_such_package_of_mine'"),
        (
            [f"{__name__}.NeedsServer", "--max_steps", "12"],
            "a server",
            "could not be checked: task 'seed/0', step 10 ('wait'): ConnectionRefusedError: nobody listens at",
        ),
    ],
)
def test_what_is_missing_ends_with_2_and_one_line_for_no_rule_is_broken(words, gone, said, monkeypatch, caplog, capsys):
    for name in [name for name in sys.modules if name.startswith(f"{gone}.")]:  # of an earlier test
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, gone, None)
    monkeypatch.setenv("PATH", "/nowhere")
    assert said in only_line(words, monkeypatch, caplog)
    assert "rule broken" not in capsys.readouterr().out


def test_a_judge_that_gives_no_verdict_breaks_no_rule(tmp_path):
    judge = ["--environment.judge", "gigpo_lightning.chat_model.ScriptedChat"]
    judge += ["--environment.judge.script", f"{__name__}.broken_off"]
    words = [f"{ENVIRONMENTS}.judge.Judge", *JUDGE, str(tmp_path / "record"), *judge, "--tasks", TASKS]
    with pytest.raises(RunError, match=r"could not be checked: .*the judge gave no verdict: .*503"):
        carry_out([*words, "--tasks.num_walls", "0", "--num_tasks", "2"])


def test_the_one_door_leads_to_it(capsys):
    with pytest.raises(SystemExit) as stop:
        build_cli(["check-environment", GRIDWORLD, "--tasks", TASKS, *FEW])
    assert stop.value.code == 0
    assert "rules: kept" in capsys.readouterr().out


@pytest.mark.slow
def test_it_starts_without_lightning():
    asks = (
        "import sys\nfrom gigpo_lightning.console import gigpo\ntry:\n    gigpo()\n"
        "finally:\n    assert not {'lightning', 'torch', 'transformers'} & sys.modules.keys()\n"
    )
    command = [sys.executable, "-c", asks, "check-environment", GRIDWORLD, "--tasks", TASKS, *FEW]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "rules: kept" in result.stdout
