"""An exported policy is what was trained, for whoever loads or serves it."""

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import pytest
import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from callbacks import Export
from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.rollout import GenerationRequest, SamplingParameters, VLLMEngine
from gigpo_lightning.token_batch import make_token_batch
from modules import BehaviourCloningModule, GiGPOModule, LoraPolicy, Policy, PretrainedPolicy, TinyPolicy
from modules.tokenizer import TransformersTokenizer
from tests.engines.real_server import free_port
from tests.scripted_run import ScriptedSync, quiet_trainer, random_walk, tiny_module, walking_data


def source(tie_embeddings=True, hidden_size=16):
    vocabulary = [gridworld_words, gridworld_markers]
    return TinyPolicy(vocabulary, hidden_size=hidden_size, max_length=64, tie_embeddings=tie_embeddings)


def fit(folder, export, module=None, epochs=3):
    module = module or tiny_module()
    trainer = quiet_trainer(folder, ScriptedSync(), export, max_epochs=epochs, limit_val_batches=0)
    trainer.fit(module, walking_data(random_walk(module)))
    return module


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def logprobs(policy, ids):
    """Of every token but the first."""
    with torch.no_grad():
        return policy.eval()(make_token_batch([(ids[:1], ids[1:])], 0))[0][0]


def loaded(folder):
    """What anybody loads with Transformers alone, as a policy."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    return Policy(model, TransformersTokenizer(AutoTokenizer.from_pretrained(folder)))


@pytest.mark.slow
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_the_last_export_is_the_policy_to_the_last_bit(tmp_path, tie_embeddings):
    module = fit(tmp_path, Export(every_n_epochs=2), GiGPOModule(source(tie_embeddings), GiGPO()))
    assert names(tmp_path / "exports") == ["epoch_1", "epoch_2"]  # the second, and the end
    folder = tmp_path / "exports" / "epoch_2"
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(names(folder))
    policy, ids = loaded(folder), module.policy.tokenizer.encode(" ".join(gridworld_words()[:9]))
    assert policy.tokenizer.encode(" ".join(gridworld_words()[:9])) == ids
    assert torch.equal(logprobs(policy, ids), logprobs(module.policy, ids))
    assert torch.equal(logprobs(PretrainedPolicy(str(folder)).build(), ids), logprobs(module.policy, ids))
    assert not torch.equal(logprobs(loaded(tmp_path / "exports" / "epoch_1"), ids), logprobs(policy, ids))


def test_adapters_are_added_to_what_is_exported(tmp_path):
    module = fit(tmp_path, Export(), GiGPOModule(LoraPolicy(source(), rank=2), GiGPO()), epochs=1)
    exported, ids = loaded(tmp_path / "exports" / "epoch_0"), [3, 4, 5, 6]
    torch.testing.assert_close(logprobs(exported, ids), logprobs(module.policy, ids), atol=1e-5, rtol=0)
    assert not torch.allclose(logprobs(source().build(), ids), logprobs(exported, ids), atol=1e-5)


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_weights_that_were_gathered_are_written_as_they_are_and_tied_ones_once(tmp_path, tie_embeddings):
    policy = source(tie_embeddings).build()
    gathered = {name: tensor.clone() + 1 for name, tensor in policy.named_weights()}  # each a tensor of its own
    policy.save_pretrained(tmp_path / "gathered", gathered)
    policy.save_pretrained(tmp_path / "own")
    sizes = [(tmp_path / each / "model.safetensors").stat().st_size for each in ("gathered", "own")]
    assert sizes[0] == sizes[1]
    back = dict(PretrainedPolicy(str(tmp_path / "gathered")).build().named_weights())
    assert all(torch.equal(back[name], tensor) for name, tensor in gathered.items())


@pytest.mark.slow
def test_the_newest_are_kept(tmp_path):
    (tmp_path / "mine" / "epoch_0").mkdir(parents=True)
    (tmp_path / "mine" / "epoch_900").mkdir()
    fit(tmp_path, Export(folder="mine", keep=2), epochs=4)
    assert names(tmp_path / "mine") == ["epoch_2", "epoch_3", "epoch_900"]  # nothing but what this run has written


@pytest.mark.slow
def test_a_run_that_goes_on_with_nothing_left_to_train_writes_what_it_was_given(tmp_path):
    module = fit(tmp_path, Export(folder="before"), epochs=2)
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    again, export = tiny_module(), Export()
    trainer = quiet_trainer(tmp_path, ScriptedSync(), export, max_epochs=2, limit_val_batches=0)
    trainer.fit(again, walking_data(random_walk(again)), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert names(tmp_path / "exports") == ["epoch_1"]
    ids = [3, 4, 5, 6]
    assert torch.equal(logprobs(loaded(tmp_path / "exports" / "epoch_1"), ids), logprobs(module.policy, ids))


@pytest.mark.parametrize("before", [False, True])
def test_an_export_that_breaks_off_leaves_no_folder_that_looks_whole(tmp_path, monkeypatch, before):
    module = tiny_module()
    write = PreTrainedTokenizerFast.save_pretrained

    def full(self, folder, **options):
        write(self, folder, **options)
        raise OSError("no space left on device")

    if before:
        fit(tmp_path, Export(), module, epochs=1)
    monkeypatch.setattr(PreTrainedTokenizerFast, "save_pretrained", full)
    with pytest.raises(OSError, match="no space left"):
        fit(tmp_path, Export(), module, epochs=1)
    assert names(tmp_path / "exports") == ["epoch_0"] * before
    if before:
        AutoModelForCausalLM.from_pretrained(tmp_path / "exports" / "epoch_0")


def test_what_a_killed_run_has_left_is_written_over(tmp_path):
    left = tmp_path / "exports" / ".epoch_0"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    fit(tmp_path, Export(), epochs=1)
    assert names(tmp_path / "exports") == ["epoch_0"]


def test_an_imitation_is_exported_too(tmp_path):
    module = BehaviourCloningModule(source())
    batch = make_token_batch([((3, 4), (5, 2))], 0)
    quiet_trainer(tmp_path, Export(), max_epochs=1).fit(module, DataLoader([batch] * 3, batch_size=None))
    assert torch.equal(
        logprobs(loaded(tmp_path / "exports" / "epoch_0"), [3, 4, 5]), logprobs(module.policy, [3, 4, 5])
    )


class Plain(LightningModule):
    """Has no policy."""

    def training_step(self, batch, batch_idx):
        raise AssertionError("it must not get so far")

    def configure_optimizers(self):
        return None


def test_a_module_without_a_policy_is_refused_before_it_is_trained(tmp_path):
    with pytest.raises(ValueError, match="Export needs a module with a policy, got Plain"):
        quiet_trainer(tmp_path, Export(), max_epochs=1).fit(Plain(), DataLoader([0]))


@pytest.mark.parametrize("name", ["every_n_epochs", "keep"])
def test_a_number_that_exports_nothing_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be >= 1, got 0"):
        Export(**{name: 0})


def ask(url, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        return json.loads(answer.read() or "{}")


def from_a_server(folder, prompt):
    """The five likeliest next tokens of ``vllm serve``, and their log-probabilities."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1", "VLLM_NO_USAGE_STATS": "1"}
    environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # on CPUs: no process more for its worker
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "policy", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--dtype", "float32", "--enforce-eager", "--kv-cache-memory-bytes", str(1 << 27)]
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(f"{url}/health", process, log)
            body = {"model": "policy", "prompt": prompt, "max_tokens": 5, "temperature": 0, "logprobs": 1}
            answer = ask(f"{url}/v1/completions", body | {"return_token_ids": True, "ignore_eos": True})
        finally:
            process.terminate()
            process.wait(timeout=600)
    (choice,) = answer["choices"]
    return choice["token_ids"], choice["logprobs"]["token_logprobs"]


