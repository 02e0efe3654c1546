"""Lightning's first FSDP, which refuses CPUs, as far as two CPU ranks can show it: for ``test_ranks``."""

import torch
import torch.distributed
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import enable_wrap

from gigpo_lightning.environments.gridworld import gridworld_words
from gigpo_lightning.prompts.gridworld import gridworld_markers
from gigpo_lightning.ranks import wait_for_tensors_to_go
from gigpo_lightning.token_batch import make_token_batch
from modules import TinyPolicy
from modules.sharding import named_weights, weight_shapes, wrap_blocks


class Around(torch.nn.Module):
    """What the LightningModule is to its policy."""

    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, *arguments):
        return self.policy(*arguments)


def main() -> None:
    torch.distributed.init_process_group("gloo")
    source = TinyPolicy([gridworld_words, gridworld_markers], num_layers=3)
    plain, policy = source.build(), source.build()
    options = {"use_orig_params": True, "device_id": torch.device("cpu")}  # as Lightning's strategy has them
    with enable_wrap(wrapper_cls=FullyShardedDataParallel, **options):
        wrap_blocks(policy)
    root = FullyShardedDataParallel(Around(policy), **options)
    units = [module for module in root.modules() if isinstance(module, FullyShardedDataParallel)]
    assert len(units) == 1 + 3
    tokens = make_token_batch([([3, 4], [5, 6]), ([7], [8])], 0)
    torch.testing.assert_close(root(tokens), plain(tokens))
    gathered = {name: weight.clone() for name, weight in named_weights(policy, root)}
    torch.testing.assert_close(gathered, dict(plain.named_weights()), rtol=0, atol=0)
    assert list(weight_shapes(policy, root).items()) == [(name, tuple(each.shape)) for name, each in gathered.items()]
    assert weight_shapes(policy, root).keys() == plain.weight_shapes().keys()
    for model in (root, plain):
        model(tokens)[0].sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
    torch.testing.assert_close(root.clip_grad_norm_(1.0), expected)
    wait_for_tensors_to_go()


if __name__ == "__main__":
    main()
