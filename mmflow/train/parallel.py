"""How a network is laid over processes and what is recomputed or compiled, applied to it from outside."""

import os
import platform
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

aten = torch.ops.aten


@dataclass(frozen=True)
class Parallel:
    """The layout of a run. None of it shows in the losses, but for the rounding of sums.

    Attributes:
        shard: FSDP2: weights, gradients, optimizer state and averages are cut over the processes, block by block;
            without it every process holds all of them (DDP).
        replicas: so many groups of processes hold the weights, each group cut within itself (HSDP); `nodes`: one group
            per node. 1 cuts over all processes.
        reduce: when sharded gradients are summed over processes: after every `micro_step`, which holds only shards of
            them, or once per optimizer `step`, which holds all of them and sends less.
        recompute: what the backward computes again instead of keeping it: nothing (`none`), all of a `block`, or all
            but the outputs of its matrix products and attention (`selective`).
        compile: torch.compile for each block, one program for all shapes. `auto`: in a `fit`, where the machine has
            what that takes, a C++ compiler and Python's headers for a CPU or Triton for a GPU.
    """

    shard: bool = False
    replicas: int | Literal["nodes"] = 1
    reduce: Literal["micro_step", "step"] = "micro_step"
    recompute: Literal["none", "block", "selective"] = "none"
    compile: bool | Literal["auto"] = False

    def __post_init__(self) -> None:
        if self.replicas != "nodes" and self.replicas < 1:
            raise ValueError(f"parallel.replicas must be at least 1 or `nodes`, got {self.replicas}")
        if self.replicas != 1 and not self.shard:
            raise ValueError(f"parallel.replicas {self.replicas} groups what parallel.shard cuts: set it to true")

    def mesh_shape(self, num_processes: int, num_nodes: int) -> tuple[int, int]:
        """(replicas, processes that share one).

        Raises:
            ValueError: if they do not divide the processes.
        """
        replicas = num_nodes if self.replicas == "nodes" else self.replicas
        if num_processes % replicas:
            raise ValueError(
                f"parallel.replicas {replicas} does not divide {num_processes} processes: choose a divisor, or `nodes`"
            )
        return replicas, num_processes // replicas


def compiles(parallel: Parallel, device_type: str, trains: bool) -> bool:
    """Whether blocks are compiled: as it is said, or, where that is `auto`, when it pays and can be done."""
    if parallel.compile != "auto":
        return parallel.compile
    if not trains:  # a few pictures are drawn before a compiler is done
        return False
    if device_type != "cpu":
        return find_spec("triton") is not None
    compiler = any(map(shutil.which, (os.environ.get("CXX") or "g++", "clang++")))
    headers = Path(sysconfig.get_path("include"), "Python.h").exists()  # what is compiled is called from Python
    return platform.system() == "Linux" and compiler and headers


PROGRAMS = 64
"""Programs that the blocks may be compiled to, all together: each kind of block (a last one, one with an attention of
its own or over time) for dense and ragged batches, with gradients and without, with an autocast and without. torch ends
the run at the ninth, which may be the first preview of the night."""


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The repeated parts of a network: its `blocks`."""
    blocks = getattr(network, "blocks", None)
    return list(blocks) if isinstance(blocks, nn.ModuleList) else []


def lay_out(network: nn.Module, parallel: Parallel, mesh: DeviceMesh | None, dtype: torch.dtype | None) -> None:
    """Applies a layout to a network, which may still be without memory.

    Args:
        network: changed in place; names of its parameters stay.
        parallel: the layout, whose `compile` says yes or no.
        mesh: (replicas, shards) of processes; None leaves the parameters whole.
        dtype: that a sharded network computes in; its parameters and their gradients' sums stay fp32.
    """
    assert parallel.compile != "auto"
    blocks = blocks_of(network)
    if not blocks and (parallel.compile or parallel.recompute != "none"):
        raise ValueError(f"{type(network).__name__} has no `blocks` to compile or to compute again")
    if parallel.compile:
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, PROGRAMS)
    for block in blocks:
        if parallel.recompute != "none":
            block.forward = _recomputed(block.forward, parallel.recompute == "selective")
        if parallel.compile is True:
            block.compile(dynamic=True, fullgraph=True)
    if mesh is None:
        return
    # t and positions reach the network as fp32 and are cast by it, after they are embedded.
    policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for module in (*blocks, network):
        # The outermost part would stay whole after a forward, and with it what it was before an average is put in.
        fully_shard(module, mesh=mesh, mp_policy=policy, reshard_after_forward=True)


SAVED = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten.linear.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
]
"""Outputs that `selective` keeps: they cost the most to compute again."""


def _recomputed(forward: Callable[..., Any], selective: bool) -> Callable[..., Any]:
    """`forward`, whose backward computes it again."""
    given: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if selective:
        saved = [*SAVED, torch.ops.mmflow.ragged_attention.default]
        given["context_fn"] = partial(create_selective_checkpoint_contexts, saved)

    # A function of this file and no partial of torch's: only then does the compiler take it in.
    def run(*args: Any) -> Any:
        return checkpoint(forward, *args, **given)

    return run


def sharded_parts(network: nn.Module) -> list[FSDPModule]:
    """What of a network is cut over processes; empty where nothing is."""
    return [module for module in network.modules() if isinstance(module, FSDPModule)]


def sync_gradients(network: nn.Module, parallel: Parallel, closes_step: bool) -> None:
    """Says before a micro-step's backward what is summed over the processes after it."""
    for part in sharded_parts(network):
        part.set_requires_all_reduce(closes_step, recurse=False)
        if parallel.reduce == "step":
            part.set_requires_gradient_sync(closes_step, recurse=False)


@contextmanager
def gathered(network: nn.Module) -> Iterator[None]:
    """Inside, every process holds all weights and may call the network as often as it likes, others or not.

    To be entered and left by all processes together. In the dtype that the network computes in.
    """
    parts = sharded_parts(network)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


@torch.no_grad()
def spread(network: nn.Module, whole: dict[str, Tensor]) -> None:
    """Gives a network that is cut over processes the tensors that rank 0 holds whole, one at a time.

    Args:
        network: on every process.
        whole: by name, on rank 0; empty elsewhere.
    """
    for name, target in network.state_dict().items():
        value = whole[name].to(target) if whole else torch.empty(target.shape, dtype=target.dtype, device=target.device)
        if isinstance(target, DTensor):
            target.copy_(distribute_tensor(value.to(target.device), target.device_mesh, target.placements))
        else:
            torch.distributed.broadcast(value, 0)
            target.copy_(value)


def place_like(value: Tensor, parameter: Tensor) -> Tensor:
    """`value`, which every process holds whole, cut over them as `parameter` is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    value = value.to(parameter.device)
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole_tensor(value: Tensor) -> Tensor:
    """All of a tensor on every process. To be called by all of them."""
    return value.full_tensor() if isinstance(value, DTensor) else value