def from_an_engine(folder, prompt):
    """The same of vLLM in this process, which takes the weights from the folder."""
    engine = VLLMEngine(kv_cache_gib=0.125, options={"load_format": "auto"})
    engine.start(str(folder))
    sampling = SamplingParameters(temperature=0.0, max_tokens=5)
    engine.submit(
        GenerationRequest(request_id="1", prompt_ids=tuple(prompt), sampling=sampling, stop_token_ids=(), seed=0)
    )
    (completion,) = engine.poll()
    engine.close()
    return list(completion.token_ids), completion.logprobs


@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.parametrize(("tie_embeddings", "likeliest"), [(True, from_a_server), (False, from_an_engine)])
def test_vllm_takes_the_folder_and_has_the_policy_s_own_logprobs(tmp_path, tie_embeddings, likeliest):
    module = fit(tmp_path, Export(), GiGPOModule(source(tie_embeddings, hidden_size=64), GiGPO()), epochs=1)
    prompt = module.policy.tokenizer.encode(" ".join(gridworld_words()[:6]))
    ids, served = likeliest(tmp_path / "exports" / "epoch_0", prompt)
    assert len(ids) == 5
    own = logprobs(module.policy, [*prompt, *ids])[-5:]
    torch.testing.assert_close(torch.tensor(served), own, atol=1e-4, rtol=0)
    greedy = list(prompt)
    for _ in range(5):
        with torch.no_grad():
            greedy.append(int(module.policy.model(input_ids=torch.tensor([greedy])).logits[0, -1].argmax()))
    assert greedy[len(prompt) :] == ids


def wait_for(url, process, log):
    end = time.monotonic() + 1200
    while True:
        try:
            ask(url)
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None or time.monotonic() > end:
                log.seek(0)
                raise AssertionError(log.read().decode(errors="replace")[-4000:]) from None
        time.sleep(1)
