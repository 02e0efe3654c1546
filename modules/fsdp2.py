"""The strategy that shards the policy over all ranks, block by block, on GPUs and on CPUs."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import ModelParallelStrategy, StrategyRegistry
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, OffloadPolicy, fully_shard

from modules.policy import Policy

_COMPUTE = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


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
        ValueError: If ``timeout_minutes`` is not positive.
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
        if not timeout_minutes > 0:
            raise ValueError(f"timeout_minutes must be > 0, got {timeout_minutes}")
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
        options: dict[str, Any] = {
            "mesh": self.device_mesh["data_parallel"],
            "mp_policy": self._mixed_precision(),
            "offload_policy": CPUOffloadPolicy() if self.cpu_offload else OffloadPolicy(),
        }
        for block in policy.blocks:
            fully_shard(block, reshard_after_forward=self.reshard_after_forward, **options)
        fully_shard(policy, **options)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Load a checkpoint, after a look at whose weights it holds: what is loaded here is loaded in place.

        Raises:
            ValueError: If they are another policy's.
        """
        check = getattr(self.lightning_module, "check_weights", None)
        if check is not None and Path(checkpoint_path).is_file():
            with torch.serialization.skip_data():  # names and shapes, and not a number
                theirs = torch.load(checkpoint_path, map_location="cpu", weights_only=True)
            check(theirs.get("state_dict", {}), f"ckpt_path {str(checkpoint_path)!r} must name a checkpoint")
        return super().load_checkpoint(checkpoint_path, weights_only)

    def model_to_device(self) -> None:
        """Move what is not sharded; what is offloaded stays."""
        if not self.cpu_offload:
            super().model_to_device()

    def _mixed_precision(self) -> MixedPrecisionPolicy:
        compute = _COMPUTE.get(str(self.precision_plugin.precision))
        return MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32 if compute else None)

    def _get_process_group_backend(self) -> str:
        backend = super()._get_process_group_backend()
        # Offloaded gradients are on the CPU, where their norm is added up.
        return f"cpu:gloo,cuda:{backend}" if self.cpu_offload and backend == "nccl" else backend


StrategyRegistry.register("fsdp2", FSDP2Strategy, description="FSDP2, each decoder block sharded over all ranks")
