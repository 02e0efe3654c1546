"""What is no checkpoint folder is called by its name, and the message says what to give instead."""

import pytest

from modules import PretrainedPolicy
from modules.model_folder import check_model, why_not


def test_for_a_file_of_weights_its_folder_is_asked_for(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ValueError, match=f"got the file '{path}'; give the folder that it is in, '{tmp_path}'"):
        PretrainedPolicy(str(path)).skeleton()


@pytest.mark.parametrize("given", ["", "checkpoints/last.ckpt"])
def test_for_a_run_its_export_is_named(tmp_path, given):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    path.touch()
    with pytest.raises(ValueError, match=f"gigpo export --ckpt_path {path} --folder out makes a checkpoint folder"):
        PretrainedPolicy(str(tmp_path / given)).build()


def test_a_folder_and_a_name_pass(tmp_path):
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).touch()
    (tmp_path / "checkpoints").mkdir()
    check_model(str(tmp_path))
    check_model("Qwen/Qwen2.5-1.5B-Instruct")


def test_a_missing_tokenizer_is_named_with_what_is_there(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(ValueError, match=r"has no tokenizer \(tokenizer.json, .*\); it holds config.json\. Copy"):
        PretrainedPolicy(str(tmp_path)).skeleton()


def test_a_misspelt_folder_gets_the_nearest(tmp_path):
    (tmp_path / "model").mkdir()
    said = why_not(str(tmp_path / "models"), OSError("whatever"))
    assert said.endswith(f"got '{tmp_path}/models': there is no such folder; did you mean model?")
