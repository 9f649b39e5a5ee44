"""A model started from a smaller one: what is copied, what is grown from it, and what is new.

Everything grown or new leaves the function of the smaller model as it was at step 0 (tests/model/test_grow.py), QK-norm
aside, which the paper adds to a trained model on purpose and which adapts quickly (section 5.3.2).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from mmflow.model.mmdit import MMDiT

Weights = Mapping[str, Tensor]
TABLE_TOLERANCE = 1e-2
"""Between two position tables: more than bf16 rounds, less than a hundredth of a patch moves."""


@dataclass
class Report:
    """What became of each tensor of the new model."""

    copied: list[str] = field(default_factory=list)
    grown: dict[str, list[str]] = field(default_factory=dict)
    """Names by what was done to them."""
    new: dict[str, list[str]] = field(default_factory=dict)
    """Names by what they are."""

    def lines(self, sizes: Mapping[str, int]) -> list[str]:
        """For people; `sizes` is the number of parameters of each tensor."""

        def amount(names: list[str]) -> str:
            return f"{len(names)} tensors, {sum(sizes[n] for n in names) / 1e6:.2f} M numbers"

        return [
            f"  copied: {amount(self.copied)}",
            *(f"  grown: {title} ({amount(names)})" for title, names in self.grown.items()),
            *(f"  new: {title} ({amount(names)})" for title, names in self.new.items()),
        ]


@dataclass(frozen=True)
class Way:
    """How a tensor comes about that cannot be copied."""

    title: str
    is_new: bool
    make: Callable[[Weights, Tensor], Tensor]
    """(the smaller model's tensors, the first value) -> value."""


def start_from(model: nn.Module, found: Weights, shapes: Weights) -> Report:
    """Gives `model`, which has its first values, the tensors of a smaller model.

    Args:
        model: the network to start; its tensors are changed in place.
        found: the smaller model's tensors, read one at a time.
        shapes: the same without memory.

    Raises:
        ValueError: if a position table of `found` is not what the model's formula or table would continue. Tensors that
            do not fit are for the caller to refuse: `unfit` lists them.
    """
    report = Report()
    _check_table(model, found, shapes)
    state = model.state_dict()
    with torch.no_grad():
        for name, target in state.items():
            if name in shapes and shapes[name].shape == target.shape:
                target.copy_(found[name])
                report.copied.append(name)
                continue
            way = find_way(model, state, name, shapes)
            assert way is not None, f"{name} was not refused"
            target.copy_(way.make(found, target))
            (report.new if way.is_new else report.grown).setdefault(way.title, []).append(name)
    return report


def grown_shapes(model: nn.Module, shapes: Weights) -> dict[str, Tensor]:
    """The tensors that `model` would get from a smaller one, without memory, and those that fit nowhere."""
    expected = model.state_dict()
    grown = {name: tensor for name, tensor in expected.items() if find_way(model, expected, name, shapes) is not None}
    left = dict(shapes)
    if "position_table" not in expected:
        left.pop("position_table", None)  # the formula takes its place, if it is the same: `start_from` compares
    return {**left, **grown}


def find_way(model: nn.Module, state: Weights, name: str, shapes: Weights) -> Way | None:
    """How a tensor of `model` (its `state`) can come about from a smaller model that has none of its name and shape."""
    if not isinstance(model, MMDiT) or (name in shapes and shapes[name].shape == state[name].shape):
        return None
    if name in shapes:
        return _widened(name, shapes[name], state[name], model)
    if name.startswith("video_patchifier."):
        return _inflated(name, shapes, model)
    if ".own." in name:
        return Way("second attention, behind a zero gate", True, lambda found, first: first)
    if ".over_time." in name:
        return Way("attention over time, behind a zero gate", True, lambda found, first: first)
    if name.endswith(("norm_q.weight", "norm_k.weight")):
        return Way("RMSNorm on queries and keys, with weight one", True, lambda found, first: first)
    if name == "position_table":
        return Way("position table by the formula", True, lambda found, first: first)
    return None


def _widened(name: str, found: Tensor, target: Tensor, model: MMDiT) -> Way | None:
    if model.design.known and name.endswith("_patchifier.embed.weight") and _lacks_known(found, target, model):
        title = "input for known parts: columns of zeros for mask and known latents"
        return Way(title, False, lambda f, _: _more_columns(f[name], target.shape[1]))
    if found.shape[1:] != target.shape[1:] and name != "position_table":
        return None
    if name == "position_table" and found.shape[2] == target.shape[2] and len(found) < len(target):
        return Way(f"position table, from {len(found)} to {len(target)} patches", False, _framed)
    if ".visual.modulation." in name and (len(found), len(target)) == (6 * model.width, 9 * model.width):
        return Way("modulation of a second attention, zero", False, lambda f, _: _padded(f[name], len(target)))
    return None


def _padded(x: Tensor, rows: int) -> Tensor:
    return torch.cat([x, x.new_zeros(rows - len(x), *x.shape[1:])])


def _lacks_known(found: Tensor, target: Tensor, model: MMDiT) -> bool:
    """Whether a patchifier's weight is the target's but for the columns of mask and known latents."""
    whole = 2 * model.in_channels + 1
    return len(found) == len(target) and found.shape[1] * whole == target.shape[1] * model.in_channels


def _more_columns(x: Tensor, columns: int) -> Tensor:
    # Columns are ordered by channel first, and the new channels stand behind the latents'.
    return torch.cat([x, x.new_zeros(len(x), columns - x.shape[1])], 1)


def _framed(found: Weights, formula: Tensor) -> Tensor:
    """The found table in the middle of the formula's."""
    inner, out = found["position_table"], formula.clone()
    edge = (len(out) - len(inner)) // 2
    out[edge : edge + len(inner), edge : edge + len(inner)] = inner
    return out


def _check_table(model: nn.Module, found: Weights, shapes: Weights) -> None:
    """A found table must be the formula's wherever the formula replaces or continues it."""
    if not isinstance(model, MMDiT) or "position_table" not in shapes:
        return
    own, size = model.position_table, len(shapes["position_table"])
    if own is not None and len(own) == size:
        return
    table = found["position_table"]
    formula = model.formula_table(size, table.device)
    if own is not None and (len(own) - size) % 2:
        raise ValueError(f"a position table of {size} patches grows by an even number of them, not to {len(own)}")
    # Row by row: the whole table of a released model is up to 0.9 GB.
    if any((row.float() - exact).abs().max() > TABLE_TOLERANCE for row, exact in zip(table, formula, strict=True)):
        base = model.picture_patchifier.base_size
        raise ValueError(
            f"the checkpoint's position table is not the one that the formula gives for base_size {base}: set "
            f"base_size to the latent size it was trained at (SD3 and SD3.5: 128), or keep its table as it is: "
            f"--model.backbone.design.position_table {size}"
        )


def inflate(weight: Tensor, name: str, channels: int, patch: tuple[int, int, int]) -> Tensor:
    """A 3D patchifier's tensor from the 2D one's: averaged over time on the way in, repeated on the way out.

    A clip whose frames are all alike then has the picture's tokens, and gives the picture's output in every frame.

    Args:
        weight: of the 2D patchifier.
        name: `embed.weight`, `embed.bias`, `project.weight` or `project.bias`.
        channels: that the patches are cut from.
        patch: (t, h, w) of the 3D patchifier.
    """
    t, area = patch[0], patch[1] * patch[2]
    if name == "embed.weight":  # columns are ordered (c, t, h, w)
        return (weight.view(len(weight), channels, 1, area) / t).repeat(1, 1, t, 1).flatten(1)
    if name == "embed.bias":
        return weight
    return weight.repeat(t, *[1] * (weight.ndim - 1))  # rows are ordered (t, h, w, c)


def _inflated(name: str, shapes: Weights, model: MMDiT) -> Way | None:
    video = model.video_patchifier
    assert video is not None
    tail = name.removeprefix("video_patchifier.")
    source = f"picture_patchifier.{tail}"
    if source not in shapes or video.patch[1:] != model.picture_patchifier.patch[1:]:
        return None
    columns = shapes["picture_patchifier.embed.weight"].shape[1]
    channels = columns // (video.patch[1] * video.patch[2])
    if columns != model.picture_patchifier.embed.in_features and channels != model.in_channels:
        return None
    title = f"3D patchifier of {video.patch[0]} frames from the 2D one: average in, repeat out"

    def make(found: Weights, first: Tensor) -> Tensor:
        made = inflate(found[source], tail, channels, video.patch)
        return _more_columns(made, first.shape[1]) if tail == "embed.weight" else made

    return Way(title, False, make)
