"""The shapes world: pictures and clips of drawn shapes with captions, each a pure function of (seed, split, index).

Nothing is stored and nothing is shared between items, so any number of workers may make any part of it in any order.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmflow.shapes.grammar import Metadata, Scene, metadata
from mmflow.shapes.layout import Floats
from mmflow.shapes.prompts import prompt_scenes
from mmflow.shapes.render import canvas, paint
from mmflow.shapes.scenes import draw_caption, draw_layout, draw_scene, pick, scene_of, weighted
from mmflow.shapes.splits import CLIP_SPLITS, PICTURE_SPLITS, SPLIT_KINDS, Options, options, unseen_words
from mmflow.shapes.vocabulary import BACKGROUNDS, COLORS, GROUNDS, PALETTE, SHAPES, Motion


@dataclass(frozen=True)
class PictureMix:
    """Relative weights of the kinds of picture; a kind of which a split has no scene is left out."""

    single: float = 3.0
    pair: float = 3.0
    count: float = 2.0
    relation: float = 3.0
    place: float = 1.0


@dataclass(frozen=True)
class ClipMix:
    """Relative weights of clips with one object and with two."""

    one: float = 2.0
    two: float = 1.0


@dataclass(frozen=True)
class Object:
    """One drawn object.

    Attributes:
        centers: (T, 2) as (x, y) in pixels from the upper left corner.
        radii: (T,) in pixels.
        motion: what it does, for clips.
    """

    shape: str
    color: str
    centers: Floats
    radii: Floats
    motion: Motion | None = None


@dataclass(frozen=True)
class Item:
    """A picture (T = 1) or a clip, and all that is true of it.

    Attributes:
        frames: uint8 RGB (T, H, W, 3).
        metadata: GenEval's dict; its prompt is the caption.
        objects: everything that is drawn, in the order of the caption.
    """

    frames: NDArray[np.uint8]
    caption: str
    metadata: Metadata
    objects: tuple[Object, ...]


def generator(*name: str | int) -> np.random.Generator:
    """The random numbers that this name, and no other, owns (Philox keyed by a 128-bit hash)."""
    digest = hashlib.blake2b(json.dumps(name).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


@dataclass(frozen=True)
class World:
    """A vocabulary, a canvas and the mix of scenes.

    Attributes:
        size: side of the canvas in pixels, 32 to 256.
        shapes, colors, backgrounds: names of `vocabulary`; at least two shapes and two colours.
        max_count: most objects of a counting scene, 1 (no counting) to 4.
        frames, fps: length of a clip, from 4 frames on, and the rate at which it is meant to be shown.
        paraphrase_share: share of captions in another word order, 0..1.
        color_share: share of captions that name the colours; GenEval's single_object, two_object and position do not.
        pictures, clips: weights of the kinds of scene.

    Raises:
        ValueError: for unknown names, numbers out of range, or words that the held-out rules would never show.
    """

    size: int = 64
    shapes: tuple[str, ...] = SHAPES
    colors: tuple[str, ...] = COLORS
    max_count: int = 4
    frames: int = 16
    fps: float = 8.0
    backgrounds: tuple[str, ...] = BACKGROUNDS
    paraphrase_share: float = 0.25
    color_share: float = 0.6
    pictures: PictureMix = field(default_factory=PictureMix)
    clips: ClipMix = field(default_factory=ClipMix)

    def __post_init__(self) -> None:
        legal = {"shapes": SHAPES, "colors": COLORS, "backgrounds": BACKGROUNDS}
        for name, known in legal.items():
            words = tuple(getattr(self, name))
            object.__setattr__(self, name, words)  # a config gives lists; a world must be hashable
            _check_words(name, words, known, least=1 if name == "backgrounds" else 2)
        _check_range("size", self.size, 32, 256)
        _check_range("max_count", self.max_count, 1, 4)
        _check_range("frames", self.frames, 4, 1024)
        _check_range("paraphrase_share", self.paraphrase_share, 0, 1)
        _check_range("color_share", self.color_share, 0, 1)
        if self.fps <= 0:
            raise ValueError(f"fps must be positive, got {self.fps}")
        for mix in (self.pictures, self.clips):
            weights = [getattr(mix, each.name) for each in fields(mix)]
            if min(weights) < 0 or sum(weights) <= 0:
                raise ValueError(f"weights of scenes must be non-negative with a positive sum, got {mix}")
        unseen = unseen_words(self.shapes, self.colors, self.max_count)
        if unseen:
            raise ValueError(
                f"the held-out rules would keep {', '.join(unseen)} out of training with shapes {self.shapes}, "
                f"colors {self.colors} and max_count {self.max_count}: take more shapes or colours"
            )

    @cached_property
    def _options(self) -> dict[str, Options]:
        return {}

    def options(self, split: str) -> Options:
        """All that `split` may show; computed once."""
        if split not in self._options:
            self._options[split] = options(split, self.shapes, self.colors, self.max_count)
        return self._options[split]

    def picture(self, seed: int, split: str, index: int) -> Item:
        """The picture `index` >= 0 of a split; frames (1, size, size, 3).

        Raises:
            ValueError: if the split has no pictures, or none with this vocabulary.
        """
        if split not in PICTURE_SPLITS:
            raise ValueError(f"no pictures in split {split!r}; it must be one of {', '.join(PICTURE_SPLITS)}")
        kinds = self._kinds(split)
        rng = generator(seed, "picture", split, index)
        scene = draw_scene(rng, weighted(rng, kinds), self.options(split), self._named(rng, split))
        return self._compose(rng, scene, split)

    def clip(self, seed: int, split: str, index: int) -> Item:
        """The clip `index` >= 0 of a split; frames (T, size, size, 3).

        Raises:
            ValueError: if the split has no clips.
        """
        if split not in CLIP_SPLITS:
            raise ValueError(f"no clips in split {split!r}; it must be one of {', '.join(CLIP_SPLITS)}")
        rng = generator(seed, "clip", split, index)
        kind = weighted(rng, {"one": self.clips.one, "two": self.clips.two})
        scene = draw_scene(rng, kind, self.options(split), self._named(rng, split))
        return self._compose(rng, scene, split)

    def prompts(self, task: str, split: str, n: int, seed: int = 0) -> list[Metadata]:
        """`n` prompts of one task in GenEval's format: "a photo of ..." ("a video of ..." for `motion`).

        No prompt comes twice before all have come once; where a vocabulary has fewer than `n`, they repeat.

        Args:
            task: one of `prompts.TASKS`.
            split: "val_iid" (or "train") for prompts that obey the rules of training, "paraphrase" for the same scenes
                in unseen words, else a split whose held-out tasks (`prompts.HELD_OUT_TASKS`) hold `task`.

        Raises:
            ValueError: if the split says nothing of this task, or holds none of its scenes with this vocabulary.
        """
        return prompt_scenes(generator(seed, "prompts", task, split), task, split, self.options(split), n)

    def illustrate(self, prompt: Mapping[str, Any], seed: int, index: int = 0) -> Item:
        """A correct answer to a prompt of this world; its metadata is the prompt itself."""
        rng = generator(seed, "illustrate", prompt["prompt"], index)
        scene = scene_of(rng, prompt, self.options("length" if len(prompt["include"]) == 3 else "train"))
        drawn = self._draw(rng, scene, pick(rng, self.backgrounds))
        return Item(drawn[0], prompt["prompt"], dict(prompt), drawn[1])

    def _named(self, rng: np.random.Generator, split: str) -> bool:
        """Does this caption say the colours? Where they are what is held out it always does."""
        return bool(rng.random() < self.color_share) or split in ("comp_pair", "comp_bind")

    def _kinds(self, split: str) -> dict[str, float]:
        """Weights of the kinds of picture that a split has scenes of."""
        some = self.options(split)
        scenes = {"pair": some.pairs, "triple": some.triples, "count": some.counts, "relation": some.relations}
        possible = [kind for kind in SPLIT_KINDS[split] if scenes.get(kind, some.nouns)]
        if not possible:
            raise ValueError(f"split {split!r} is empty with shapes {self.shapes} and colors {self.colors}")
        weights = {kind: getattr(self.pictures, kind, 1.0) for kind in possible}
        if sum(weights.values()) > 0:
            return weights
        return dict.fromkeys(possible, 1.0)  # a held-out split still shows what the training mix leaves out

    def _compose(self, rng: np.random.Generator, scene: Scene, split: str) -> Item:
        ground = pick(rng, self.backgrounds)
        caption = draw_caption(rng, scene, self.paraphrase_share, split == "paraphrase", ground == "gray")
        frames, objects = self._draw(rng, scene, ground)
        return Item(frames, caption, metadata(scene, caption), objects)

    def _draw(
        self, rng: np.random.Generator, scene: Scene, ground: str
    ) -> tuple[NDArray[np.uint8], tuple[Object, ...]]:
        centers, radii = draw_layout(rng, scene, self.frames, self.size)
        frames = canvas(centers.shape[1], self.size, GROUNDS[ground])
        objects = []
        for i, noun in enumerate(scene.nouns):
            paint(frames, noun.shape, PALETTE[noun.color], centers[i], radii[i])
            motion = scene.motions[i] if scene.motions else None
            objects.append(Object(noun.shape, noun.color, centers[i], radii[i], motion))
        return frames, tuple(objects)


def _check_words(name: str, words: tuple[str, ...], known: tuple[str, ...], least: int) -> None:
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ValueError(f"unknown {name}: {', '.join(map(str, unknown))}; legal are {', '.join(known)}")
    if len(set(words)) != len(words) or len(words) < least:
        raise ValueError(f"{name} must be at least {least} different names, got {words}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be within {low} and {high}, got {value}")
