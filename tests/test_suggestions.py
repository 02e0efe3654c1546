"""What is misspelt is answered with what may be meant."""

import pytest

from gigpo_lightning.suggestions import did_you_mean, missing_methods, near_class, near_setting


class HalfAnEstimator:
    """Has one of the three methods."""

    def estimate(self, table):
        return None


class OtherEstimator(HalfAnEstimator):
    """Has them all, one with another argument."""

    def estimate(self, groups, table):
        return None

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_what_is_like_nothing_gets_no_suggestion():
    assert did_you_mean("xylophone", ["group_size", "max_steps"]) == ""


def test_capital_letters_do_not_matter():
    assert did_you_mean("GIGPO", ["GiGPO", "HGPO", "SimilarityGrouping"], 1) == "; did you mean GiGPO?"


@pytest.mark.parametrize(
    ("owner", "setting", "meant"),
    [
        ("datamodules.RolloutDataModule", "groupsize", "group_size"),
        ("datamodules.RolloutDataModule", "sampling.temperatures", "sampling.temperature"),
        ("modules.GiGPOModule", "loss.clip_hi", "loss.clip_high"),
        ("nowhere.Class", "groupsize", ""),
    ],
)
def test_a_setting_is_looked_for_among_those_of_its_class(owner, setting, meant):
    assert near_setting(owner, setting).partition("did you mean ")[2].partition("?")[0].split(" or ")[0] == meant


@pytest.mark.parametrize(
    ("class_path", "meant"),
    [
        ("gigpo_lightning.algorithm.GRP0", "gigpo_lightning.algorithm.GRPO"),
        ("gigpo_lightning.algorithms.GRPO", "gigpo_lightning.algorithm"),
        ("module.GiGPOModule", "PYTHONPATH; did you mean modules"),
        ("corridor.Corridor", "the folder that holds corridor must be on PYTHONPATH"),
    ],
)
def test_a_class_is_looked_for_in_its_module_and_a_module_in_its_package(class_path, meant):
    assert meant in near_class(class_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("HalfAnEstimator", "it has no method state_dict, load_state_dict"),
        ("OtherEstimator", "its methods must be estimate(self, table), with these annotations"),
    ],
)
def test_what_a_class_lacks_of_a_protocol_is_named(name, said):
    assert missing_methods(f"{__name__}.{name}", "CreditEstimator") == said
