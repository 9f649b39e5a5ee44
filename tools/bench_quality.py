"""Time to one validation loss: group `quality` of tools/bench.py.

Pictures of the shapes world (32 x 32, the quickstart's vocabulary), depth 2, width 128, batch 32, fp32. The peer is the
loop that one writes with diffusers: SD3Transformer2DModel, logit-normal t and its flow-match noising, captions padded
to 77 words as its pipeline pads them, torch.optim.AdamW at 1e-3, gradients clipped to 1. Ours is the quickstart's
recipe on packed captions: its design, objective and Muon, at the rates for steps of half its samples. Both warm up and
then keep their learning rates, and both are judged by their last weights.

The two train in turn, ten steps each. What the peer's loss is after its last step, ours must reach: ours is judged
every ten steps, and its time is what it had taken then. Judging is not counted on either side. A repeat is a pair of
runs of its own seed. Fewer than three say little, and each takes minutes.
"""

from collections.abc import Callable

import torch
from bench_measure import Figure, Setting
from diffusers import SD3Transformer2DModel
from torch import Tensor, nn

from mmflow.batch import LEVELS, Conditioning, TextFeatures
from mmflow.encoders.text import HashedWords
from mmflow.flow.density import LogitNormal
from mmflow.flow.diffusion_prediction import EdmF
from mmflow.flow.objective import FlowObjective
from mmflow.flow.shift import SizeShift
from mmflow.flow.weighted_prediction import AsVelocity
from mmflow.model.design import Design
from mmflow.model.mmdit import MMDiT
from mmflow.shapes.world import PictureMix, World
from mmflow.train.optim import Muon

DEPTH, SIZE, PATCH, BATCH, STEPS, TURN = 2, 32, 4, 32, 200, 10
PICTURES, JUDGED, WORDS, WARMUP, MOST = 2048, 64, 77, 20, 3
REACH = 0.6
WORLD = World(
    size=SIZE,
    shapes=("circle", "square", "triangle", "heart"),
    colors=("red", "green", "blue", "yellow", "white", "black"),
    max_count=3,
    backgrounds=("gray",),
    pictures=PictureMix(6, 1.5, 1.5, 1.5, 0.5),
)


class Pictures:
    """Pictures and their captions' features, made before any clock runs."""

    def __init__(self, split: str, number: int, device: torch.device) -> None:
        items = [WORLD.picture(0, split, n) for n in range(number)]
        pixels = torch.stack([torch.from_numpy(item.frames[0]) for item in items]).permute(0, 3, 1, 2)
        self.x0 = (pixels.float() / 127.5 - 1).to(device)
        self.text = HashedWords().encode([item.caption for item in items], device=device)
        rows = self.text.context.split(self.text.lengths[:, 0].tolist())
        self.padded = torch.stack([nn.functional.pad(row, (0, 0, 0, WORDS - len(row))) for row in rows])

    def features(self, chosen: list[int]) -> TextFeatures:
        """Packed."""
        return self.text.select(chosen)


def quality(setting: Setting) -> list[Figure]:
    """Seconds of both until they are equally good."""
    train, judged = Pictures("train", PICTURES, setting.device), Pictures("val_iid", JUDGED, setting.device)
    ours, peer, told = [], [], []
    for seed in range(setting.repeats):
        spent, other, note = race(setting, train, judged, seed)
        ours.append(spent)
        peer.append(other)
        told.append(note)
    name = f"to the loss of the peer's {STEPS} steps, share of its time"
    return [Figure(name, tuple(ours), tuple(peer), REACH, "within", note="; ".join(told))]


