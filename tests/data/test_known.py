"""Patterns of what is given: their shares, their names, and that a batch's layout does not show in them."""

from collections import Counter

import pytest
import torch

from mmflow.data.deal import Share
from mmflow.data.known import IN_TIME, KnownShares, unknown_pixels
from mmflow.data.plan import Item
from mmflow.data.reader import Draws, ShareReader
from mmflow.data.source import ShapesSource
from mmflow.shapes.world import World

ISSUED = KnownShares(none=0.5, first_frame=0.3, first_last=0.1, box=0.1)


def rgb(*shape: int) -> tuple[int, int, int, int]:
    return 3, *shape


def video(frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    return 16, 1 + (frames - 1) // 4, height // 8, width // 8


def pattern_of(unknown: torch.Tensor | None) -> str:
    """What a mask of 9 frames is."""
    if unknown is None:
        return "none"
    frames = unknown[0].flatten(1)
    if not frames.all(1).eq(frames.any(1)).all():
        return "box"
    hidden = frames.all(1).tolist()
    if hidden == [False] + [True] * 8:
        return "first_frame"
    return "first_last" if not hidden[-1] else "continuation"


def test_shares_are_drawn_by_name() -> None:
    draws = [ISSUED.draw(0, ("s", "t", n), 0, (9, 16, 16), rgb) for n in range(600)]
    counts = Counter(map(pattern_of, draws))
    assert counts.keys() == {"none", "first_frame", "first_last", "box"}
    for name, share in (("none", 0.5), ("first_frame", 0.3), ("first_last", 0.1), ("box", 0.1)):
        assert counts[name] / 600 == pytest.approx(share, abs=4 * (share * (1 - share) / 600) ** 0.5)
    again = [ISSUED.draw(0, ("s", "t", n), 0, (9, 16, 16), rgb) for n in range(600)]
    assert all(a is b or torch.equal(a, b) for a, b in zip(draws, again, strict=True))
    for other in ((1, 0), (0, 1)):  # another seed, another visit
        moved = [ISSUED.draw(other[0], ("s", "t", n), other[1], (9, 16, 16), rgb) for n in range(40)]
        assert list(map(pattern_of, moved)) != list(map(pattern_of, draws[:40]))


def test_pictures_have_no_first_frame_to_be_given() -> None:
    counts = Counter(ISSUED.draw(0, (n,), 0, (1, 16, 16), rgb) is None for n in range(300))
    assert counts[False] / 300 == pytest.approx(0.1, abs=0.06)


def test_beginnings_and_boxes_are_of_whole_latents() -> None:
    ends, areas = set(), []
    for n in range(60):
        draw = KnownShares(continuation=1.0).draw(0, (n,), 0, (13, 32, 48), video)
        assert draw is not None and pattern_of(draw) in ("continuation", "first_frame")
        ends.add(13 - int(draw[0, :, 0, 0].sum()))
        box = KnownShares(box=1.0).draw(0, (n,), 0, (5, 32, 48), video)
        assert box is not None and torch.equal(box[:, 0], box[:, 4])
        cells = box[0, 0].float().unflatten(0, (4, 8)).unflatten(2, (6, 8))
        assert torch.equal(cells.amax((1, 3)), cells.amin((1, 3)))
        areas.append(box[0, 0].float().mean().item())
    assert ends == {1, 5, 9}
    assert min(areas) >= 1 / 16 and max(areas) <= 9 / 16 + 0.1 and len(set(areas)) > 3


def test_there_is_always_something_left_to_make() -> None:
    for pattern in (*IN_TIME, "box"):
        for shape in ((2, 8, 8), (5, 8, 8)):
            for numbers in ([0.0] * 4, [0.999] * 4):
                for latents in (shape, (2, 2, 2)):
                    unknown = unknown_pixels(pattern, shape, latents, numbers)
                    assert unknown.any() and not unknown.all(), (pattern, shape, numbers)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"first_frame": 1.5}, r"data\.known\.first_frame must lie in \[0, 1\], got 1\.5"),
        ({"none": 0.5, "first_frame": 0.3}, r"must sum to 1, got 0\.8: set data\.known\.none to 0\.7"),
        ({"first_frame": 0.7, "box": 0.7}, r"must sum to 1, got 1\.4: make the others smaller"),
    ],
)
def test_shares_that_are_none(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KnownShares(**arguments)


def test_what_could_not_be_trained_is_refused() -> None:
    assert KnownShares().weights == [1, 0, 0, 0, 0] and not KnownShares().gives
    KnownShares().check(takes_known=False, clip_share=0)
    KnownShares(box=0.5, first_frame=0.1).check(takes_known=True, clip_share=0)
    with pytest.raises(ValueError, match=r"design\.known true"):
        ISSUED.check(takes_known=False, clip_share=0.5)
    with pytest.raises(ValueError, match=r"first_frame, which clips have, and data\.clip_share is 0"):
        KnownShares(first_frame=0.5).check(takes_known=True, clip_share=0)


def test_a_batch_carries_masks_in_the_shapes_of_its_pixels() -> None:
    world = World(size=32, frames=4)
    sources = [ShapesSource(world, "train", medium, 0) for medium in ("picture", "clip")]
    items = [sources[kind].locate(kind, nth, nth) for kind, nth in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)]]

    def read(known: KnownShares, items: list[Item] = items):
        reader = ShareReader(sources, Draws(0, 0.0, False, known=known), rgb)
        return reader[Share(tuple(items), len(items), 0, True, (1, 32, 32))]

    assert read(KnownShares()).unknown is None
    batch = read(ISSUED)
    assert batch.unknown is not None
    assert [m.shape for m in batch.unknown] == [(2, 1, 1, 32, 32), (4, 1, 4, 32, 32)]
    alone = [read(ISSUED, [item]) for item in items]
    for mask, one in zip([m for group in batch.unknown for m in group], alone, strict=True):
        assert mask.all() if one.unknown is None else torch.equal(mask, one.unknown[0][0])
    assert not all(mask.all() for mask in batch.unknown[1])
