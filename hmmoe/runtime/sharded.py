"""A frozen backbone too large for one GPU: spread over all of them, while what trains lies whole on each.

FSDP for the frozen part, DDP for the rest. Optimizer, gradient clipping, checkpoints and resume are those of DDP, and a
run may begin with one of the two and go on with the other.
"""

from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from hmmoe.backbones.units import units
from hmmoe.errors import ConfigError


class ShardedBackbone(DDPStrategy):
    """DDP whose frozen attention and FFN layers hold 1/n of their weights each and gather them for every call.

    Embeddings and norms stay whole on every process, and so does everything that trains (that inside a layer of the
    backbone too, such as LoRA's matrices).

    Args:
        options: of Lightning's ``DDPStrategy``.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

    def model_to_device(self) -> None:
        """Spread the layers one by one, so that the whole never lies on one device; then move the rest.

        Raises:
            ConfigError: nothing in this backbone can be spread.
        """
        if not is_sharded(self.lightning_module):
            self._shard(self.lightning_module)
        super().model_to_device()

    def _shard(self, task: L.LightningModule) -> None:
        parts = units(task.model.backbone)
        if not parts:
            raise ConfigError(
                "trainer=fsdp spreads attention and FFN layers, and a tower of this backbone does not name its own: "
                "use trainer=ddp"
            )
        mesh = init_device_mesh(self.root_device.type, (dist.get_world_size(),))
        for part in parts:
            trained = {parameter for parameter in part.parameters() if parameter.requires_grad}
            fully_shard(part, mesh=mesh, reshard_after_forward=True, ignored_params=trained)
        frozen = {id(parameter) for part in parts for parameter in part.parameters() if not parameter.requires_grad}
        names = [name for name, parameter in task.named_parameters() if id(parameter) in frozen]
        # DDP would overwrite every process' share with that of the first.
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(task, names)
        task.register_state_dict_post_hook(_leave_shares_out)


def _leave_shares_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    """No process has the whole, and a checkpoint wants what trains."""
    for name in [name for name, tensor in state.items() if isinstance(tensor, DTensor)]:
        del state[name]


def is_sharded(module: nn.Module) -> bool:
    """Whether a forward pass needs all processes."""
    return any(isinstance(part, FSDPModule) for part in module.modules())
