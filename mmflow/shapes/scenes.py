"""Drawing a scene, its words and its layout: from random numbers to what a picture or clip holds."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from mmflow.shapes.grammar import (
    CLIP_PREFIXES,
    GROUND_PHRASE,
    PICTURE_PREFIXES,
    PLAIN,
    TAUGHT,
    UNSEEN,
    Scene,
    sentence,
)
from mmflow.shapes.layout import Floats, at_place, routes, scatter
from mmflow.shapes.splits import Options
from mmflow.shapes.vocabulary import DIRECTIONS, PLACES, SPEEDS, Motion, Noun

T = TypeVar("T")

PREFIX_SHARES = (0.5, 0.25, 0.25)
GROUND_SHARE = 0.2  # share of captions that name the background, where it is gray
SPEED_SHARE = 0.5  # share of moving objects whose caption says how fast


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of `choices`, all equally likely."""
    return choices[int(rng.random() * len(choices))]


def weighted(rng: np.random.Generator, weights: dict[str, float]) -> str:
    """One key, drawn in proportion to its weight."""
    names = list(weights)
    edges = np.cumsum([weights[name] for name in names])
    return names[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(names) - 1)]


def draw_scene(rng: np.random.Generator, kind: str, options: Options, named: bool) -> Scene:
    """One of the scenes of `kind` that `options` allow, each shape's colour drawn where the caption leaves it open."""
    match kind:
        case "single":
            return Scene(kind, (pick(rng, options.nouns),), named)
        case "place":
            return Scene(kind, (pick(rng, options.nouns),), named, place=pick(rng, PLACES))
        case "pair":
            return Scene(kind, pick(rng, options.pairs), named)
        case "triple":
            three = pick(rng, options.triples)
            a, b, c = (three[i] for i in rng.permutation(3))
            return Scene(kind, (a, b, c), named)
        case "count":
            shape, count = pick(rng, options.counts)
            return Scene(kind, tuple(Noun(shape, pick(rng, options.colors[shape])) for _ in range(count)))
        case "relation":
            subject, relation, other = pick(rng, options.relations)
            one, two = pick(rng, options.pair_colors[subject, other])
            return Scene(kind, (Noun(subject, one), Noun(other, two)), named, relation=relation)
        case "one":
            noun = pick(rng, options.nouns)
            verb = pick(rng, options.verbs[noun.shape])
            told = verb in DIRECTIONS and rng.random() < SPEED_SHARE
            return Scene(kind, (noun,), named, motions=(Motion(verb, pick(rng, SPEEDS[1:]) if told else ""),))
        case "two":
            pair = pick(rng, options.pairs)
            first = pick(rng, options.verbs[pair[0].shape])
            verbs = options.verbs[pair[1].shape]
            others = [verb for verb in verbs if verb != first] or verbs  # comp_motion has one verb per shape
            return Scene(kind, pair, named, motions=(Motion(first), Motion(pick(rng, others))))
    raise ValueError(f"unknown kind of scene {kind!r}; the kinds are {', '.join(PLAIN)}")


def draw_caption(rng: np.random.Generator, scene: Scene, share: float, unseen: bool, gray: bool) -> str:
    """The scene in words.

    Args:
        share: of the captions that are paraphrases.
        unseen: use only the paraphrases that training never uses.
        gray: the background is the gray one, which some captions mention.
    """
    if unseen:
        return sentence(scene, pick(rng, UNSEEN[scene.kind]))
    if rng.random() < share:
        return sentence(scene, pick(rng, TAUGHT[scene.kind]))
    prefixes = CLIP_PREFIXES if scene.motions else PICTURE_PREFIXES
    prefix = weighted(rng, dict(zip(prefixes, PREFIX_SHARES, strict=True)))
    ground = GROUND_PHRASE if gray and rng.random() < GROUND_SHARE else ""
    return prefix + sentence(scene, PLAIN[scene.kind]) + ground


def draw_layout(rng: np.random.Generator, scene: Scene, frames: int, size: int) -> tuple[Floats, Floats]:
    """Centres (n, T, 2) and radii (n, T) of the objects in pixels; T is `frames` for clips and 1 for pictures."""
    if scene.motions:
        return routes(rng, scene.motions, frames, size)
    if scene.place:
        centers, radii = at_place(rng, scene.place, size)
    else:
        centers, radii = scatter(rng, len(scene.nouns), size, scene.relation)
    return centers[:, None], radii[:, None]


def _colored(rng: np.random.Generator, entries: list[dict[str, Any]], options: Options) -> tuple[Noun, ...]:
    """The objects of the entries, in colours of `options` where the entries leave them open."""
    shapes = [entry["class"] for entry in entries]
    if all("color" in entry for entry in entries):
        return tuple(Noun(entry["class"], entry["color"]) for entry in entries)
    if len(shapes) == 1:
        return (Noun(shapes[0], pick(rng, options.colors[shapes[0]])),)
    if len(shapes) == 2:
        pair = (shapes[0], shapes[1])
        return tuple(Noun(s, c) for s, c in zip(pair, pick(rng, options.pair_colors[pair]), strict=True))
    three = pick(rng, [group for group in options.triples if {noun.shape for noun in group} == set(shapes)])
    return tuple(sorted(three, key=lambda noun: shapes.index(noun.shape)))


def scene_of(rng: np.random.Generator, metadata: Mapping[str, Any], options: Options) -> Scene:
    """A scene that fulfils a prompt of this world: `grammar.metadata` read backwards, open colours drawn.

    Args:
        options: where open colours come from; those of `length` for prompts with three objects.

    Raises:
        ValueError: if the tag is none of this world's.
    """
    tag, entries = metadata["tag"], list(metadata["include"])
    if tag == "counting":
        shape, count = entries[0]["class"], entries[0]["count"]
        return Scene("count", tuple(Noun(shape, pick(rng, options.colors[shape])) for _ in range(count)))
    relation = ""
    if tag == "position":
        entries.reverse()
        relation = entries[0]["position"][0]
    nouns = _colored(rng, entries, options)
    named = "color" in entries[0]
    match tag:
        case "single_object" | "colors":
            return Scene("single", nouns, named)
        case "two_object" | "color_attr":
            return Scene("pair" if len(nouns) == 2 else "triple", nouns, named)
        case "position":
            return Scene("relation", nouns, named, relation=relation)
        case "place":
            return Scene("place", nouns, named, place=entries[0]["place"])
        case "motion":
            motions = tuple(Motion(entry["motion"], entry.get("speed", "")) for entry in entries)
            return Scene("one" if len(nouns) == 1 else "two", nouns, named, motions=motions)
    raise ValueError(f"unknown tag {tag!r} in the metadata of {metadata.get('prompt')!r}")
