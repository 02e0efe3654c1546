"""What ``gigpo fit --dry_run`` says of memory, asked as a user asks it; no GPU, no weights, no network."""

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gigpo_lightning.cli import build_cli

ROOT = Path(__file__).resolve().parent.parent
ON_GPUS = sorted((ROOT / "configs").glob("*/*qwen*.yaml"))
SMALL, LARGE = ROOT / "configs/alfworld/qwen2.5_1.5b.yaml", ROOT / "configs/alfworld/qwen2.5_7b.yaml"
POLICY, ENGINE = "--model.init_args.policy.init_args.", "--data.init_args.engine.init_args."


@dataclass(frozen=True)
class Plan:
    """What was said: the last line's numbers, the lines, and the warnings among them."""

    numbers: dict[str, Any]
    lines: list[str]
    warnings: list[str]


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Callable[..., Plan]:
    monkeypatch.setattr("sys.argv", ["gigpo"])

    def plan(config: Path, *options: str, device_gib: str = "79.2") -> Plan:
        caplog.clear()
        with caplog.at_level(logging.INFO, "gigpo_lightning"):
            build_cli(["fit", "--config", str(config), "--dry_run", "--device_gib", device_gib, *options])
        said = [record for record in caplog.records if record.name == "gigpo_lightning.cli"]
        warnings = [record.getMessage() for record in said if record.levelno == logging.WARNING]
        return Plan(json.loads(said[-1].getMessage()), [record.getMessage() for record in said], warnings)

    return plan


@pytest.mark.parametrize("config", ON_GPUS, ids=lambda path: f"{path.parent.name}-{path.stem}")
@pytest.mark.slow
def test_every_configuration_for_gpus_of_80_gb_leaves_8_percent_of_them(config: Path, planned) -> None:
    plan = planned(config)
    assert plan.numbers["device_gib"] == 79.2
    assert 0.5 * 79.2 < plan.numbers["predicted_gib"] <= 0.92 * 79.2
    assert plan.warnings == []
    update, rollout = plan.numbers["update"], plan.numbers["rollout"]
    assert max(sum(update.values()), sum(rollout.values())) == pytest.approx(plan.numbers["predicted_gib"], abs=0.05)
    (said,) = re.findall(r"update takes ([\d.]+)", config.read_text())  # in the comment beside the engine's share
    assert sum(update.values()) - update["engine"] == pytest.approx(float(said), abs=0.15)


@pytest.mark.slow
@pytest.mark.parametrize(("by", "said"), [("steps", "at most"), ("episodes", "about")])
def test_the_size_of_a_minibatch_is_exact_for_steps_alone(by: str, said: str, planned) -> None:
    plan = planned(SMALL, "--data.init_args.minibatch_by", by)
    (line,) = [line for line in plan.lines if line.startswith("update: at most")]
    assert f"each of {said} " in line
    assert ("steps of all ranks, in whole episodes, in micro-batches" in line) is (by == "episodes")


def test_there_are_eight_of_them() -> None:
    assert len(ON_GPUS) == 8


@pytest.mark.slow
def test_what_does_not_fit_is_warned_of_with_what_to_change(planned) -> None:
    plan = planned(SMALL, ENGINE + "gpu_memory_utilization", "0.5")
    assert plan.numbers["predicted_gib"] == pytest.approx(93.5, rel=0.1)
    assert plan.warnings[0].startswith("warning: it does not fit: 93.")
    changed = "data.init_args.engine.init_args.gpu_memory_utilization: 0.18"
    assert plan.warnings[1].startswith(f"warning: it would fit with {changed} (")
    key, value = changed.split(": ")
    again = planned(SMALL, f"--{key}", value)
    assert again.warnings == []
    assert f"{again.numbers['predicted_gib']:.1f} GiB" in plan.warnings[1]


@pytest.mark.slow
def test_sleep_takes_both_the_engine_s_leave_and_the_callback_s(planned) -> None:
    asleep = planned(LARGE)
    awake = planned(LARGE, ENGINE + "allow_sleep", "false")
    assert asleep.numbers["update"]["engine"] == 1.0
    assert awake.numbers["update"]["engine"] == asleep.numbers["rollout"]["engine"]
    assert awake.numbers["predicted_gib"] > 79.2


@pytest.mark.slow
def test_a_policy_with_adapters_has_no_reference_and_hardly_any_gradients(planned) -> None:
    base = json.dumps({"class_path": "modules.PretrainedPolicy", "init_args": {"model": "Qwen/Qwen3-4B"}})
    options = ["--model.init_args.policy", "modules.LoraPolicy", POLICY + "base", base]
    update = planned(SMALL, *options).numbers["update"]
    assert update["reference"] == 0
    assert 0 < update["gradients"] < 0.05 * update["weights"]


@pytest.mark.slow
def test_an_optimizer_is_asked_what_it_keeps(planned) -> None:
    with_sgd = planned(SMALL, "--model.init_args.optimizer", "torch.optim.SGD").numbers["update"]
    assert with_sgd["optimizer"] == 0
    momentum = ["--model.init_args.optimizer.init_args.momentum", "0.9"]
    update = planned(SMALL, "--model.init_args.optimizer", "torch.optim.SGD", *momentum).numbers["update"]
    assert update["optimizer"] == update["weights"]


@pytest.mark.slow
def test_a_model_in_a_folder_is_summed_by_its_config_alone(planned, tmp_path: Path) -> None:
    sizes = {"vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28}
    heads = {"num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True, "model_type": "qwen2"}
    cached = tmp_path / "models--somebody--fine-tuned/snapshots/1"
    cached.mkdir(parents=True)
    (cached.parent.parent / "refs").mkdir()
    (cached.parent.parent / "refs" / "main").write_text("1")
    (cached / "config.json").write_text(json.dumps(sizes | heads))
    (cached / "chat_template.jinja").write_text("{{ messages[0].content }}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
        plan = planned(SMALL, POLICY + "model", "somebody/fine-tuned")
    assert plan.numbers["predicted_gib"] == planned(SMALL).numbers["predicted_gib"]


@pytest.mark.slow
def test_a_model_that_is_not_here_is_said_to_be_unknown_in_a_line(planned) -> None:
    plan = planned(SMALL, POLICY + "model", "nobody/knows-it")
    assert plan.numbers == {"predicted_gib": None, "device_gib": 79.2}
    said = "memory is not summed: the model's shape is not known, as nobody/knows-it is neither on this disk nor one"
    assert any(line.startswith(said) for line in plan.lines)


@pytest.mark.slow
def test_a_run_on_a_cpu_is_summed_too(planned) -> None:
    plan = planned(ROOT / "configs/gridworld_cpu.yaml", device_gib="8")
    assert plan.numbers["device_gib"] == 8
    assert plan.numbers["update"]["context"] == 1.0
    assert plan.numbers["update"]["engine"] >= 0.1  # its cache
    assert plan.warnings == []


@pytest.mark.slow
def test_a_module_of_another_kind_has_no_sum(planned) -> None:
    plan = planned(ROOT / "configs/alfworld/warm_start.yaml")
    assert plan.numbers["predicted_gib"] is None
    assert any(line.startswith("memory is not summed: BehaviourCloningModule on") for line in plan.lines)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0", "-1", ".inf"])
def test_a_device_without_memory_is_refused(planned, size: str) -> None:
    with pytest.raises(ValueError, match="device_gib must be in"):
        planned(SMALL, device_gib=size)
