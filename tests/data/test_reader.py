"""What the loader's workers make: the same draws per sample on every layout, and holes that nothing fills."""

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mmflow import draws
from mmflow.batch import LEVELS, Batch, Sample
from mmflow.data.deal import Dealing, Share
from mmflow.data.decode import UnreadableSample
from mmflow.data.places import Medium
from mmflow.data.plan import Filling, Item, Plan
from mmflow.data.reader import ENDLESS, Draws, ShareReader, ShareSampler
from mmflow.data.source import AbstractSource

SHAPES = {"picture": [(1, 8, 8), (1, 4, 16)], "clip": [(4, 8, 8)]}
DRAWS = Draws(seed=3, caption_dropout=0.3, low_discrepancy=False)


class Painted(AbstractSource):
    """Endless samples whose pixels are their number; every seventh file is bad."""

    size = None

    def __init__(self, medium: Medium, bad: int = 7) -> None:
        self.medium, self.bad = medium, bad

    def locate(self, source: int, nth: int, position: int) -> Item:
        shapes = SHAPES[self.medium]
        return Item(source, nth, 0, position, ("painted", self.medium, str(nth)), shapes[nth % len(shapes)])

    def read(self, item: Item) -> Sample:
        if item.row % self.bad == self.bad - 1:
            raise UnreadableSample("corrupt", f"number {item.row}")
        frames = np.full((*item.shape, 3), item.row % 256, np.uint8)
        return Sample(item.key, item.visit, frames, self.caption(item))

    def caption(self, item: Item) -> str:
        return f"{self.medium} {item.row}"


SOURCES = [Painted("picture"), Painted("clip")]


