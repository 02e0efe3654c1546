"""The strategy that shards the policy over all ranks, block by block, on GPUs and on CPUs."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _update_properties
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy, StrategyRegistry
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from gigpo_lightning.errors import check_range
from gigpo_lightning.ranks import together
from modules.checkpoint_folder import contents, open_folder, read_folder, write_folder
from modules.checkpoint_io import read_checkpoint, refuse_to_run
from modules.policy import Policy, PolicySource
from modules.sharded_policy import ShareableSource, copy_shares, share_out

_MINUTES_OF_A_YEAR = 365 * 24 * 60.0  # torch counts the time in integers, and refuses what they cannot hold


class FSDP2Strategy(ModelParallelStrategy):
    """FSDP2: every rank holds a share of every weight, gradient and optimizer state (``--trainer.strategy fsdp2``).

    Each decoder block is gathered just before it is needed and given back after it. With mixed precision weights are
    gathered in the short type and gradients added up in float32. Checkpoints are one file, whatever the ranks, so that
    a run may go on with another number of them, or with another strategy.

    Args:
        cpu_offload: Keep the shares in the CPU's memory: a larger model, slower steps.
        reshard_after_forward: Give a block's weights back after the forward pass, and gather them again for the
            backward pass; ``False`` gathers once and needs room for the whole model.
        save_distributed_checkpoint: Write a folder with a file a rank instead of one file: for models that do not fit
            into one machine's memory.
        process_group_backend: Of ``torch.distributed``; default: what suits the device.
        timeout_minutes: Time that a rank waits for the others; a rollout may take one rank so much longer than another.

    Raises:
        ValueError: If ``timeout_minutes`` is not between 0.1 and a year.
    """

    def __init__(
        self,
        cpu_offload: bool = False,
        reshard_after_forward: bool = True,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
        timeout_minutes: float = 120.0,
        **kwargs: Any,
    ) -> None:
        check_range("timeout_minutes", timeout_minutes, 0.1, _MINUTES_OF_A_YEAR)
        super().__init__(
            tensor_parallel_size=1,
            save_distributed_checkpoint=save_distributed_checkpoint,
            process_group_backend=process_group_backend,
            timeout=timedelta(minutes=timeout_minutes),
            **kwargs,
        )
        self.cpu_offload = cpu_offload
        self.reshard_after_forward = reshard_after_forward

    def setup_environment(self) -> None:
        """Lay all ranks out along the data: Lightning's default would shard within a node only."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, policy: Policy) -> None:
        """Shard a policy: each decoder block on its own, and what is left with the whole."""
        compute = torch.bfloat16 if self.precision_plugin.precision == "bf16-mixed" else None
        pin_memory = self.root_device.type != "cpu"
        options: dict[str, Any] = {
            "mesh": self.device_mesh["data_parallel"],
            "mp_policy": MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32 if compute else None),
            "offload_policy": CPUOffloadPolicy(pin_memory) if self.cpu_offload else OffloadPolicy(),
        }
        for block in policy.blocks:
            fully_shard(block, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(policy, **options)

    def make(self, source: PolicySource) -> Policy:
        """Make a policy in shares; all ranks have to do so together.

        No rank ever holds more than its shares and one weight, where the source can be read so; otherwise each makes
        the whole policy, in the CPU's memory, and gives all but its shares back.

        Raises:
            ValueError: If the policy cannot be made.
        """
        policy = share_out(source, self.shard, self._home) if isinstance(source, ShareableSource) else None
        if policy is None:
            policy = source.build()
            self.shard(policy)
        return policy

    def make_again(self, policy: Policy, source: PolicySource) -> Policy:
        """Make a second policy with the weights of a first that ``make`` made of the same source."""
        unloaded = source.unloaded() if isinstance(source, ShareableSource) else None
        second = source.build() if unloaded is None else unloaded[0]
        self.shard(second)
        copy_shares(policy, second, self._home)
        return second

    @property
    def _home(self) -> torch.device:
        """Where shares are kept."""
        return torch.device("cpu") if self.cpu_offload else self.root_device

    def setup(self, trainer: Trainer) -> None:
        """Refuse a module that leaves its weights whole: nobody would add up its gradients.

        Evaluation runs under ``no_grad`` and never under ``inference_mode``, whatever ``trainer.inference_mode`` says:
        a sharded weight that is gathered there could not be gathered again. Lightning does so for its own FSDP alone.

        Raises:
            ValueError: If nothing has been sharded.
        """
        for loop in (trainer.validate_loop, trainer.test_loop, trainer.predict_loop):
            loop.inference_mode = False
        super().setup(trainer)
        module = self.lightning_module
        assert module is not None
        if not any(isinstance(parameter, DTensor) for parameter in module.parameters()):
            raise ValueError(
                f"trainer.strategy fsdp2 needs a module that shards its policy, as GiGPOModule does, got "
                f"{type(module).__name__}; use ddp"
            )

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any = None) -> None:
        """Write one file, or a folder with a file a rank; either is whole, or what was there before.

        Raises:
            FullDiskError: If there is no room for it.
        """
        path = Path(self.broadcast(filepath))
        if not self._save_distributed_checkpoint:
            ParallelStrategy.save_checkpoint(self, checkpoint, path, storage_options)
            return
        rest = dict(checkpoint)
        state = {"state_dict": rest.pop("state_dict")}
        state |= {f"optimizer_{index}": each for index, each in enumerate(rest.pop("optimizer_states", []))}
        write_folder(path, state, rest)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, after a look at what it holds: what is loaded here is loaded in place.

        Differs from Lightning, which takes the numbers that an optimizer gives its parameters for places among all of
        the module's: beside frozen ones, as with LoRA, they are not; and which runs what a folder's metadata ask for.

        Raises:
            ValueError: If it is not whole, not of this run, or ``weights_only`` is ``False``.
        """
        refuse_to_run(weights_only)
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            return self._load_folder(path)
        checkpoint = together(lambda: read_checkpoint(path))
        module = self._checked(checkpoint)
        options = StateDictOptions(full_state_dict=True, strict=module.strict_loading, cpu_offload=self.cpu_offload)
        set_model_state_dict(module, dict(checkpoint["state_dict"]), options=options)  # it adds to what it is given
        for optimizer, state in zip(self.optimizers, checkpoint.get("optimizer_states", []), strict=False):
            set_optimizer_state_dict(module, optimizer, _by_name(state, optimizer, module), options=options)
        return checkpoint

    def _load_folder(self, path: Path) -> dict[str, Any]:
        """Load a folder that ranks have written together, whatever their number was."""
        rest, metadata = open_folder(path)
        module = self._checked(rest | contents(path, metadata))
        weights = get_model_state_dict(module)
        known = metadata.state_dict_metadata.keys()
        state: dict[str, Any] = {
            "state_dict": {name: each for name, each in weights.items() if f"state_dict.{name}" in known}
        }
        for index, optimizer in enumerate(self.optimizers):
            state[f"optimizer_{index}"] = get_optimizer_state_dict(module, optimizer)
        read_folder(path, state, metadata)
        options = StateDictOptions(strict=module.strict_loading, cpu_offload=self.cpu_offload)
        set_model_state_dict(module, state["state_dict"], options=options)
        for index, optimizer in enumerate(self.optimizers):
            set_optimizer_state_dict(module, optimizer, state[f"optimizer_{index}"], options=options)
        return rest

    def _checked(self, checkpoint: dict[str, Any]) -> LightningModule:
        """The module, if it has nothing to say against a checkpoint."""
        module = self.lightning_module
        assert module is not None
        check: Callable[[dict[str, Any]], Any] | None = getattr(module, "check_checkpoint", None)
        if check is not None:
            check(checkpoint)
        return module

    def model_to_device(self) -> None:
        """Move what is not sharded; shares that are offloaded stay, though the module computes on the device."""
        if not self.cpu_offload:
            super().model_to_device()
            return
        assert self.model is not None
        for module in self.model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                module._buffers[name] = buffer.to(self.root_device)
        _update_properties(self.model, device=self.root_device)  # where batches, sums and logged numbers go

    def _get_process_group_backend(self) -> str:
        backend = super()._get_process_group_backend()
        # Offloaded gradients are on the CPU, where their norm is added up.
        return f"cpu:gloo,cuda:{backend}" if self.cpu_offload and backend == "nccl" else backend


def _by_name(state: dict[str, Any], optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Any]:
    """An optimizer's state by the names of its parameters, which lie in it in their order, whatever their numbers."""
    names = {parameter: name for name, parameter in module.named_parameters()}
    ours = [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    name_of = dict(zip(numbers, ours, strict=True))
    return {
        "state": {name_of[number]: kept for number, kept in state["state"].items()},
        "param_groups": [
            group | {"params": [name_of[number] for number in group["params"]]} for group in state["param_groups"]
        ],
    }


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2, each decoder block sharded over all ranks")
