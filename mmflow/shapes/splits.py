"""Which scenes are held out of training, and what each split may show.

All rules count places in the full lists of `vocabulary`, so a scene that is held out of a large world is held out of
every smaller one. They speak of what is drawn, not only of what the caption says.

    comp_pair      (shape + colour) mod 5 = 0: 14 of the 70 pairs, 2 of each shape
    comp_count     one of two, three, four for each shape
    comp_relation  20 % of (shape, relation, shape); the mirrored phrase stays in training
    comp_bind      of (red circle, blue square) and (blue circle, red square) training sees one, in 40 % of the cases
    length         scenes of three objects joined by "and"; training has at most two
    comp_motion    (shape + direction) mod 4 = 0
    paraphrase     the scenes of training in sentences that training never uses
"""

import hashlib
import itertools
from dataclasses import dataclass

from mmflow.shapes.vocabulary import COLORS, DIRECTIONS, MIRROR, RELATIONS, SHAPES, VERBS, Noun

PICTURE_SPLITS = ("train", "val_iid", "comp_pair", "comp_count", "comp_relation", "comp_bind", "length", "paraphrase")
CLIP_SPLITS = ("train", "val_iid", "comp_pair", "comp_motion", "paraphrase")
SPLITS = (*PICTURE_SPLITS, "comp_motion")

PICTURE_KINDS = ("single", "pair", "count", "relation", "place")
SPLIT_KINDS: dict[str, tuple[str, ...]] = {
    "train": PICTURE_KINDS,
    "val_iid": PICTURE_KINDS,
    "paraphrase": PICTURE_KINDS,
    "comp_pair": ("single", "pair"),
    "comp_count": ("count",),
    "comp_relation": ("relation",),
    "comp_bind": ("pair",),
    "length": ("triple",),
}
"""Kinds of picture that a split shows; each of them holds something that the split is about."""

Triple = tuple[str, str, str]


def _hash(*words: str) -> int:
    return int.from_bytes(hashlib.blake2b("|".join(words).encode(), digest_size=8).digest(), "little")


def pair_held(noun: Noun) -> bool:
    """Is this shape never drawn in this colour in training?"""
    return (SHAPES.index(noun.shape) + COLORS.index(noun.color)) % 5 == 0


def count_held(shape: str, count: int) -> bool:
    """Is this number of this shape never drawn in training?"""
    return count == 2 + SHAPES.index(shape) % 3


def relation_held(subject: str, relation: str, other: str) -> bool:
    """Is this phrase never said in training? Of a phrase and its mirror at most one is held out."""
    phrase, mirrored = (subject, relation, other), (other, MIRROR[relation], subject)
    first, second = sorted((phrase, mirrored))
    draw = _hash("relation", *first)
    return draw % 5 < 2 and phrase == (first, second)[draw // 5 % 2]


def bind_held(one: Noun, two: Noun) -> bool:
    """Is this pair of objects never drawn together in training, although the pair with swapped colours is?"""
    swapped = (Noun(one.shape, two.color), Noun(two.shape, one.color))
    if any(pair_held(noun) for noun in (one, two, *swapped)):
        return False  # comp_pair has already taken one of the two: the other must stay
    low, high = sorted((one, two), key=lambda noun: SHAPES.index(noun.shape))
    straight = COLORS.index(low.color) < COLORS.index(high.color)
    draw = _hash("bind", low.shape, high.shape, *sorted((low.color, high.color)))
    return draw % 5 < 2 and bool(draw // 5 % 2) == straight


def motion_held(shape: str, verb: str) -> bool:
    """Does this shape never move this way in training? Staying, growing and shrinking are never held out."""
    return verb in DIRECTIONS and (SHAPES.index(shape) + DIRECTIONS.index(verb)) % 4 == 0


@dataclass(frozen=True)
class Options:
    """Every scene that a split may show with a given vocabulary; a draw is a place in one of these lists."""

    nouns: tuple[Noun, ...]
    """Objects that may stand alone."""
    pairs: tuple[tuple[Noun, Noun], ...]
    """Two objects of different shape and colour, both orders."""
    triples: tuple[tuple[Noun, Noun, Noun], ...]
    """Three objects of different shapes and colours, in the order of the vocabulary; filled for `length` alone."""
    counts: tuple[tuple[str, int], ...]
    """(shape, how many), from two on."""
    relations: tuple[Triple, ...]
    """(shape, relation, shape)."""
    colors: dict[str, tuple[str, ...]]
    """The colours a shape may take where the caption leaves it open."""
    pair_colors: dict[tuple[str, str], tuple[tuple[str, str], ...]]
    """The same for two shapes together."""
    verbs: dict[str, tuple[str, ...]]
    """What a shape may do in a clip."""


def _triples(nouns: tuple[Noun, ...], legal: set[tuple[Noun, Noun]]) -> tuple[tuple[Noun, Noun, Noun], ...]:
    return tuple((a, b, c) for a, b, c in itertools.combinations(nouns, 3) if {(a, b), (a, c), (b, c)} <= legal)


def options(split: str, shapes: tuple[str, ...], colors: tuple[str, ...], max_count: int) -> Options:
    """All that `split` may show with this vocabulary."""
    every = tuple(Noun(s, c) for s in shapes for c in colors)
    kept = tuple(noun for noun in every if not pair_held(noun))
    together = [(a, b) for a in every for b in every if a.shape != b.shape and a.color != b.color]
    legal = tuple((a, b) for a, b in together if not (pair_held(a) or pair_held(b) or bind_held(a, b)))
    pairs, nouns = legal, kept
    if split == "comp_pair":
        nouns = tuple(noun for noun in every if pair_held(noun))
        pairs = tuple((a, b) for a, b in together if pair_held(a) or pair_held(b))
    elif split == "comp_bind":
        pairs = tuple((a, b) for a, b in together if bind_held(a, b))
    by_shape: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for a, b in legal:
        by_shape.setdefault((a.shape, b.shape), []).append((a.color, b.color))
    phrases = [(a, r, b) for a in shapes for r in RELATIONS for b in shapes if (a, b) in by_shape]
    numbers = [(s, n) for s in shapes for n in range(2, max_count + 1)]
    return Options(
        nouns=nouns,
        pairs=pairs,
        triples=_triples(kept, set(legal)) if split == "length" else (),
        counts=tuple(x for x in numbers if count_held(*x) == (split == "comp_count")),
        relations=tuple(x for x in phrases if relation_held(*x) == (split == "comp_relation")),
        colors={s: tuple(noun.color for noun in kept if noun.shape == s) for s in shapes},
        pair_colors={key: tuple(value) for key, value in by_shape.items()},
        verbs={s: tuple(v for v in VERBS if motion_held(s, v) == (split == "comp_motion")) for s in shapes},
    )


def unseen_words(shapes: tuple[str, ...], colors: tuple[str, ...], max_count: int) -> list[str]:
    """Words of this vocabulary that the rules would keep out of training altogether; a usable vocabulary has none."""
    train = options("train", shapes, colors, max_count)
    seen = {word for noun in train.nouns for word in noun}
    paired = {noun.shape for pair in train.pairs for noun in pair}
    missing = [word for word in (*shapes, *colors) if word not in seen]
    missing += [f"{shape} (beside another shape)" for shape in shapes if shape not in paired and shape in seen]
    missing += [str(n) for n in range(2, max_count + 1) if n not in {count for _, count in train.counts}]
    missing += [word for word in RELATIONS if word not in {relation for _, relation, _ in train.relations}]
    missing += [verb for verb in VERBS if not any(verb in verbs for verbs in train.verbs.values())]
    return missing
