"""How the trainer's weights reach vLLM servers: the trainer's side of vLLM's weight transfer."""

import contextlib
import secrets
import shutil
import socket
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import save_file

from gigpo_lightning.disk import room_for
from gigpo_lightning.engines.vllm_server.client import ServerClient, ServerError
from gigpo_lightning.engines.vllm_server.plugin import GIVE_UP, PREFIX
from gigpo_lightning.engines.vllm_server.weight_source import weight_source
from gigpo_lightning.engines.weight_stream import NamedTensors, WeightStream


class FolderTransfer:
    """Writes the weights to a folder that the servers read, part by part; works on every device.

    A server that was lost gets the next weights as any other.

    Args:
        client: Talks to the servers.
        folder: Where the parts are written, and removed once every server has read them; default: a temporary folder.
        part_bytes: Size from which a part is sent: no more than this, or one tensor, lies in the folder at once.
    """

    takes_back = True
    """Whether a server that was lost can take part again."""

    def __init__(self, client: ServerClient, folder: str | None = None, part_bytes: int = 1 << 30) -> None:
        self._client = client
        if folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="gigpo-weights-"))
        else:  # one that the servers' users may read, too
            self._folder = Path(folder) / f"gigpo-weights-{secrets.token_hex(4)}"
            self._folder.mkdir(parents=True)
        self._remove = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        self._part_bytes = part_bytes
        self._parts = 0

    def send(self, urls: Sequence[str], named_tensors: NamedTensors, label: str) -> None:
        """Replace the servers' weights by these, which their replies then name by the label.

        Raises:
            ServerError: If a server fails.
            FullDiskError: If there is no room for a part.
        """
        control = _Control(self._client, urls, label)
        try:
            control.start_weight_update()
        except ServerError:  # a run that was killed may have left an update open
            control.give_up()
            control.start_weight_update()
        try:
            for part in _parts(named_tensors, self._part_bytes):
                self._parts += 1
                file = self._folder / f"part-{self._parts}.safetensors"  # a name that no file system remembers
                try:
                    with room_for(file):
                        save_file(part, file)
                    control.update_weights({"file": str(file)})
                finally:
                    file.unlink(missing_ok=True)
        except BaseException:
            control.give_up()
            raise
        control.finish_weight_update()

    def close(self) -> None:
        """Remove the folder."""
        self._remove()


class NCCLTransfer:
    """Sends the weights from GPU to GPU, by vLLM's own NCCL transfer.

    The GPUs meet through a store on ``address`` that unpickles what it is sent: only the servers may reach it. A server
    that is lost takes the group of GPUs with it.

    Args:
        client: Talks to the servers.
        urls: The servers.
        world_sizes: GPUs of each server.
        address: This machine's, as the servers see it.
    """

    takes_back = False

    def __init__(self, client: ServerClient, urls: Sequence[str], world_sizes: Sequence[int], address: str) -> None:
        self._control = _Control(client, urls, "", world_sizes)
        self._urls = list(urls)
        self._world_size = 1 + sum(world_sizes)
        self._address = address
        self._engine: Any = None
        self._source: Any = None

    def send(self, urls: Sequence[str], named_tensors: NamedTensors, label: str) -> None:
        """Replace the servers' weights by these, which their replies then name by the label.

        Raises:
            ServerError: If a server fails, or one is missing: the group of GPUs is what it was at the start.
            TypeError: If the tensors are no ``WeightStream``: the servers must be told the shapes first.
        """
        for url in self._urls:
            if url not in urls:
                raise ServerError(url, "is lost, and with it the group of GPUs that weights travel in")
        if not isinstance(named_tensors, WeightStream):
            raise TypeError(
                f"named_tensors must be a WeightStream: its shapes are told first; got {type(named_tensors).__name__}"
            )
        self._control.label = label
        if self._source is None:
            from vllm.distributed.weight_transfer import base

            self._source = weight_source(base)
        self._source.send_next(named_tensors)
        if self._engine is None:
            self._control.give_up()  # what a run that was killed may have left open
            self._open()
        self._engine.send_weights()

    def close(self) -> None:
        """End the group of GPUs."""
        if self._engine is not None:
            self._engine.shutdown()
            self._engine = None

    def _open(self) -> None:
        """Meet the servers' GPUs in one NCCL group."""
        from vllm.distributed.weight_transfer import nccl_engine as nccl

        with socket.socket() as free:
            free.bind((self._address, 0))
            port = free.getsockname()[1]
        info = nccl.NCCLTrainerInitInfo(
            rank=0, master_address=self._address, master_port=port, world_size=self._world_size
        )
        self._engine = nccl.NCCLTrainerWeightTransferEngine.trainer_init(
            info, client=self._control, source=self._source
        )


WeightTransfer: TypeAlias = FolderTransfer | NCCLTransfer


class _Control:
    """The steps of a transfer, told to every server at once: what vLLM calls a ``VLLMWeightSyncClient``."""

    def __init__(self, client: ServerClient, urls: Sequence[str], label: str, world_sizes: Sequence[int] = ()) -> None:
        self._client = client
        self._urls = urls
        self._world_sizes = world_sizes
        self.label = label

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Agree on how; a group of GPUs has every server's after the trainer's and those of the servers before it."""
        infos = [dict(init_info) for _ in self._urls]
        for index, info in enumerate(infos):
            if "rank_offset" in info:
                info["rank_offset"] += sum(self._world_sizes[:index])
        self._tell("init_weight_transfer_engine", [{"init_info": info} for info in infos])

    def start_weight_update(self) -> None:
        self._tell("start_weight_update")

    def update_weights(self, update_info: Any) -> None:
        self._tell("update_weights", {"update_info": update_info})

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Have the servers name their replies by the label from now on."""
        self._tell("finish_weight_update", {"weight_version": self.label})

    def give_up(self) -> None:
        """End an update that broke off; a server refuses to begin another while one is open.

        vLLM has no call for it, but ends the update when a part is refused. An empty part would not be: vLLM 0.33 takes
        it for the same weights as last time.
        """
        with contextlib.suppress(ServerError):
            self.update_weights({GIVE_UP: True})

    def _tell(self, step: str, payloads: Any = None) -> None:
        self._client.post_all(self._urls, f"{PREFIX}/{step}", payloads, seconds=self._client.timeouts.weights)


def _parts(named_tensors: NamedTensors, part_bytes: int) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors in parts that are as large as asked for, or larger by less than one tensor."""
    part: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in named_tensors:
        # A copy: tied weights share their memory, which a safetensors file cannot say.
        part[name] = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        del tensor  # or it would be whole while the next one is gathered
        size += part[name].nbytes
        if size >= part_bytes:
            yield part
            part, size = {}, 0
    if part:
        yield part