def latent_shape(frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    return 2, frames, height // 2, width // 2


def batches(
    ranks: int = 1,
    workers: int = 0,
    accumulate: int = 1,
    reader: ShareReader | None = None,
    end: int = 53,
    bucketed: bool = False,
) -> Iterator[Batch]:
    """All batches of all ranks, of a plan of `end` places with short steps."""
    plan = Plan(SOURCES, (0.6, 0.4), Filling(6, bucketed=bucketed), window=20, end=53)
    reader = reader or ShareReader(SOURCES, DRAWS, latent_shape)
    for rank in range(ranks):
        sampler = ShareSampler(plan, 0, rank, Dealing(ranks, accumulate))
        context = "fork" if workers else None
        yield from DataLoader(
            reader, sampler=sampler, batch_size=None, num_workers=workers, multiprocessing_context=context
        )


def by_key(made: Iterator[Batch]) -> dict[tuple, tuple]:
    """(u, caption, eps, pixels) of every sample; a sample that comes twice fails."""
    found: dict[tuple, tuple] = {}
    for batch in made:
        pixels, eps = ([x for group in groups for x in group] for groups in (batch.pixels, batch.eps))
        for i, key in enumerate(batch.keys):
            assert key not in found
            found[key] = batch.u[i].item(), batch.captions[i], eps[i].clone(), pixels[i].clone()
    return found


@pytest.fixture(scope="module")
def alone() -> dict[tuple, tuple]:
    return by_key(batches())


@pytest.mark.parametrize("bucketed", [False, True])
@pytest.mark.parametrize(("ranks", "workers", "accumulate"), [(1, 1, 1), (1, 3, 1), (2, 0, 1), (2, 2, 1), (3, 0, 2)])
def test_every_draw_is_the_same_on_every_layout(
    alone, ranks: int, workers: int, accumulate: int, bucketed: bool
) -> None:
    found = by_key(batches(ranks, workers, accumulate, bucketed=bucketed))
    assert found.keys() == alone.keys()
    for key, (u, caption, eps, pixels) in alone.items():
        assert found[key][:2] == (u, caption)
        assert torch.equal(found[key][2], eps) and torch.equal(found[key][3], pixels)


def test_draws_are_those_of_the_sample_s_name(alone) -> None:
    for key, (u, caption, eps, pixels) in alone.items():
        number = int(key[2])
        shape = latent_shape(*SHAPES[key[1]][number % len(SHAPES[key[1]])])
        assert torch.equal(eps, draws.normal(3, "eps", key, 0, shape))
        assert u == float(draws.uniform(3, "u", key, 0))
        dropped = float(draws.uniform(3, "caption_dropout", key, 0)) < 0.3
        assert caption == ("" if dropped else f"{key[1]} {number}")
        assert (pixels == number).all() and pixels.shape[0] == 3
    assert 0 < sum(caption == "" for _, caption, _, _ in alone.values()) < len(alone) / 2


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_bad_sample_is_a_hole_that_is_planned_and_not_filled(ranks: int) -> None:
    made = list(batches(ranks))
    holes = [hole for batch in made for hole in batch.holes]
    read = {key for batch in made for key in batch.keys}
    assert len(holes) + len(read) == 53 and holes
    assert all(int(hole.key[2]) % 7 == 6 and hole.key not in read for hole in holes)
    assert all((hole.reason, hole.detail) == ("corrupt", f"number {hole.key[2]}") for hole in holes)
    steps: dict[int, list[Batch]] = {}
    for batch in made:
        steps.setdefault(batch.next_position, []).append(batch)
    for parts in steps.values():
        assert {part.planned for part in parts} == {sum(len(part) + len(part.holes) for part in parts)}


def test_groups_keys_captions_and_u_are_in_one_order() -> None:
    for batch in batches(2):
        shapes = [tuple(group.shape[2:]) for group in batch.pixels]
        assert shapes == sorted(set(shapes)), "one dense group per shape"
        assert sum(map(len, batch.pixels)) == sum(map(len, batch.eps)) == len(batch.u) == len(batch)
        assert len(batch.captions) == len(batch.visits) == len(batch)
        assert [tuple(e.shape) for e in batch.eps] == [(len(p), *latent_shape(*p.shape[2:])) for p in batch.pixels]


@pytest.mark.parametrize("bad", [7, 1])
def test_nothing_to_read_is_a_group_of_no_samples(bad: int) -> None:
    """An empty hand, and a hand of which nothing could be read."""
    source = Painted("clip", bad)
    items = (source.locate(0, 0, 0),) if bad == 1 else ()
    batch = ShareReader([source], DRAWS, latent_shape)[Share(items, 4, 9, True, (4, 8, 8))]
    assert len(batch) == 0 and batch.u.shape == (0,) and batch.u.dtype == torch.float32
    shape = (4, 8, 8) if bad == 1 else tuple(batch.pixels[0].shape[2:])
    assert [tuple(p.shape) for p in batch.pixels] == [(0, 3, *shape)]
    assert [tuple(e.shape) for e in batch.eps] == [(0, *latent_shape(*shape))]
    assert (len(batch.holes), batch.planned, batch.next_position, batch.closes_step) == (len(items), 4, 9, True)


def test_low_discrepancy_u_goes_by_the_place_in_the_plan() -> None:
    even = Draws(3, 0.0, low_discrepancy=True)
    made = list(batches(2, reader=ShareReader([Painted("picture", 99), Painted("clip", 99)], even, latent_shape)))
    u = sorted(x for batch in made for x in batch.u.tolist())
    assert u == pytest.approx(sorted(draws.low_discrepancy(3, "u", 0, p) for p in range(53)), abs=1e-6)


def test_validation_reads_a_sample_once_for_all_levels_with_noise_of_its_own_at_each() -> None:
    source = Painted("clip", 99)
    reader = ShareReader([source], Draws(3, 0.0, False), latent_shape, LEVELS)
    batch = reader[Share(tuple(source.locate(0, n, n) for n in range(3)), 3, 3, True, (4, 8, 8))]
    assert [len(p) for p in batch.pixels] == [3] and len(batch.captions) == 3 and batch.repeats == len(LEVELS)
    assert batch.u.tolist() == [*LEVELS] * 3 and batch.visits == (*range(len(LEVELS)),) * 3
    assert [key[2] for key in batch.keys] == [str(n) for n in range(3) for _ in LEVELS]
    (eps,) = batch.eps
    assert len(eps) == 3 * len(LEVELS) and not torch.equal(eps[0], eps[1])
    alone = reader[Share((source.locate(0, 1, 1),), 1, 1, True, (4, 8, 8))]
    assert torch.equal(alone.eps[0], eps[len(LEVELS) : 2 * len(LEVELS)])


def test_the_sampler_states_its_length() -> None:
    ends, endless = (Plan(SOURCES, (1, 1), 6, 20, end) for end in (53, None))
    for position in (0, 6, 18, 20, 53):
        sampler = ShareSampler(ends, position, 0, Dealing(2, 3))
        assert len(sampler) == len(list(sampler))
    assert (
        len(ShareSampler(endless, 0, 0, Dealing(1)))
        == len(ShareSampler(ends, 0, 0, Dealing(1), endless=True))
        == ENDLESS
    )


def test_each_of_several_encoders_is_dropped_on_its_own() -> None:
    """Appendix B.3: three encoders, each dropped in 46.4 % of the samples, all of them in 10 %."""
    draws = Draws(3, caption_dropout=0.1, low_discrepancy=False, num_encoders=3)
    samples = [Sample(("source", "shard", str(n)), 0, np.zeros((1, 2, 2, 3), np.uint8), "a word") for n in range(1200)]
    kept = torch.stack([draws.kept(sample) for sample in samples])
    assert (1 - kept.float().mean(0)).tolist() == pytest.approx([0.464] * 3, abs=0.04)
    assert (~kept.any(1)).float().mean().item() == pytest.approx(0.1, abs=0.025)
    assert kept.all(1).float().mean().item() == pytest.approx(0.536**3, abs=0.03)
    assert torch.equal(draws.kept(samples[7]), kept[7])
    again = torch.stack([draws.kept(dataclasses.replace(sample, visit=1)) for sample in samples[:100]])
    assert not torch.equal(again, kept[:100])
    whole = dataclasses.replace(draws, caption_dropout=0.0)
    assert all(bool(whole.kept(sample).all()) for sample in samples[:100])
