"""Checksums, pieces, and weights that travel one after the other."""

import json
import weakref
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gigpo_lightning.algorithm import GiGPO
from gigpo_lightning.engines.vllm_server import weight_source
from gigpo_lightning.engines.vllm_server.client import ServerClient, ServerError
from gigpo_lightning.engines.vllm_server.weight_transfer import FolderTransfer, NCCLTransfer
from gigpo_lightning.engines.weight_proof import (
    SAMPLED_COLUMNS,
    Piece,
    WeightProof,
    as_multiplied,
    checksum,
    from_json,
    plane,
    sampled_columns,
    show,
    show_tensors,
    to_json,
    whole_piece,
)
from gigpo_lightning.engines.weight_stream import WeightStream
from gigpo_lightning.errors import RunError
from gigpo_lightning.rollout import ServerTimeouts, TransformersEngine
from modules import GiGPOModule, LoraPolicy, TinyPolicy
from tests.engines.fake_server import FakeServer

TYPES = [torch.float32, torch.bfloat16, torch.float16]
SHORT = ServerTimeouts(start=60.0, connect=60.0, reply=60.0, weights=60.0)


@pytest.fixture
def client():
    client = ServerClient(SHORT, 4)
    yield client
    client.close()


def noise(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).to(dtype)


def flip(tensor: torch.Tensor, place: int, bit: int = 0) -> torch.Tensor:
    """The same numbers, one of them with another bit, the last unless told otherwise."""
    changed = tensor.clone()
    changed.view(torch.int16 if tensor.element_size() == 2 else torch.int32).view(-1)[place] ^= 1 << bit
    return changed


@given(st.integers(0, 11), st.integers(0, 14), st.integers(0, 1 << 40), st.sampled_from(TYPES))
def test_one_bit_anywhere_changes_the_checksum(place: int, bit: int, seed: int, dtype: torch.dtype):
    values = noise(3, 4, dtype=dtype)
    assert int(checksum(values, seed)) != int(checksum(flip(values, place, bit), seed))


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 1 << 40))
def test_the_checksum_is_a_sum_of_bits_times_odd_factors(rows: int, columns: int, seed: int):
    """What one bit adds is the same whatever the others are: the sum is linear, and exact."""
    values = noise(rows, columns).to(torch.bfloat16)
    alone = torch.zeros_like(values)
    one = int(checksum(flip(alone, rows * columns - 1), seed))
    bit = int(values.view(torch.int16).view(-1)[-1]) & 1
    difference = int(checksum(flip(values, rows * columns - 1), seed)) - int(checksum(values, seed))
    assert one % 2 == 1
    assert (difference - (-one if bit else one)) % (1 << 64) == 0


@pytest.mark.parametrize("dtype", TYPES)
def test_numbers_in_another_order_have_another_checksum(dtype: torch.dtype):
    values = noise(5, 7, dtype=dtype)
    sums = {int(checksum(each, 1)) for each in (values, values.flip(0), values.flip(1), values.roll(1, 1))}
    assert len(sums) == 4


def test_the_checksum_of_many_rows_is_that_of_the_same_rows_in_another_memory():
    values = noise(70_000, 70)
    assert int(checksum(values, 3)) == int(checksum(values.T.contiguous().T, 3))
    assert int(checksum(values, 3)) != int(checksum(flip(values, 69_999 * 70), 3))


def test_the_first_and_the_last_column_are_always_looked_at_and_the_others_in_their_turn():
    width = 4 * SAMPLED_COLUMNS
    seen = set()
    for seed in range(40):
        columns = sampled_columns(width, seed)
        assert len(columns) == len(set(columns)) == SAMPLED_COLUMNS
        assert (columns[0], columns[-1]) == (0, width - 1)
        seen |= set(columns)
    assert len(seen) > 0.99 * width
    assert sampled_columns(SAMPLED_COLUMNS, 1) == list(range(SAMPLED_COLUMNS))


def test_what_a_multiplication_cannot_keep_is_left_out_of_both_sides():
    values = torch.tensor([0.0, -0.0, 1e-39, -1e-39, 1e-37, 1.0])
    assert as_multiplied(values).tolist() == pytest.approx([0, 0, 0, 0, 1e-37, 1], rel=1e-6)
    assert not as_multiplied(values).signbit().any()


def sent(tensors: dict[str, torch.Tensor], pieces: list[Piece], seed: int = 3, scale: float = 1.0) -> WeightProof:
    proof = WeightProof({name: tensor.shape for name, tensor in tensors.items()}, pieces, seed, scale)
    for name, tensor in tensors.items():
        proof.watch(name, tensor)
    return proof