def race(setting: Setting, train: Pictures, judged: Pictures, seed: int) -> tuple[float, float, str]:
    """Seconds of ours and of the peer, and what happened in words."""
    torch.manual_seed(seed)
    sides = our_side(train, judged, setting.device), their_side(train, judged, setting.device)
    spent, losses = [0.0, 0.0], []
    for n in range(STEPS // TURN):
        for side, (advance, judge) in enumerate(sides):
            spent[side] += setting.seconds(lambda run=advance, first=n * TURN: [run(first + k) for k in range(TURN)])
            if side == 0:
                losses.append((judge(), spent[0], (n + 1) * TURN))
    advance, judge = sides[0]
    goal, done = sides[1][1](), STEPS
    while losses[-1][0] > goal and min(loss for loss, _, _ in losses) > goal and done < MOST * STEPS:
        spent[0] += setting.seconds(lambda first=done: [advance(first + k) for k in range(TURN)])
        done += TURN
        losses.append((judge(), spent[0], done))
    reached = next((entry for entry in losses if entry[0] <= goal), None)
    if reached is None:
        return spent[0], spent[1], f"seed {seed}: loss {goal:.4f} not reached in {done} steps ({losses[-1][0]:.4f})"
    loss, seconds, steps = reached
    return seconds, spent[1], f"seed {seed}: loss {goal:.4f}, ours {loss:.4f} after {steps} steps"


Side = tuple[Callable[[int], None], Callable[[], float]]
"""A step of training, given its number; and the validation loss."""


def warm(optimizer: torch.optim.Optimizer, peaks: list[float], step: int) -> None:
    """Learning rates on their way up."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * min(1.0, (step + 1) / WARMUP)


def levels(judged: Pictures) -> tuple[Tensor, Tensor, list[int]]:
    """Noise and t of every judged picture at every level, and which picture each is."""
    chosen = [n for n in range(JUDGED) for _ in LEVELS]
    eps = torch.randn(len(chosen), *judged.x0.shape[1:], generator=torch.Generator().manual_seed(7))
    return eps.to(judged.x0.device), torch.tensor(LEVELS * JUDGED, device=judged.x0.device), chosen


def our_side(train: Pictures, judged: Pictures, device: torch.device) -> Side:
    """The quickstart's recipe."""
    design = Design(rotary=True, relative_values=True, head_width=32, embedding_std=0.12, activation="gelu")
    model = MMDiT(DEPTH, 3, 128, 96, PATCH, None, SIZE, design=design).to(device)
    objective = FlowObjective(
        prediction=AsVelocity(EdmF(0.07)), density=LogitNormal(-0.6, 1.2), shift=SizeShift(1024, 2.5, 0.25)
    )
    optimizer = Muon(lr=8e-3, adamw_lr=4e-3).build(model)
    peaks = [group["lr"] for group in optimizer.param_groups]
    draws = torch.Generator().manual_seed(11)

    def advance(step: int) -> None:
        warm(optimizer, peaks, step)
        chosen = torch.randint(PICTURES, (BATCH,), generator=draws).tolist()
        x0 = train.x0[chosen][:, :, None]
        u, eps = torch.rand(BATCH, generator=draws).to(device), torch.randn(x0.shape, generator=draws).to(device)
        loss, _ = objective(model, (x0,), Conditioning(train.features(chosen)), u, (eps,))
        loss.mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def judge() -> float:
        eps, t, chosen = levels(judged)
        text = Conditioning(judged.features(chosen))
        loss, _ = objective.at(model, (judged.x0[chosen][:, :, None],), text, t, (eps[:, :, None],))
        return float(loss.mean())

    return advance, judge


def their_side(train: Pictures, judged: Pictures, device: torch.device) -> Side:
    """The plain loop."""
    model = SD3Transformer2DModel(
        sample_size=SIZE,
        patch_size=PATCH,
        in_channels=3,
        out_channels=3,
        num_layers=DEPTH,
        num_attention_heads=DEPTH,
        attention_head_dim=64,
        joint_attention_dim=128,
        caption_projection_dim=64 * DEPTH,
        pooled_projection_dim=96,
        pos_embed_max_size=SIZE // PATCH,
        qk_norm="rms_norm",
    ).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4)
    draws = torch.Generator().manual_seed(11)

    def velocity(z: Tensor, t: Tensor, pictures: Pictures, chosen: list[int]) -> Tensor:
        out: Tensor = model(z, pictures.padded[chosen], pictures.text.pooled[chosen], 1000 * t, return_dict=False)[0]
        return out

    def advance(step: int) -> None:
        warm(optimizer, [1e-3], step)
        chosen = torch.randint(PICTURES, (BATCH,), generator=draws).tolist()
        x0, t = train.x0[chosen], torch.sigmoid(torch.randn(BATCH, generator=draws)).to(device)
        eps, at = torch.randn(x0.shape, generator=draws).to(device), t[:, None, None, None]
        error = velocity((1 - at) * x0 + at * eps, t, train, chosen) - (eps - x0)
        error.square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def judge() -> float:
        eps, t, chosen = levels(judged)
        x0, at = judged.x0[chosen], t[:, None, None, None]
        error = velocity((1 - at) * x0 + at * eps, t, judged, chosen) - (eps - x0)
        return float(error.square().flatten(1).mean(1).mean())

    return advance, judge
