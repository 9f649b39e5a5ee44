"""A run's order over segments: nothing of a pass comes twice, whatever changes between them."""

import json
from collections import Counter

import numpy as np
import pytest
from synthetic import Shards, Store

from mmflow.data.plan import Filling
from mmflow.data.source import ShapesSource
from mmflow.data.train_order import TrainOrder
from mmflow.shapes.world import World

ABCD: Shards = {"a": (5, ""), "b": (4, ""), "c": (3, ""), "d": (6, "")}
Taken = list[tuple[str, int, int]]
"""(shard, number, visit) in order."""


@pytest.fixture
def store(monkeypatch) -> Store:
    store = Store()
    monkeypatch.setattr("mmflow.data.source.read_index", store.read_index)
    return store


def order(*sources, batch: int = 3, weights=None, **about) -> TrainOrder:
    filling = Filling(batch, seed=0, bucketed=about.get("packing") == "bucketed")
    about = {"seed": 0, "world": None, "batch_size": batch, **about}
    return TrainOrder(sources, weights or [1.0] * len(sources), filling, about)


def take(order: TrainOrder, steps: int) -> Taken:
    taken: Taken = []
    for _ in range(steps):
        step = order.plan.step(order.position)
        order.advance(step.next_position)
        taken += [(item.key[1], int(item.key[2]), item.visit) for item in step.items]
    return taken


def go_on(before: TrainOrder, after: TrainOrder) -> TrainOrder:
    """`after` at the place of `before`, by way of a checkpoint."""
    after.take_up(json.loads(json.dumps(before.state())))
    return after


@pytest.mark.parametrize("steps", [0, 1, 5, 6, 7, 13])
def test_the_same_order_goes_on_without_a_segment(store: Store, steps: int) -> None:
    whole = take(order(store.source(ABCD)), 20)
    first = order(store.source(ABCD))
    begun = take(first, steps)
    second = go_on(first, order(store.source(ABCD)))
    assert begun + take(second, 20 - steps) == whole
    assert len(second.segments) == 1 and second.steps == 20 and second.digest == first.digest


@pytest.mark.parametrize("change", [{"batch": 5}, {"packing": "bucketed"}, {"weights": [7.0]}])
def test_other_steps_begin_a_segment_and_repeat_nothing(store: Store, change: dict) -> None:
    first = order(store.source(ABCD))
    taken = take(first, 4)
    second = go_on(first, order(store.source(ABCD), **change))
    assert [(s.start, s.end) for s in second.segments] == [(0, 12), (12, 12)]
    assert len({segment.plan for segment in second.segments}) == 2
    while second.position < 18:
        taken += take(second, 1)
    of_the_pass = [each for each in taken if each[2] == 0]
    assert len(set(of_the_pass)) == len(of_the_pass) == 18 or change.get("packing") == "bucketed"
    assert max(Counter(taken).values()) == 1


def test_the_next_step_comes_from_where_each_source_was(store: Store) -> None:
    """Two sources at 2 : 1; after a change to 1 : 2 each goes on with its own next sample."""
    pictures, clips = store.source(ABCD), store.source(ABCD, "clip")
    first = order(pictures, clips, weights=[2.0, 1.0])
    take(first, 3)
    second = go_on(first, order(store.source(ABCD), store.source(ABCD, "clip"), weights=[1.0, 2.0]))
    rows = {0: [], 1: []}
    for item in second.plan.step(second.position).items:
        rows[item.source].append(item.row)
    assert rows[0] == [pictures.locate(0, 6, 0).row]
    assert rows[1] == [clips.locate(1, n, 0).row for n in (3, 4)]