def test_pieces_of_several_devices_are_compared_each_with_its_own_rows_and_columns():
    weight = noise(6, 10)
    halves = [((0, 3), (0, 10)), ((3, 6), (0, 5)), ((3, 6), (5, 10))]
    pieces = [Piece(name="w", rows=r, columns=c, dtype="float32", held="float32") for r, c in halves]

    def shown(weight: torch.Tensor):
        parts = [(p, lambda p=p: weight[slice(*p.rows), slice(*p.columns)]) for p in pieces]
        return show(parts, 3)

    proof = sent({"w": weight}, pieces)
    assert proof.differences(shown(weight)) == []
    assert proof.differences(shown(flip(weight, 38))) == ["w"]
    assert proof.differences(shown(weight)[1:]) == ["w"]  # a device that shows nothing
    assert proof.differences(shown(weight) + shown(flip(weight, 0))) == ["w"]  # one of two copies


def test_a_weight_that_was_never_sent_differs():
    proof = WeightProof({"w": (2, 2)}, [whole_piece("w", noise(2, 2))], 0)
    assert proof.differences(show_tensors({"w": noise(2, 2)}, ["w"], 0)) == ["w"]


def test_a_weight_that_the_engine_cannot_show_is_refused_before_it_is_sent():
    half = Piece(name="w", rows=(0, 1), columns=(0, 2), dtype="float32", held="float32")
    with pytest.raises(RunError, match=r"shows 2 of 4 numbers of w: its form of this model, such as a quantized one"):
        WeightProof({"w": (2, 2)}, [half], 0)


def test_an_adapter_is_expected_multiplied_by_its_scale_where_the_engine_says_so():
    matrix = noise(3, 2).to(torch.bfloat16)
    piece = Piece(name="b", rows=(0, 3), columns=(0, 2), dtype="bfloat16", held="bfloat16", scaled=True)
    proof = sent({"b": matrix}, [piece], scale=0.3)
    assert proof.differences(show([(piece, lambda: matrix * 0.3)], 3)) == []
    assert proof.differences(show([(piece, lambda: matrix)], 3)) == ["b"]


def test_checksums_survive_their_way_through_json():
    shown = show_tensors({"w": noise(3, 4), "b": noise(4)}, ["w", "b"], 3)
    assert from_json(json.loads(json.dumps(to_json(shown)))) == shown


class Counting:
    """Weights that are made when they are asked for, as those of shards are, and how many of them are alive at most."""

    def __init__(self, count: int = 12) -> None:
        self.shapes = {f"layer.{number}.weight": (7, 5) for number in range(count)}
        self.alive: list[weakref.ref] = []
        self.most = 0

    def look(self, tensor: torch.Tensor) -> torch.Tensor:
        self.alive.append(weakref.ref(tensor))
        self.most = max(self.most, sum(each() is not None for each in self.alive))
        return tensor

    def read(self):
        for number, name in enumerate(self.shapes):
            yield name, self.look(torch.full((7, 5), float(number)))

    def stream(self) -> WeightStream:
        dtypes = dict.fromkeys(self.shapes, torch.bfloat16)
        return WeightStream(self.shapes, self.read, dtypes, lambda _, cast: self.look(cast) is None)


def through_memory(weights: Counting, client, monkeypatch) -> dict[str, torch.Tensor]:
    taken = {name: torch.empty(7, 5, dtype=torch.bfloat16) for name in weights.shapes}
    engine = TransformersEngine()
    engine._model = SimpleNamespace(state_dict=lambda: taken)
    engine.load_weights(weights.stream(), 0)
    return taken


def through_a_folder(weights: Counting, client, monkeypatch) -> dict[str, torch.Tensor]:
    server = FakeServer()
    transfer = FolderTransfer(client, part_bytes=3 * 70)
    try:
        transfer.send([server.url], weights.stream(), "x")
    finally:
        transfer.close()
        server.close()
    return server.weights


def old_base():
    """What vLLM 0.32 has."""

    class WeightSource:
        def metadata(self):
            raise NotImplementedError

        def __iter__(self):
            raise NotImplementedError

    return SimpleNamespace(WeightSource=WeightSource, ParamMeta=Meta)


def new_base():
    """What vLLM 0.33 has."""

    class WeightSource:
        def __init_subclass__(cls, **kwargs):
            super().__init_subclass__(**kwargs)
            metadata = cls.__dict__.get("metadata")
            if metadata is not None and not isinstance(metadata, cached_property):
                raise TypeError(f"{cls.__name__}.metadata must be a functools.cached_property")

        @property
        def metadata(self):
            raise NotImplementedError

        def iter_full(self):
            raise NotImplementedError

    return SimpleNamespace(WeightSource=WeightSource, ParamMeta=Meta)


