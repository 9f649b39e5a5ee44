"""No step waits for the device: nothing in forward, loss and backward asks it for a number or a shape."""

from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmflow.batch import Batch, Conditioning, TextFeatures
from mmflow.flow.density import LogitNormal
from mmflow.flow.objective import FlowObjective
from mmflow.flow.shift import SizeShift
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from mmflow.train.parallel import Parallel, lay_out

aten = torch.ops.aten
ASKS = {
    aten._local_scalar_dense.default: ".item()",
    aten.nonzero.default: "nonzero",
    aten.masked_select.default: "masked_select",
    aten.unique_dim.default: "unique",
    aten._unique2.default: "unique",
    aten.equal.default: "equal",
}


class WaitedError(AssertionError):
    """The host asked the device for something."""


class Trap(TorchDispatchMode):
    """Refuses whatever makes the host wait for tensors that are not its own. The meta device plays the accelerator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        far = any(x.is_meta for x in tensors)
        if far and func in ASKS:
            raise WaitedError(ASKS[func])
        if far and func is aten._to_copy.default and torch.device(kwargs.get("device") or "meta").type == "cpu":
            raise WaitedError(".cpu()")
        if func in (aten.index.Tensor, aten.index_put.default) and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) and x.is_meta for x in args[1]
        ):
            raise WaitedError("a mask as an index")
        return func(*args, **kwargs)


@pytest.mark.parametrize(
    ("what", "ask"),
    [
        (".item()", lambda x: x.sum().item()),
        (".item()", lambda x: bool(x.sum() > 0)),
        (".cpu()", lambda x: x.cpu()),
        ("nonzero", lambda x: x.nonzero()),
        ("a mask as an index", lambda x: x[x > 0]),
        ("masked_select", lambda x: x.masked_select(x > 0)),
    ],
)
def test_the_trap_catches(what: str, ask: Any) -> None:
    with pytest.raises(WaitedError, match=what.replace("(", r"\(").replace(")", r"\)")), Trap():
        ask(torch.empty(4, device="meta"))
    with Trap():
        ask(torch.ones(4))  # on the host one may ask


BAGS = {
    "pictures of one shape": ([(2, (1, 8, 8))], [5, 5]),
    "pictures and clips": ([(2, (1, 8, 8)), (1, (4, 8, 8)), (1, (1, 4, 12))], [5, 2, 7, 1]),
}
NETWORKS = {
    "plain": (Design(), "none"),
    "computed again": (Design(), "block"),
    "clips apart": (Design(temporal="added"), "none"),
    "all": (Design(dual_attention_blocks=1, rotary=True, relative_values=True, head_width=32), "none"),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("bag", BAGS)
def test_a_step_asks_for_nothing(bag: str, network: str) -> None:
    groups, words = BAGS[bag]
    design, recompute = NETWORKS[network]
    far = {"device": "meta"}
    with torch.device("meta"):
        model = MMDiT(2, 4, 32, 24, 2, (2, 2, 2), 8, design=design)
    lay_out(model, Parallel(recompute=recompute), None, None)  # type: ignore[arg-type]
    x0 = tuple(torch.empty(n, 4, *shape, **far) for n, shape in groups)
    text = TextFeatures(
        torch.empty(sum(words), 32, **far), torch.tensor(words)[:, None], torch.empty(len(words), 24, **far)
    )
    objective = FlowObjective(density=LogitNormal(), shift=SizeShift(base_area=64))
    with Trap():
        loss, _ = objective(
            model, x0, Conditioning(text), torch.empty(len(words), **far), tuple(torch.empty_like(x) for x in x0)
        )
        loss.sum().backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


def test_the_module_s_own_step_asks_for_nothing_but_where_it_is_logged() -> None:
    from mmflow.train.module import FlowModule

    logged: dict[str, Any] = {}
    told = SimpleNamespace(world_size=1, log_every_n_steps=20)
    module = SimpleNamespace(
        _step_losses={}, trainer=told, global_step=0, log_dict=lambda values, batch_size: logged.update(values)
    )
    z = torch.empty(2, 4, 1, 8, 8, device="meta"), torch.empty(1, 4, 4, 8, 8, device="meta")
    batch = Mock(spec=Batch, latents=z, closes_step=True, planned=3)
    with Trap():
        FlowModule._log_step(module, batch, torch.empty(3, device="meta"))  # type: ignore[arg-type]
    assert set(logged) == {"train/loss"}
