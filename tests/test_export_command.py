"""``gigpo export`` writes any checkpoint's policy as a folder, and starts nothing else."""

import logging
import os

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from gigpo_lightning.cli import build_cli
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from modules import AtomicCheckpointIO, LoraPolicy, PretrainedPolicy, TinyPolicy
from modules.checkpoint_folder import write_folder
from modules.checkpoint_io import read_checkpoint
from tests.conftest import ROOT

GRIDWORLD = str(ROOT / "configs" / "gridworld_cpu.yaml")
VOCABULARY = [
    "gigpo_lightning.environments.gridworld.gridworld_words",
    "gigpo_lightning.prompts.gridworld.gridworld_markers",
]
TINY = {
    "class_path": "modules.TinyPolicy",
    "init_args": {"vocabulary": VOCABULARY, "hidden_size": 16, "max_length": 64},
}
HELD = {"pytorch-lightning_version": "2.6.0", "epoch": 2, "global_step": 3}


def configuration(policy=TINY, kl_coefficient=0.1):
    """Of a run on GPUs, which plays something that is not on this machine."""
    credit = {"class_path": "gigpo_lightning.algorithm.GiGPO"}
    model = {"policy": policy, "credit": credit, "loss": {"kl_coefficient": kl_coefficient}}
    return {
        "seed_everything": 0,
        "trainer": {"accelerator": "gpu", "devices": 8, "strategy": "fsdp2", "precision": "bf16-mixed"},
        "model": {"class_path": "modules.GiGPOModule", "init_args": model},
        "data": {"class_path": "somewhere.Else"},
        "ckpt_path": None,
    }


def learnt(policy):
    """A policy that has moved."""
    noise = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn(parameter.shape, generator=noise)
    return policy.eval()


def tiny_policy():
    return learnt(TinyPolicy([gridworld_words, gridworld_markers], hidden_size=16, max_length=64).build())


def checkpoint_of(policy, path, told=None, **more):
    """Write what a Trainer would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {f"_policy.{name}": each for name, each in policy.state_dict().items()}
    trained = {
        f"_policy.{name}" for name, each in policy.named_parameters(remove_duplicate=False) if each.requires_grad
    }
    held = HELD | {"state_dict": {name: each for name, each in weights.items() if name in trained}} | more
    if told is not None:
        held["configuration"] = yaml.safe_dump(told)
    AtomicCheckpointIO().save_checkpoint(held, path)
    return path


def export(*words):
    build_cli(["export", *map(str, words)])


pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """No command line but what a test gives."""
    monkeypatch.setattr("sys.argv", ["gigpo"])


@pytest.fixture(scope="module")
def policy():
    return tiny_policy()


@pytest.fixture
def checkpoint(policy, tmp_path):
    return checkpoint_of(policy, tmp_path / "version_0" / "checkpoints" / "epoch=2-step=3.ckpt", configuration())


def assert_is(folder, policy):
    """Whether what anybody loads with Transformers alone is the policy to the last bit."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    text = "you 2 3 goal 0 1 walls up left <act> elsewhere"
    ids = tokenizer(text).input_ids
    assert ids == policy.tokenizer.encode(text)
    with torch.no_grad():
        assert torch.equal(model(torch.tensor([ids])).logits, policy.model(torch.tensor([ids])).logits)
    weights = dict(PretrainedPolicy(str(folder)).build().named_weights())
    assert all(torch.equal(weights[name], each) for name, each in policy.named_weights())


@pytest.mark.slow
def test_the_folder_is_the_policy_to_the_last_bit(policy, checkpoint, tmp_path):
    export("--ckpt_path", checkpoint, "--folder", tmp_path / "out")
    assert_is(tmp_path / "out", policy)


