"""The page "When something looks wrong" names keys and scalars that there are."""

import inspect
import re

import lightning.pytorch
import pytest

import datamodules
import modules
from gigpo_lightning.algorithm import GiGPO, LossSettings
from gigpo_lightning.rollout import RolloutPlayer, SamplingParameters
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "troubleshooting.md").read_text()
KEYS = sorted(set(re.findall(r"`(?:--)?((?:data|model|trainer)\.[\w.]+)", PAGE)) - {"model.optimizer.lr"})
SCALARS = sorted(set(re.findall(r"`((?:rollout|anchors|credit|loss|sync|time|memory)/\w+(?:/\w+)?)`", PAGE)))

# What the arguments of a key's class are, by the beginning of the key.
OWNERS = {
    "model.loss": [LossSettings],
    "model.credit": [GiGPO],
    "model": [modules.GiGPOModule],
    "data.sampling": [SamplingParameters],
    "data": [datamodules.RolloutDataModule, RolloutPlayer],
    "trainer": [lightning.pytorch.Trainer],
}


@pytest.mark.parametrize("key", KEYS)
def test_a_key_of_the_page_is_an_argument(key):
    owner, _, name = key.rpartition(".")
    classes = OWNERS[owner]
    assert any(name in inspect.signature(each).parameters for each in classes), classes


@pytest.mark.parametrize("name", SCALARS)
def test_a_scalar_of_the_page_is_logged(name):
    written = {
        "anchors/group_size_share/over_50": "anchors/group_size_share/",
        "loss/gradient_norm": "gradient_norm",
        "loss/clip_fraction": "clip_fraction",
        "loss/entropy": "entropy",
        "rollout/invalid_action_rate": "invalid_action_rate",
        "rollout/success_rate": "success_rate",
    }.get(name, name)
    sources = [path for folder in ("callbacks", "modules", "gigpo_lightning") for path in (ROOT / folder).rglob("*.py")]
    assert any(f'"{written}' in path.read_text() for path in sources)


def test_the_page_has_keys_and_scalars_at_all():
    assert len(KEYS) > 15
    assert len(SCALARS) > 12
