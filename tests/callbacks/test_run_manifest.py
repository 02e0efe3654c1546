"""A run's manifest says what it was made of, the engine included."""

import json

from lightning.pytorch.loggers import CSVLogger

from callbacks import RunManifest
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def manifest(tmp_path, engine_of=random_walk) -> dict:
    module = tiny_module()
    trainer = quiet_trainer(
        tmp_path, ScriptedSync(), RunManifest(), logger=CSVLogger(tmp_path), max_epochs=1, limit_val_batches=0
    )
    trainer.fit(module, walking_data(engine_of(module)))
    return json.loads((tmp_path / "lightning_logs" / "version_0" / "manifest.json").read_text())


def test_it_names_the_engine_and_the_versions(tmp_path):
    found = manifest(tmp_path)
    assert found["engine"] == {"class": "ScriptedEngine"}
    assert {"torch", "lightning"} <= found["versions"].keys()


def test_what_only_the_engine_s_start_decides_is_in_it(tmp_path):
    def telling(module):
        engine = random_walk(module)
        engine.details = lambda: {"model_runner": "V2"} if engine.policy_version >= 0 else {}
        return engine

    assert manifest(tmp_path, telling)["engine"] == {"class": "ScriptedEngine", "model_runner": "V2"}
