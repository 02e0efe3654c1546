"""A policy made in shares is the policy, and no rank holds more of it at a time than its shares and a weight."""

import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from modules import LoraPolicy, Policy, PretrainedPolicy, TinyPolicy, sharded_policy
from modules.policy import PolicySource
from modules.sharded_policy import copy_shares, share_out

CPU = torch.device("cpu")
RANKS, RANK = 4, 2


@pytest.fixture
def become_a_rank(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Makes this process a rank of a job whose other ranks are not there: what needs no word from them can be done."""

    def begin() -> None:
        torch.distributed.init_process_group("fake", rank=RANK, world_size=RANKS, store=FakeStore())
        monkeypatch.setattr(sharded_policy, "together", lambda action: action())

    yield begin
    torch.distributed.destroy_process_group()


def shard(policy: Policy) -> None:
    mesh = init_device_mesh("cpu", (RANKS,))
    for block in policy.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(policy, mesh=mesh)


def tiny(**options) -> TinyPolicy:
    return TinyPolicy([gridworld_words, gridworld_markers], hidden_size=32, max_length=64, seed=3, **options)


def checkpoint(folder: Path, *, tied: bool = True, parts: bool = False) -> PretrainedPolicy:
    policy = tiny(tie_embeddings=tied).build()
    policy.model.save_pretrained(folder, **({"max_shard_size": "20KB"} if parts else {}))
    policy.tokenizer.tokenizer.save_pretrained(folder)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == parts
    return PretrainedPolicy(str(folder), gradient_checkpointing=True)


def share_of(weight: torch.Tensor) -> torch.Tensor:
    """The rows of a weight that FSDP2 gives the rank."""
    parts = weight.chunk(RANKS)
    return parts[RANK] if len(parts) > RANK else weight[:0]


def made(source: PolicySource) -> Policy:
    policy = share_out(source, shard, CPU)
    assert policy is not None
    return policy


def check_shares(policy: Policy, whole: Policy) -> None:
    theirs = dict(whole.model.named_parameters(remove_duplicate=False))
    ours = dict(policy.model.named_parameters(remove_duplicate=False))
    assert ours.keys() == theirs.keys()
    for name, weight in ours.items():
        assert isinstance(weight, DTensor)
        assert weight.requires_grad == theirs[name].requires_grad
        torch.testing.assert_close(weight.to_local(), share_of(theirs[name]), rtol=0, atol=0, msg=name)
    torch.testing.assert_close(dict(policy.model.named_buffers()), dict(whole.model.named_buffers()), rtol=0, atol=0)
    assert policy.tokenizer.stop_token_ids == whole.tokenizer.stop_token_ids
    assert {module.training for module in policy.model.modules()} == {
        module.training for module in whole.model.modules()
    }
    assert policy.model.is_gradient_checkpointing == whole.model.is_gradient_checkpointing
    assert len([*policy.parameters()]) == len([*whole.parameters()])  # tied weights are one


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("parts", [True, False])
def test_shares_of_a_checkpoint_are_the_rows_of_the_policy(tmp_path, tied, parts, become_a_rank):
    source = checkpoint(tmp_path, tied=tied, parts=parts)
    become_a_rank()
    policy = made(source)
    check_shares(policy, source.build())
    again = source.unloaded()[0]
    shard(again)
    copy_shares(policy, again, CPU)
    check_shares(again, source.build())
    assert next(again.parameters()).to_local().data_ptr() != next(policy.parameters()).to_local().data_ptr()


@pytest.mark.parametrize("targets", [None, ["q_proj", "down_proj"]])
def test_shares_of_adapters_are_the_rows_of_those_that_are_made_whole(tmp_path, targets, become_a_rank):
    sources = (tiny(), checkpoint(tmp_path))
    become_a_rank()
    for source in sources:
        adapted = LoraPolicy(source, rank=4, targets=targets)
        check_shares(made(adapted), adapted.build())


class Living(TorchDispatchMode):
    """Adds up the memory of the tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        result = operation(*arguments, **(keywords or {}))
        for tensor in tree_leaves(result):
            if type(tensor) is torch.Tensor and not tensor.is_meta:
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.forget, key, size)

    def forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def test_a_policy_and_its_reference_take_twice_the_shares_and_one_weight(tmp_path, monkeypatch, become_a_rank):
    source = checkpoint(tmp_path)
    become_a_rank()
    weights = {name: weight.numel() * 4 for name, weight in source.build().named_parameters()}
    monkeypatch.setattr(PretrainedPolicy, "build", lambda self: pytest.fail("the policy was made whole"))
    with Living() as living:
        policy = made(source)
        again = source.unloaded()[0]
        shard(again)
        copy_shares(policy, again, CPU)
    shares = sum(weight.to_local().numel() * 4 for weight in policy.parameters())
    buffers = sum(buffer.numel() * 4 for buffer in policy.buffers())
    assert shares < 0.3 * sum(weights.values())
    assert shares <= living.most <= 2 * (shares + 2 * buffers) + max(weights.values())


def test_only_rows_of_the_rank_are_read(tmp_path, monkeypatch, become_a_rank):
    source = checkpoint(tmp_path)
    become_a_rank()
    asked: list[tuple[str, slice]] = []
    unloaded = PretrainedPolicy.unloaded

    class Watched:
        def __init__(self, name, stored):
            self.name, self.stored = name, stored

        def __getitem__(self, rows):
            asked.append((self.name, rows))
            return self.stored[rows]

    def watched(self):
        policy, weights = unloaded(self)
        return policy, ((name, Watched(name, stored)) for name, stored in weights)

    monkeypatch.setattr(PretrainedPolicy, "unloaded", watched)
    policy = made(source)
    shapes = {name: weight.shape[0] for name, weight in policy.model.named_parameters()}
    assert {name for name, _ in asked} == shapes.keys()
    for name, rows in asked:
        assert rows.stop - rows.start == len(share_of(torch.empty(shapes[name], 1)))


def test_a_checkpoint_whose_names_are_others_is_read_whole(tmp_path, become_a_rank):
    source = checkpoint(tmp_path)
    become_a_rank()
    file = tmp_path / "model.safetensors"
    save_file({f"older.{name}": weight for name, weight in load_file(file).items()}, file, {"format": "pt"})
    assert share_out(source, shard, CPU) is None
    assert LoraPolicy(source).unloaded() is None


class Elsewhere:
    """A source of a user's own, that can only be made whole."""

    def build(self) -> Policy:
        return tiny().build()


@pytest.mark.slow
def test_a_weight_that_is_not_finite_is_named(tmp_path, become_a_rank):
    source = checkpoint(tmp_path)
    become_a_rank()
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"][:] = torch.nan
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"finite weights, but model\.norm\.weight is not"):
        share_out(source, shard, CPU)
    with pytest.raises(ValueError, match="can be loaded, got 'nowhere'"):
        PretrainedPolicy("nowhere").unloaded()
    assert LoraPolicy(Elsewhere()).unloaded() is None