@dataclass(frozen=True)
class Meta:
    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]


def sent_as_vllm_does(source) -> dict[str, torch.Tensor]:
    """What its sender asks the source for in a round, and checks."""
    new = hasattr(source, "iter_full")
    described = iter(source.metadata if new else source.metadata())
    taken = {}
    for name, tensor in source.iter_full() if new else source:
        expected = next(described)
        assert (name, tensor.dtype, tuple(tensor.shape)) == (expected.name, expected.dtype, expected.shape)
        taken[name] = tensor.clone()
        del tensor
    assert next(described, None) is None
    return taken


def through_nccl(weights: Counting, client, monkeypatch, base=old_base) -> dict[str, torch.Tensor]:
    monkeypatch.setattr("gigpo_lightning.engines.vllm_server.weight_source._on_gpu", lambda tensor: tensor)
    transfer = NCCLTransfer(client, ["a"], [1], "127.0.0.1")
    transfer._source, taken = weight_source.weight_source(base()), {}
    transfer._engine = SimpleNamespace(send_weights=lambda: taken.update(sent_as_vllm_does(transfer._source)))
    transfer.send(["a"], weights.stream(), "x")
    return taken


def through_nccl_of_tomorrow(weights: Counting, client, monkeypatch) -> dict[str, torch.Tensor]:
    return through_nccl(weights, client, monkeypatch, new_base)


@pytest.mark.parametrize("transport", [through_memory, through_a_folder, through_nccl, through_nccl_of_tomorrow])
def test_at_no_time_are_more_than_a_weight_and_its_cast_whole(transport, client, monkeypatch):
    weights = Counting()
    taken = transport(weights, client, monkeypatch)
    assert weights.most == 2
    assert taken.keys() == weights.shapes.keys()
    assert {tensor.dtype for tensor in taken.values()} == {torch.bfloat16}
    assert [float(taken[name][0, 0]) for name in weights.shapes] == list(range(12))


@pytest.mark.parametrize("base", [old_base, new_base])
def test_every_round_describes_its_own_weights(base, monkeypatch):
    monkeypatch.setattr("gigpo_lightning.engines.vllm_server.weight_source._on_gpu", lambda tensor: tensor)
    source = weight_source.weight_source(base())
    for count in (3, 5):
        source.send_next(Counting(count).stream())
        assert len(sent_as_vllm_does(source)) == count


def test_shapes_must_be_known_before_gpus_can_meet(client):
    with pytest.raises(TypeError, match="must be a WeightStream: its shapes are told first; got list"):
        NCCLTransfer(client, ["a"], [1], "127.0.0.1").send(["a"], [], "x")


def test_an_update_is_given_up_by_what_no_version_takes_for_weights(client, monkeypatch):
    told = []

    def post_all(urls, path, payloads, seconds):
        told.append(payloads)
        raise ServerError("a", "refuses it", 500)

    monkeypatch.setattr(client, "post_all", post_all)
    NCCLTransfer(client, ["a"], [1], "127.0.0.1")._control.give_up()
    (payload,) = told
    assert payload["update_info"]
    assert not {"names", "dtype_names", "shapes"} & payload["update_info"].keys()


def words() -> list[str]:
    return [f"w{number}" for number in range(9)]


@pytest.mark.parametrize("adapted", [False, True])
def test_the_shapes_that_are_told_first_are_those_of_what_follows(adapted: bool):
    source = TinyPolicy([words], hidden_size=16, max_length=64)
    module = GiGPOModule(LoraPolicy(source, rank=2) if adapted else source, GiGPO())
    assert list(module.weight_shapes().items()) == [(name, tuple(w.shape)) for name, w in module.named_weights()]


def test_a_policy_with_adapters_holds_one_merged_weight_at_a_time():
    module = GiGPOModule(LoraPolicy(TinyPolicy([words], hidden_size=16, max_length=64), rank=2), GiGPO())
    alive, most = [], 0
    for name, weight in module.named_weights():
        if name.endswith("_proj.weight"):
            alive.append(weakref.ref(weight))
        most = max(most, sum(each() is not None for each in alive))
        del weight
    assert most == 1
    assert len(alive) > 10


def test_every_kind_of_tensor_that_transformers_holds_is_noticed_by_its_last_bit():
    module = GiGPOModule(TinyPolicy([words], hidden_size=16, max_length=64), GiGPO())
    tensors = dict(module.named_weights())
    proof = sent(tensors, [whole_piece(name, tensor) for name, tensor in tensors.items()])
    for name, tensor in tensors.items():
        assert plane(tensor).dim() == 2
        assert proof.differences(show_tensors(tensors | {name: flip(tensor, tensor.numel() - 1)}, tensors, 3)) == [name]
