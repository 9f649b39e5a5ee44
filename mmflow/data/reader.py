"""In the loader's workers: planned items to a batch, with every draw that belongs to them."""

import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from mmflow import draws
from mmflow.batch import Batch, Hole, Sample
from mmflow.data.deal import Dealing, Share
from mmflow.data.decode import UnreadableSample
from mmflow.data.known import KnownShares
from mmflow.data.plan import Plan
from mmflow.data.source import AbstractSource
from mmflow.said import Said

ENDLESS = 10**9
"""Length that an endless loader states. Lightning reads a batch ahead of loaders without a length, which would move the
place in the plan past what was trained on."""

LatentShape = Callable[[int, int, int], tuple[int, int, int, int]]


@dataclass(frozen=True)
class Draws:
    """What is drawn for each sample while it is read.

    Attributes:
        seed: of all draws.
        caption_dropout: share of samples that no text encoder sees the caption of, so that the model learns the null
            state. Each of E encoders is dropped on its own, with probability caption_dropout ** (1 / E): 46.4 % for
            10 % and three (appendix B.3).
        low_discrepancy: u from the golden-ratio sequence over the plan's positions instead of independent uniforms.
        num_encoders: E.
        known: what of the samples the model is given.
        posterior: latents are drawn from the autoencoder's posterior, instead of being its mean.
    """

    seed: int
    caption_dropout: float
    low_discrepancy: bool
    num_encoders: int = 1
    known: KnownShares = field(default_factory=KnownShares)
    posterior: bool = False

    def u(self, key: tuple[str | int, ...], visit: int, position: int) -> float:
        """The uniform that the objective's density turns into t."""
        if self.low_discrepancy:
            return draws.low_discrepancy(self.seed, "u", 0, position)
        return float(draws.uniform(self.seed, "u", key, visit))

    def kept(self, sample: Sample) -> Bool[Tensor, " E"]:
        """Which text encoders see the sample's caption."""
        drawn = draws.uniform(self.seed, "caption_dropout", sample.key, sample.visit, (self.num_encoders,))
        kept: Tensor = drawn.double() >= self.caption_dropout ** (1 / self.num_encoders)
        return kept

    def unknown(self, samples: list[Sample], latent_shape: LatentShape) -> list[Bool[Tensor, "1 T H W"] | None]:
        """The pixels of each sample that the model is not given; None where it is given nothing."""
        return [self.known.draw(self.seed, s.key, s.visit, s.frames.shape[:3], latent_shape) for s in samples]


def leave_signals_to_the_main_process(worker: int) -> None:
    """SLURM sends its signals to all processes; a worker that ended of one would end its run without a checkpoint."""
    for signum in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)


class ShareReader(Dataset[Batch]):
    """Reads one share (a rank's part of a micro-step) into a batch.

    Args:
        sources: the plan's, in its order.
        draws: what is drawn per sample.
        latent_shape: (T, H, W) in pixels to (C, t, h, w) of the latents.
        levels: for validation: fixed t. Each sample is read once and taken at all of them; a visit is then the index
            of a level, so that each level has noise of its own, the same at every validation.
    """

    def __init__(
        self,
        sources: Sequence[AbstractSource],
        draws: Draws,
        latent_shape: LatentShape,
        levels: tuple[float, ...] | None = None,
    ) -> None:
        self.sources, self.draws, self.latent_shape, self.levels = sources, draws, latent_shape, levels

    def __getitem__(self, share: Share) -> Batch:  # type: ignore[override]
        # One decode thread per worker: the cores belong to training.
        torch.set_num_threads(1)
        samples: list[tuple[Sample, float]] = []
        holes: list[Hole] = []
        for item in share.items:
            try:
                sample = self.sources[item.source].read(item)
            except UnreadableSample as error:
                holes.append(Hole(item.key, error.reason, error.detail, item.shape))
                continue
            samples.append((sample, 0.0 if self.levels else self.draws.u(item.key, item.visit, item.position)))
        return self._batch(samples, holes, share)

    def _visits(self, sample: Sample) -> tuple[int, ...]:
        return (sample.visit,) if self.levels is None else tuple(range(len(self.levels)))

    def _batch(self, samples: list[tuple[Sample, float]], holes: list[Hole], share: Share) -> Batch:
        # Where a cache has some of a shape's samples only, those that are decoded and the others are two groups.
        samples = sorted(samples, key=lambda pair: (pair[0].frames.shape, _is_recalled(pair[0])))
        groups = [list(g) for _, g in groupby(samples, key=lambda pair: (pair[0].frames.shape, _is_recalled(pair[0])))]
        pixels = tuple(_pixels([sample for sample, _ in group]) for group in groups)
        eps = tuple(torch.stack([self._noise(s, v) for s, _ in group for v in self._visits(s)]) for group in groups)
        unknown = [self.draws.unknown([sample for sample, _ in group], self.latent_shape) for group in groups]
        if not groups:
            # A rank with nothing to read still runs every module: one group of no samples.
            t, h, w = share.shape
            pixels = (torch.empty(0, 3, t, h, w, dtype=torch.uint8),)
            eps = (torch.empty(0, *self.latent_shape(t, h, w)),)
        posterior = None
        if self.draws.posterior:
            posterior = (
                tuple(torch.stack([self._noise(s, s.visit, "posterior") for s, _ in group]) for group in groups) or eps
            )
        kept = [self.draws.kept(sample) for sample, _ in samples]
        return Batch(
            pixels=pixels,
            captions=tuple(s.caption if bool(k.any()) else "" for (s, _), k in zip(samples, kept, strict=True)),
            u=torch.tensor([level for _, u in samples for level in self.levels or (u,)], dtype=torch.float32),
            eps=eps,
            posterior=posterior,
            keys=tuple(sample.key for sample, _ in samples for _ in self._visits(sample)),
            visits=tuple(visit for sample, _ in samples for visit in self._visits(sample)),
            planned=share.planned,
            next_position=share.next_position,
            closes_step=share.closes_step,
            repeats=len(self.levels or (0,)),
            holes=tuple(holes),
            fates=tuple(sample.fate for sample, _ in samples for _ in self._visits(sample)),
            framed=_framed([sample for sample, _ in samples]),
            unknown=_masks(unknown, pixels),
            kept=torch.stack(kept) if kept else torch.ones(0, self.draws.num_encoders, dtype=torch.bool),
            raw=_raw([[sample for sample, _ in group] for group in groups]),
            said=_said([sample for sample, _ in samples]),
        )

    def _noise(self, sample: Sample, visit: int, purpose: str = "eps") -> Tensor:
        shape = self.latent_shape(*sample.frames.shape[:3])
        return draws.normal(self.draws.seed, purpose, sample.key, visit, shape)