def test_nothing_else_is_left(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export("--ckpt_path", checkpoint, "--folder", "out")
    assert sorted(os.listdir()) == ["out", "version_0"]


def test_a_run_s_folder_means_its_last_checkpoint(policy, checkpoint, tmp_path):
    early = checkpoint_of(learnt(tiny_policy()), checkpoint.with_name("early.ckpt"), configuration(), epoch=1)
    export("--ckpt_path", early.parent.parent, "--folder", tmp_path / "out")
    assert_is(tmp_path / "out", policy)


def test_the_log_says_what_is_exported_and_where_it_is(checkpoint, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        export("--ckpt_path", checkpoint, "--folder", tmp_path / "out")
    assert f"exporting {checkpoint} (2 epochs done, global step 3)" in caplog.text
    assert f"policy written to {tmp_path / 'out'}" in caplog.text


def test_the_log_says_once_which_checkpoint_a_run_s_folder_means(checkpoint, tmp_path, caplog):
    run = checkpoint.parent.parent
    with caplog.at_level(logging.INFO):
        export("--ckpt_path", run, "--folder", tmp_path / "out")
    said = [each for each in caplog.messages if each.startswith("ckpt_path")]
    assert said == [f"ckpt_path '{run}' is {checkpoint} (2 epochs done, global step 3)"]


def test_the_configuration_beside_a_checkpoint_serves_where_it_holds_none(policy, tmp_path):
    path = checkpoint_of(policy, tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    (tmp_path / "version_0" / "config.yaml").write_text(yaml.safe_dump(configuration()))
    export("--ckpt_path", path, "--folder", tmp_path / "out")
    assert_is(tmp_path / "out", policy)


def test_an_imitation_s_policy_is_one_too(policy, tmp_path):
    told = {"model": {"class_path": "modules.BehaviourCloningModule", "init_args": {"policy": TINY}}}
    export("--ckpt_path", checkpoint_of(policy, tmp_path / "last.ckpt", told), "--folder", tmp_path / "out")
    assert_is(tmp_path / "out", policy)


def test_a_folder_with_a_file_a_rank_is_put_together(policy, tmp_path):
    whole = read_checkpoint(checkpoint_of(policy, tmp_path / "whole.ckpt", configuration()))
    path = tmp_path / "shards.ckpt"
    write_folder(path, {"state_dict": whole.pop("state_dict")}, whole)
    export("--ckpt_path", path, "--folder", tmp_path / "out")
    assert_is(tmp_path / "out", policy)


@pytest.mark.slow
def test_a_key_on_the_command_line_goes_before_the_checkpoint_s_own(policy, tmp_path):
    moved = {"class_path": "modules.PretrainedPolicy", "init_args": {"model": "/where/it/was"}}
    told = configuration(moved | {"init_args": moved["init_args"] | {"attention": "flash_attention_2"}})
    path = checkpoint_of(policy, tmp_path / "last.ckpt", told)
    tiny_policy().save_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="/where/it/was"):
        export("--ckpt_path", path, "--folder", tmp_path / "out")
    key = "--model.init_args.policy.init_args.model"
    export("--ckpt_path", path, "--folder", tmp_path / "out", key, tmp_path / "base")
    assert_is(tmp_path / "out", policy)


@pytest.mark.slow
def test_last_is_found_as_fit_finds_it_and_best_by_the_run_s_monitor(policy, checkpoint, tmp_path):
    watched = {"monitor": "loss", "best_model_path": f"/elsewhere/{checkpoint.name}"}
    callbacks = {"ModelCheckpoint": watched}
    checkpoint_of(
        learnt(tiny_policy()), checkpoint.with_name("last.ckpt"), configuration(), epoch=5, callbacks=callbacks
    )
    options = ["--config", GRIDWORLD, "--trainer.default_root_dir", tmp_path]
    options += ["--model.init_args.policy.init_args.hidden_size", "16"]
    options += ["--model.init_args.policy.init_args.intermediate_size", "128"]
    export(*options, "--ckpt_path", "last", "--folder", tmp_path / "last")
    with pytest.raises(AssertionError):
        assert_is(tmp_path / "last", policy)
    export(*options, "--ckpt_path", "best", "--folder", tmp_path / "best")
    assert_is(tmp_path / "best", policy)


@pytest.mark.slow
def test_best_needs_a_monitor(checkpoint, tmp_path):
    options = ["--config", GRIDWORLD, "--trainer.default_root_dir", tmp_path]
    with pytest.raises(ValueError, match=r"ckpt_path 'best' needs a run .* has no monitor; use 'last'"):
        export(*options, "--ckpt_path", "best", "--folder", tmp_path / "out")


class TestAdapters:
    @pytest.fixture
    def adapted(self, tmp_path):
        pytest.importorskip("peft")
        tiny_policy().save_pretrained(tmp_path / "base")
        policy = learnt(LoraPolicy(PretrainedPolicy(str(tmp_path / "base")), rank=2).build())
        base = {"class_path": "modules.PretrainedPolicy", "init_args": {"model": str(tmp_path / "base")}}
        told = configuration({"class_path": "modules.LoraPolicy", "init_args": {"base": base, "rank": 2}})
        return policy, checkpoint_of(policy, tmp_path / "lora.ckpt", told)

    def test_they_are_added_to_the_weights(self, adapted, tmp_path):
        policy, path = adapted
        export("--ckpt_path", path, "--folder", tmp_path / "out")
        merged = dict(PretrainedPolicy(str(tmp_path / "out")).build().named_weights())
        assert all(torch.equal(merged[name], each) for name, each in policy.named_weights())

    def test_or_written_alone_as_transformers_loads_them(self, adapted, tmp_path):
        policy, path = adapted
        export("--ckpt_path", path, "--folder", tmp_path / "out", "--adapter", "true")
        assert not list((tmp_path / "out").glob("model*"))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
        ids = torch.tensor([tokenizer("you 2 3 goal 0 1 <act>").input_ids])
        with torch.no_grad():
            torch.testing.assert_close(model(ids).logits, policy.model(ids).logits)

    def test_a_policy_without_them_has_none_to_write(self, checkpoint, tmp_path):
        with pytest.raises(ValueError, match="adapter must be false for a policy without adapters"):
            export("--ckpt_path", checkpoint, "--folder", tmp_path / "out", "--adapter", "true")
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "ckpt_path must name a whole checkpoint"),
        (lambda path: path.unlink(), "which is no file"),
        (lambda path: checkpoint_of(tiny_policy(), path), "the configuration of the run of .* is not known"),
        (
            lambda path: checkpoint_of(tiny_policy().model, path, configuration()),
            "must name a checkpoint of this policy; in this one _policy",
        ),
        (
            lambda path: checkpoint_of(
                tiny_policy(), path, {"model": {"class_path": "lightning.pytorch.demos.boring_classes.BoringModel"}}
            ),
            "model must be a module with a policy, such as modules.GiGPOModule, got BoringModel",
        ),
    ],
)
def test_a_checkpoint_that_cannot_be_exported_leaves_nothing(change, message, checkpoint, tmp_path):
    change(checkpoint)
    with pytest.raises(ValueError, match=message):
        export("--ckpt_path", checkpoint, "--folder", tmp_path / "out")
    assert os.listdir(tmp_path) == ["version_0"]


