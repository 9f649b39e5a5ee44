"""Whether what is trained loads in other programs: said when a run starts, and again by tools/export.py."""

from typing import Any

from mmflow.flow.path import RectifiedFlow
from mmflow.flow.prediction import Velocity
from mmflow.flow.shift import ConstantShift
from mmflow.model.mmdit import MMDiT

STOCK = "StableDiffusion3Pipeline and ComfyUI"


def obstacles(module: Any, codec: Any) -> list[str]:
    """Why the stock SD3 programs cannot make this model's pictures; empty if they can.

    Args:
        module: the FlowModule.
        codec: the frozen networks that it is trained with (`Encoders`).
    """
    found = _network(module.backbone)
    objective = module.objective
    if not isinstance(objective.path, RectifiedFlow) or not isinstance(objective.prediction, Velocity):
        names = type(objective.path).__name__, type(objective.prediction).__name__
        found.append(f"objective {' and '.join(names)}: they integrate the velocity of a rectified flow")
    if not isinstance(objective.shift, ConstantShift):
        found.append(f"shift {type(objective.shift).__name__}: they have one shift for all sizes")
    return [*found, *codec.stock_obstacles()]


def _network(backbone: Any) -> list[str]:
    if not isinstance(backbone, MMDiT):
        return [f"backbone {type(backbone).__name__}: they know the MM-DiT with two sets of weights"]
    found = []
    if backbone.design.rotary:
        found.append("rotary positions: they add positions to the tokens and turn nothing")
    if backbone.design.head_width != 64:
        found.append(f"head_width {backbone.design.head_width}: their heads are 64 wide")
    if backbone.design.activation != "gelu_tanh":
        found.append(f"activation {backbone.design.activation}: they have GELU's tanh approximation")
    if backbone.design.known:
        found.append("input for known parts: StableDiffusion3Pipeline knows none, only the inpainting pipeline does")
    if backbone.video_patchifier is not None:
        found.append(
            f"3D patchifier {backbone.video_patchifier.patch}: they make pictures only (--pictures-only exports them)"
        )
    return found


def verdict(reasons: list[str]) -> list[str]:
    """The answer in words."""
    if not reasons:
        return [f"loads in {STOCK}: yes"]
    return [f"loads in {STOCK}: no, because of", *(f"  {reason}" for reason in reasons)]


def text_layout(codec: Any) -> str:
    """How captions reach the model: `packed`, or padded and attended to as in `sd3`."""
    return str(getattr(codec.text, "layout", "packed"))