def _framed(samples: list[Sample]) -> Tensor | None:
    told = [sample.framed for sample in samples if sample.framed is not None]
    return torch.tensor(told) if told and len(told) == len(samples) else None


def _is_recalled(sample: Sample) -> bool:
    return sample.recalled is not None and sample.recalled.latents is not None


def _pixels(samples: list[Sample]) -> Tensor:
    """(T, H, W, 3) arrays to `B 3 T H W`; B is 0 where the latents were recalled."""
    if _is_recalled(samples[0]):
        return torch.empty(0, 3, *samples[0].frames.shape[:3], dtype=torch.uint8)
    pixels = np.empty((len(samples), 3, *samples[0].frames.shape[:3]), np.uint8)
    for own, sample in zip(pixels, samples, strict=True):
        for channel in range(3):  # plane by plane: twice as fast as one transposition
            own[channel] = sample.frames[..., channel]
    return torch.from_numpy(pixels)


def _raw(groups: list[list[Sample]]) -> tuple[Tensor | None, ...] | None:
    """Latents of the groups whose latents were recalled; None if there are no such groups."""
    found = tuple(
        torch.stack([each.recalled.latents for each in group])  # type: ignore[union-attr, misc]
        if _is_recalled(group[0])
        else None
        for group in groups
    )
    return found if any(each is not None for each in found) else None


def _said(samples: list[Sample]) -> dict[str, Said]:
    """What was recalled of the captions, by encoder, a row for every sample."""
    recalled = [{} if each.recalled is None else each.recalled.said for each in samples]
    found = {}
    for name in dict.fromkeys(name for said in recalled for name in said):
        some = next(said[name] for said in recalled if name in said)
        nothing = Said(some.states[:0], torch.zeros(1, dtype=torch.int64), torch.zeros_like(some.pooled))
        found[name] = Said.cat([said.get(name, nothing) for said in recalled])
    return found


def _masks(
    unknown: list[list[Bool[Tensor, "1 _ _ _"] | None]], pixels: tuple[Tensor, ...]
) -> tuple[Bool[Tensor, "_ 1 _ _ _"], ...] | None:
    """All of them, group by group; None if nothing is given of any sample."""
    if all(mask is None for masks in unknown for mask in masks):
        return None
    return tuple(
        torch.stack(
            [torch.ones_like(x[:1], dtype=torch.bool) if m is None else m for x, m in zip(group, masks, strict=True)]
        )
        for group, masks in zip(pixels, unknown, strict=True)
    )


class ShareSampler(Sampler[Share]):
    """One rank's shares in the plan's order, from a position on.

    Args:
        plan: the order.
        position: where a step begins.
        rank: of this process.
        dealing: how a step is dealt over ranks and micro-steps.
        endless: states no true length even where the plan ends. Lightning compares the length with all batches since
            the run began, so that a continued run would end too soon.
    """

    def __init__(self, plan: Plan, position: int, rank: int, dealing: Dealing, endless: bool = False) -> None:
        self.plan, self.position, self.endless = plan, position, endless
        self.rank, self.dealing = rank, dealing

    def __len__(self) -> int:
        if self.endless or self.plan.end is None:
            return ENDLESS
        return self.plan.num_steps(self.position, self.plan.end) * self.dealing.accumulate

    def __iter__(self) -> Iterator[Share]:
        for step in self.plan.steps(self.position):
            yield from self.dealing(step, self.rank)