def test_weights_that_are_not_finite_are_not_written(checkpoint, tmp_path):
    ruined = tiny_policy()
    with torch.no_grad():
        next(iter(ruined.parameters()))[0, 0] = torch.nan
    checkpoint_of(ruined, checkpoint, configuration())
    with pytest.raises(FloatingPointError, match="must be finite"):
        export("--ckpt_path", checkpoint, "--folder", tmp_path / "out")
    assert os.listdir(tmp_path) == ["version_0"]


def test_a_folder_that_holds_something_is_left_alone(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"folder must be empty or not there, got .* which holds notes.txt; choose"):
        export("--ckpt_path", checkpoint, "--folder", tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["notes.txt"]


def test_an_export_that_breaks_off_leaves_no_folder(checkpoint, tmp_path, monkeypatch):
    def full(self, folder, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    with pytest.raises(RuntimeError, match="the disk is full"):
        export("--ckpt_path", checkpoint, "--folder", tmp_path / "out")
    assert os.listdir(tmp_path) == ["version_0"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ckpt_path", "last"], "ckpt_path 'last' needs --config, which says where the run writes"),
        (["--config", GRIDWORLD, "--ckpt_path", "last"], "ckpt_path 'last' needs a checkpoint under"),
        ([], "ckpt_path must name a checkpoint or a run's folder; give --ckpt_path"),
    ],
)
def test_a_checkpoint_that_is_not_named_is_asked_for(words, message, tmp_path):
    root = ["--trainer.default_root_dir", tmp_path]
    with pytest.raises(ValueError, match=message):
        export(*words, *root, "--folder", tmp_path / "out")


def test_a_folder_is_asked_for(checkpoint):
    with pytest.raises(ValueError, match="folder must say where to export to; give --folder"):
        export("--ckpt_path", checkpoint)


def test_the_help_of_gigpo_shows_it(capsys):
    with pytest.raises(SystemExit):
        build_cli(["--help"])
    assert "Write a checkpoint's policy as a folder for Transformers and vLLM" in " ".join(
        capsys.readouterr().out.split()
    )
