import itertools
import re

import pytest

from mmflow.shapes import PICTURE_SPLITS, Item, World
from mmflow.shapes.grammar import TAUGHT
from mmflow.shapes.splits import (
    bind_held,
    count_held,
    motion_held,
    options,
    pair_held,
    relation_held,
    unseen_words,
)
from mmflow.shapes.vocabulary import COLORS, DIRECTIONS, MIRROR, RELATIONS, SHAPES, VERBS, Noun

pytestmark = pytest.mark.usefixtures("unpainted")

FULL = World()
SMALL = World(
    size=32,
    shapes=("circle", "square", "triangle", "cross"),
    colors=("red", "green", "blue", "yellow", "white", "black"),
    max_count=3,
    frames=8,
)


def held(item: Item) -> set[str]:
    """The splits that this item, judged by what it shows and says, belongs to."""
    nouns = [Noun(each.shape, each.color) for each in item.objects]
    found = {"comp_pair"} if any(map(pair_held, nouns)) else set()
    kinds = {noun.shape for noun in nouns}
    if len(nouns) > 1 and len(kinds) == 1 and count_held(nouns[0].shape, len(nouns)):
        found.add("comp_count")
    if len(kinds) > 1 and any(bind_held(a, b) for a, b in itertools.combinations(nouns, 2)):
        found.add("comp_bind")
    if len(kinds) > 2:
        found.add("length")
    if item.metadata["tag"] == "position":
        other, subject = item.metadata["include"]
        if relation_held(subject["class"], subject["position"][0], other["class"]):
            found.add("comp_relation")
    if any(each.motion and motion_held(each.shape, each.motion.verb) for each in item.objects):
        found.add("comp_motion")
    if re.search(r"(photo|video) shows|together with.* and|^(to the|there is .* (together|in the))", item.caption):
        found.add("paraphrase")
    return found


@pytest.mark.parametrize("world", [FULL, SMALL], ids=["full", "small"])
def test_training_never_shows_what_is_held_out(world: World) -> None:
    for split, count in (("train", 5000), ("val_iid", 500)):
        for index in range(count):
            assert not held(world.picture(1, split, index)), world.picture(1, split, index).caption
            assert not held(world.clip(1, split, index)), world.clip(1, split, index).caption


@pytest.mark.parametrize("world", [FULL, SMALL], ids=["full", "small"])
@pytest.mark.parametrize("split", [split for split in PICTURE_SPLITS if split.startswith(("comp", "length"))])
def test_held_out_pictures_show_it_and_nothing_else_that_is_held_out(world: World, split: str) -> None:
    for index in range(100):
        assert held(world.picture(1, split, index)) == {split}


@pytest.mark.parametrize("world", [FULL, SMALL], ids=["full", "small"])
def test_held_out_clips_show_it(world: World) -> None:
    for index in range(100):
        assert held(world.clip(1, "comp_motion", index)) == {"comp_motion"}
        assert held(world.clip(1, "comp_pair", index)) == {"comp_pair"}
        assert not held(world.clip(1, "paraphrase", index)) - {"paraphrase"}


@pytest.mark.parametrize("world", [FULL, SMALL], ids=["full", "small"])
def test_every_word_remains_in_training(world: World) -> None:
    pictures = [world.picture(2, "train", index) for index in range(1500)]
    clips = [world.clip(2, "train", index) for index in range(600)]
    said = " ".join(item.caption for item in (*pictures, *clips))
    numbers = ("two", "three", "four")[: world.max_count - 1]
    for word in (*world.shapes, *world.colors, *numbers, *RELATIONS, *DIRECTIONS, "growing", "shrinking", "still"):
        assert word in said, word
    moves = {each.motion.verb for item in clips for each in item.objects if each.motion}
    assert moves == set(VERBS)


def test_sizes_of_the_rules() -> None:
    pairs = [Noun(s, c) for s in SHAPES for c in COLORS]
    assert sum(map(pair_held, pairs)) == 14
    assert all(sum(pair_held(Noun(s, c)) for c in COLORS) == 2 for s in SHAPES)
    assert all(1 <= sum(pair_held(Noun(s, c)) for s in SHAPES) <= 2 for c in COLORS)
    assert sum(count_held(s, n) for s in SHAPES for n in (2, 3, 4)) == 7
    triples = [(a, r, b) for a in SHAPES for r in RELATIONS for b in SHAPES if a != b]
    out = {triple for triple in triples if relation_held(*triple)}
    assert 0.15 < len(out) / len(triples) < 0.25
    assert not {(b, MIRROR[r], a) for a, r, b in out} & out


def test_of_a_held_out_binding_the_swapped_one_is_trained_on() -> None:
    train = options("train", SHAPES, COLORS, 4)
    held_out = options("comp_bind", SHAPES, COLORS, 4).pairs
    assert 0.1 < len(held_out) / len(train.pairs) < 0.5
    for a, b in held_out:
        assert (Noun(a.shape, b.color), Noun(b.shape, a.color)) in train.pairs
        assert (b, a) in held_out  # saying it the other way round is the same picture


def test_rules_do_not_depend_on_the_vocabulary() -> None:
    small, full = (options("comp_bind", w.shapes, w.colors, w.max_count) for w in (SMALL, FULL))
    assert set(small.pairs) <= set(full.pairs)


def test_a_vocabulary_that_the_rules_swallow_is_named() -> None:
    assert unseen_words(SHAPES, COLORS, 4) == []
    assert "circle" in unseen_words(("circle", "ring"), ("red", "purple"), 2)


def test_training_uses_all_taught_paraphrases() -> None:
    said = [FULL.picture(0, "train", i).caption for i in range(1000)]
    said += [FULL.clip(0, "train", i).caption for i in range(400)]
    for kind, templates in TAUGHT.items():
        for template in templates if kind != "triple" else ():
            pattern = re.sub(r"\{\w+\}", "[a-z ]+", template)
            assert any(re.fullmatch(pattern, caption) for caption in said), template
