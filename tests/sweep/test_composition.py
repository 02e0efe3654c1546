"""What a sweep's command line asks for: which runs, in which folders, with which options of `gigpo fit`."""

from pathlib import Path

import pytest

from gigpo_lightning.sweep.composition import CONFIGS, compose


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
            *("--config", f"{CONFIGS}/alfworld/tiny_cpu.yaml", "--config", f"{CONFIGS}/credit/grpo.yaml"),
            '--data.init_args.sampling={"temperature": 0.5}',
        )

    def test_a_sweep_can_be_written_down_and_what_is_said_goes_on_top(self):
        runs = composed("credit=rloo", "trainer.max_epochs=7", config_name="gridworld").runs
        assert [run.overrides["seed_everything"] for run in runs] == ["0", "1", "2"]
        assert runs[0].options == (
            *("--config", f"{CONFIGS}/gridworld_cpu.yaml", "--config", f"{CONFIGS}/credit/rloo.yaml"),
            *("--config", '{"trainer": {"max_epochs": 20}}', "--seed_everything=0", "--trainer.max_epochs=7"),
        )

    def test_configs_of_one_s_own_are_found_beside_the_project_s(self, tmp_path):
        for name in ("mine", "sweep/mine", "credit/mine"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / f"{name}.yaml").write_text("{}\n")
        (tmp_path / "sweep/mine.yaml").write_text("# @package _global_\ndefaults: [/run: mine, /credit: mine]\n")
        (run,) = composed(config_name="mine", folders=[tmp_path]).runs
        files = (str(tmp_path / "mine.yaml"), str(tmp_path / "credit/mine.yaml"))
        assert run.options == tuple(word for file in files for word in ("--config", file))

    def test_hydra_s_own_settings_are_no_part_of_a_run(self):
        sweep = composed("hydra/launcher=joblib", "hydra.launcher.n_jobs=3", "hydra.sweep.dir=a b")
        assert sweep.folder == Path("a b")
        assert sweep.config.hydra.launcher.n_jobs == 3
        assert sweep.runs[0].options == ("--config", f"{CONFIGS}/gridworld_cpu.yaml")

    @pytest.mark.parametrize(
        ("words", "expected"),
        [
            (("credit=grppo",), "credit must be one of a2tgpo, "),
            (("run=alfworld/tiny",), "run must be one of alfworld/chat_qwen3_1.7b, "),
            (("hydra/launcher=dask",), "Could not find 'hydra/launcher/dask' Available options"),
            (("hydra.launcher.n_jobs=2",), "Could not override 'hydra.launcher.n_jobs'"),
            (("max_epochs",), "max_epochs"),
            (("seed_everything=interval(0,1)",), "a sweep must list its values, got seed_everything=interval(0,1)"),
            (("seed_everything=1,1",), "each run must be asked for once, but seed_everything=1 is asked for 2 times"),
            (("trainer.default_root_dir=x",), "trainer.default_root_dir must be left to the sweep"),
            (("seed_everything=${oc.env:SEED}",), "a value must be written out, got seed_everything=${oc.env:SEED}"),
            (("~trainer.callbacks",), "a key cannot be deleted, or put in a package, got ~trainer.callbacks"),
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
        with pytest.raises(ValueError, match="--config-name must be one of default, gridworld, got 'nowhere'"):
            composed(config_name="nowhere")


class TestAFile:
    """Of a user's own folder, damaged."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"defaults: [default]\ndefaults: [default]\n", "the key 'defaults' stands twice"),
            (b"- 1\n", "must hold settings, each with its key, got list [1]"),
            (b"defaults: [/creit: null]\n", "creit must name a folder of configs"),
            ("defaults: [default] # é".encode("utf-16"), "is in UTF-16"),
        ],
    )
    def test_that_cannot_be_read_is_named(self, tmp_path, content, expected):
        (tmp_path / "sweep").mkdir()
        (tmp_path / "sweep/mine.yaml").write_bytes(content)
        with pytest.raises(ValueError, match="mine") as error:
            compose("mine", [tmp_path], [], multirun=False)
        assert expected in str(error.value)
        assert "\n" not in str(error.value)