def test_new_shards_join_the_pass_and_gone_ones_leave_it(store: Store) -> None:
    first = order(store.source(ABCD))
    taken = take(first, 3)  # 9 of 18
    changed: Shards = {**{k: v for k, v in ABCD.items() if k != "b"}, "e": (5, "")}
    second = go_on(first, order(store.source(changed)))
    left = {(s, n) for s, (size, _) in changed.items() for n in range(size)} - {each[:2] for each in taken}
    rest = take(second, -(-len(left) // 3))
    assert [each[:2] for each in rest if each[2] == 0] == list(dict.fromkeys(e[:2] for e in rest if e[2] == 0))
    assert {each[:2] for each in rest if each[2] == 0} == left
    whole = Counter(rest + take(second, 12))
    assert max(whole.values()) == 1 and sum(visit == 1 for *_, visit in whole) == 19


def test_a_renamed_shard_is_known_again(store: Store) -> None:
    first = order(store.source({"a": (4, ""), "b": (4, "")}))
    taken = {each[:2] for each in take(first, 2)}
    store_b = store.source({"a": (4, ""), "b": (4, "")})
    moved = store.source({"a": (4, ""), "z": (4, "")}, name="shards-1")
    # the same bytes under another name, in another group
    object.__setattr__(moved.places, "digests", store_b.places.digests)
    store._known = {tar: (4, of, "picture") for tar, of in zip(moved.places.tars, moved.places.digests, strict=True)}
    second = go_on(first, order(moved))
    rest = {(s.replace("z", "b"), n) for s, n, visit in take(second, 1) if visit == 0}
    assert len(rest) == 2 and not rest & taken


def test_a_shard_written_anew_waits_if_any_of_it_was_read(store: Store) -> None:
    first = order(store.source(ABCD))
    taken = take(first, 2)
    touched = {shard for shard, *_ in taken}
    anew = {shard: (size, "anew") for shard, (size, _) in ABCD.items()}
    second = go_on(first, order(store.source(anew)))
    left = sum(size for shard, (size, _) in ABCD.items() if shard not in touched)
    rest = [each for each in take(second, 8) if each[2] == 0]
    assert len(rest) == left and not {shard for shard, *_ in rest} & touched


@pytest.mark.parametrize("seed", range(12))
def test_nothing_of_a_pass_comes_twice_over_any_number_of_segments(store: Store, seed: int) -> None:
    """Shards come and go and come back, batches and weights change, a medium is left out for a while."""
    rng = np.random.default_rng(seed)
    names = "abcdefgh"
    run, taken = None, Counter()
    for _ in range(8):
        present: Shards = {name: (3 + ord(name) % 5, "") for name in names if rng.random() < 0.7} or {"a": (5, "")}
        sources = [store.source(present)]
        if rng.random() < 0.6:
            sources.append(store.source({"k": (6, ""), "l": (7, "")}, "clip"))
        changed = order(*sources, batch=int(rng.integers(1, 5)), weights=rng.random(len(sources)).tolist())
        run = changed if run is None else go_on(run, changed)
        for shard, number, visit in take(run, int(rng.integers(1, 4))):
            taken[shard, number, visit] += 1
    assert max(taken.values()) == 1
    assert [segment.end for segment in run.segments[:-1]] == [segment.start for segment in run.segments[1:]]


def test_a_run_can_be_cut_twice_in_one_pass_and_go_on_exactly(store: Store) -> None:
    """A segment begins mid-pass; continuing it from a checkpoint is the same as not having stopped."""

    def second() -> TrainOrder:
        first = order(store.source(ABCD))
        take(first, 2)
        return go_on(first, order(store.source({**ABCD, "e": (5, "")}), batch=2))

    whole = take(second(), 15)
    stopped = second()
    begun = take(stopped, 4)
    third = go_on(stopped, order(store.source({**ABCD, "e": (5, "")}), batch=2))
    assert begun + take(third, 11) == whole and len(third.segments) == 2


def test_the_shapes_world_never_repeats_even_when_a_medium_is_left_out() -> None:
    def shapes(*media) -> list[ShapesSource]:
        return [ShapesSource(World(), "train", medium, 0) for medium in media]

    first = order(*shapes("picture", "clip"), batch=4, world="w")
    take_keys(first, 2)
    second = go_on(first, order(*shapes("picture"), batch=4, world="w"))
    assert take_keys(second, 1) == [f"train/picture {n}" for n in range(4, 8)]
    third = go_on(second, order(*shapes("picture", "clip"), batch=4, world="w"))
    assert sorted(take_keys(third, 1)) == ["train/clip 4", "train/clip 5", "train/picture 8", "train/picture 9"]


def take_keys(order: TrainOrder, steps: int) -> list[str]:
    keys = []
    for _ in range(steps):
        step = order.plan.step(order.position)
        order.advance(step.next_position)
        keys += [f"{item.key[1]} {item.key[2]}" for item in step.items]
    return keys


def test_another_seed_or_world_and_other_checkpoints_are_refused(store: Store) -> None:
    state = order(store.source(ABCD)).state()
    for change in ({"seed": 1}, {"world": "w"}):
        with pytest.raises(ValueError, match=r"counted in another order:\n.*: .* -> (1|w)\n.*--model\.init_from"):
            order(store.source(ABCD), **change).take_up(state)
    with pytest.raises(ValueError, match="version: None -> 1"):
        order(store.source(ABCD)).take_up({"position": 3, "plan": {"seed": 0}})


def test_what_changed_is_told(store: Store) -> None:
    first = order(store.source(ABCD))
    changed: Shards = {"a": (5, ""), "b": (4, "anew"), "e": (1, "")}
    assert order(store.source(changed), batch=9).take_up(first.state()) == [
        "batch_size: 3 -> 9",
        "shards: 2 new or changed, 3 gone, 1 as before",
    ]
