"""Lightning's strategy for weights that are cut over processes, with checkpoints that load into any layout."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from mmflow.train.parallel import Parallel, place_like
from mmflow.train.storage import Place, load_plain, read, write_file, write_folder


@final
class RunCheckpoints(CheckpointIO):
    """Reads files and folders, writes files: for layouts in which a process holds everything."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        write_file(checkpoint, Path(path))

    def load_checkpoint(
        self, path: _PATH, map_location: Any | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return read(Path(path))

    def remove_checkpoint(self, path: _PATH) -> None:
        Path(path).unlink()


@final
class Sharded(ModelParallelStrategy):
    """FSDP2 over all processes, or within each of several groups of them.

    Args:
        parallel: how many groups.
    """

    def __init__(self, parallel: Parallel) -> None:
        super().__init__(data_parallel_size=1, tensor_parallel_size=1)
        self.parallel = parallel

    def setup_environment(self) -> None:
        """Starts the processes' group and its mesh of (replicas, shards)."""
        Strategy.setup_environment(self)
        self._setup_distributed()
        shape = self.parallel.mesh_shape(self.world_size, self.num_nodes)
        mesh = init_device_mesh(self.root_device.type, shape, mesh_dim_names=("replicas", "shards"))
        # One group needs no second axis, and FSDP then sends nothing over it.
        self._device_mesh = mesh if shape[0] > 1 else mesh["shards"]
        assert self.lightning_module is not None
        self.lightning_module._device_mesh = self._device_mesh

    @property
    def lightning_restore_optimizer(self) -> bool:
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This process's parts."""
        assert self.lightning_module is not None
        return self.lightning_module.state_dict()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """This process's parts, under the numbers that the parameters have in any layout."""
        inner = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        return inner.state_dict()

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        write_folder(checkpoint, Path(filepath))

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """A checkpoint of any layout, cut as this one is."""
        path = Path(self.broadcast(checkpoint_path))
        module = self.lightning_module
        assert module is not None
        parameters = Parameters(module, self.optimizers)
        if path.is_file():
            placed: dict[str, Any] = parameters.place(load_plain(path))
            return placed
        return read(path, parameters.memory)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        Strategy.load_model_state_dict(self, checkpoint, strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        Strategy.load_optimizer_state_dict(self, checkpoint)


def trainer_layout(parallel: Parallel, strategy: Any, plugins: Any, by_slurm: bool) -> dict[str, Any]:
    """What the trainer is built with for a layout: its strategy and plugins.

    Args:
        parallel: the layout.
        strategy: `trainer.strategy` as configured.
        plugins: `trainer.plugins` as configured.
        by_slurm: whether srun has started the processes.

    Raises:
        ValueError: if a sharded layout is asked for beside another strategy.
    """
    added: list[Any] = list(plugins) if isinstance(plugins, list) else [plugins] if plugins else []
    if by_slurm:
        # Lightning's own way saves within a signal's handler, whatever the processes are doing.
        added.append(SLURMEnvironment(auto_requeue=False))
    if not parallel.shard:
        return {"plugins": [*added, RunCheckpoints()]}
    if strategy != "auto":
        raise ValueError(f"model.parallel.shard chooses the strategy: leave trainer.strategy at auto, got {strategy}")
    # Parameters that were gathered under inference mode cannot be trained afterwards.
    return {"strategy": Sharded(parallel), "inference_mode": False, "plugins": added}


class Parameters:
    """Which parameter a tensor of a checkpoint belongs to, and is therefore cut like.

    Args:
        module: whose network is `backbone`.
        optimizers: their state is numbered in the order of their groups.
    """

    def __init__(self, module: nn.Module, optimizers: list[Optimizer]) -> None:
        self._by_name = dict(module.named_parameters())
        self._by_number = [[p for group in o.param_groups for p in group["params"]] for o in optimizers]

    def of(self, place: Place) -> Tensor | None:
        """The parameter; None if there is none."""
        if place[0] == "optimizer_states" and len(place) > 3:
            which, number = int(place[1]), int(place[3])
            known = which < len(self._by_number) and number < len(self._by_number[which])
            return self._by_number[which][number] if known else None
        return (
            self._by_name.get(str(place[-1]))
            if place[0] == "state_dict"
            else self._by_name.get(f"backbone.{place[-1]}")
        )

    def memory(self, place: Place, bare: Tensor) -> Tensor:
        """Memory for what this process holds of a tensor."""
        parameter = self.of(place)
        if parameter is not None and parameter.shape == bare.shape:
            return torch.empty_like(parameter, dtype=bare.dtype, requires_grad=False)
        return torch.empty_like(bare, device="cpu")

    def place(self, content: Any, place: Place = ()) -> Any:
        """A checkpoint that is held whole, cut."""
        if isinstance(content, dict):
            return {key: self.place(value, (*place, key)) for key, value in content.items()}
        if isinstance(content, list):
            return [self.place(value, (*place, i)) for i, value in enumerate(content)]
        parameter = self.of(place) if isinstance(content, Tensor) else None
        return content if parameter is None else place_like(content, parameter)
