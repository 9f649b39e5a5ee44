"""From a scene to its caption and its GenEval metadata.

    caption := prefix? scene bg?           prefix := "a photo of " | "a picture of "; clips "a video of " | "a clip of "
    scene   := np | np " and " np | NUM plural | np REL np | np " in the " PLACE | np " " MOTION ("; " np " " MOTION)?
    np      := ("a"|"an") [color] shape    bg := " on a gray background"

Paraphrases say the same in another word order. Those of TAUGHT may appear in training, those of UNSEEN never do; they
use only words that training knows.
"""

from dataclasses import dataclass
from typing import Any

from mmflow.shapes.vocabulary import NUMBERS, Motion, Noun, article, plural

Metadata = dict[str, Any]

PICTURE_PREFIXES = ("a photo of ", "a picture of ", "")
CLIP_PREFIXES = ("a video of ", "a clip of ", "")
GROUND_PHRASE = " on a gray background"

PLAIN = {
    "single": "{a}",
    "pair": "{a} and {b}",
    "triple": "{a} and {b} and {c}",
    "count": "{number} {plural}",
    "relation": "{a} {relation} {b}",
    "place": "{a} in the {place}",
    "one": "{a} {m}",
    "two": "{a} {m}; {b} {n}",
}
TAUGHT = {
    "single": ("there is {a}", "the picture shows {a}"),
    "pair": ("there is {a} and {b}", "{a} together with {b}", "the picture shows {a} and {b}"),
    "triple": ("there is {a} and {b} and {c}",),
    "count": ("there are {number} {plural}", "the picture shows {number} {plural}"),
    "relation": ("{a} {to_the} {b}", "there is {a} {on_the} {b}", "the picture shows {a} {relation} {b}"),
    "place": ("in the {place} there is {a}", "the picture shows {a} in the {place}"),
    "one": ("there is {a} {m}", "the clip shows {a} {m}"),
    "two": ("{a} {m} and {b} {n}", "the clip shows {a} {m}; {b} {n}"),
}
UNSEEN = {
    "single": ("the photo shows {a}",),
    "pair": ("{a} with {b}", "there is {a} together with {b}"),
    "triple": ("{a} together with {b} and {c}",),
    "count": ("the photo shows {number} {plural}",),
    "relation": ("{to_the} {b} there is {a}", "the photo shows {a} {on_the} {b}"),
    "place": ("there is {a} in the {place}",),
    "one": ("the video shows {a} {m}",),
    "two": ("there is {a} {m} and {b} {n}",),
}

TO_THE = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
ON_THE = {"left of": "on the left of", "right of": "on the right of", "above": "above", "below": "below"}
STANDING = {"still": "staying still", "grow": "growing", "shrink": "shrinking"}


@dataclass(frozen=True)
class Scene:
    """What a picture or clip holds, before anything has a place.

    Attributes:
        kind: a key of `PLAIN`; "one" and "two" are clips.
        nouns: the objects in the order of the caption; `count` repeats one shape in several colours.
        named: does the caption say the colours?
        relation: of the first object to the second, for kind `relation`.
        place: for kind `place`.
        motions: one per object, for clips.
    """

    kind: str
    nouns: tuple[Noun, ...]
    named: bool = False
    relation: str = ""
    place: str = ""
    motions: tuple[Motion, ...] = ()


def phrase(noun: Noun, named: bool) -> str:
    """ "a circle", or with its colour "an orange circle"."""
    words = f"{noun.color} {noun.shape}" if named else noun.shape
    return f"{article(words)} {words}"


def motion_phrase(motion: Motion) -> str:
    """ "moving slowly left", "staying still", "growing", ..."""
    if motion.verb in STANDING:
        return STANDING[motion.verb]
    return " ".join(word for word in ("moving", motion.speed, motion.verb) if word)


def sentence(scene: Scene, template: str) -> str:
    """The scene in the words of one template of `PLAIN`, `TAUGHT` or `UNSEEN`."""
    words = dict(zip("abc", (phrase(noun, scene.named) for noun in scene.nouns), strict=False))
    words |= dict(zip("mn", map(motion_phrase, scene.motions), strict=False))
    if scene.kind == "count":
        words |= {"number": NUMBERS[len(scene.nouns)], "plural": plural(scene.nouns[0].shape)}
    if scene.relation:
        to_the, on_the = TO_THE[scene.relation], ON_THE[scene.relation]
        words |= {"relation": scene.relation, "to_the": to_the, "on_the": on_the}
    return template.format(place=scene.place, **words)


def _tag(scene: Scene) -> str:
    match scene.kind:
        case "single":
            return "colors" if scene.named else "single_object"
        case "pair" | "triple":
            return "color_attr" if scene.named else "two_object"
        case "count":
            return "counting"
        case "relation":
            return "position"
        case "place":
            return "place"
    return "motion"


def _entries(scene: Scene) -> list[dict[str, Any]]:
    """One entry per object, in the order of the caption."""
    entries: list[dict[str, Any]] = []
    for place, noun in enumerate(scene.nouns):
        entry: dict[str, Any] = {"class": noun.shape, "count": 1}
        if scene.named:
            entry["color"] = noun.color
        if scene.place:
            entry["place"] = scene.place
        if scene.motions:
            entry["motion"] = scene.motions[place].verb
            if scene.motions[place].speed:
                entry["speed"] = scene.motions[place].speed
        entries.append(entry)
    return entries


def metadata(scene: Scene, prompt: str) -> Metadata:
    """GenEval's dict for this scene: tag, include, exclude (counting only) and prompt.

    As in GenEval's own files a position belongs to the second entry and refers to the first: "a circle left of a ring"
    is [ring, circle left of 0]. Clips have the tag `motion`, and each entry says its motion and, if told, its speed.
    """
    entries = _entries(scene)
    result: Metadata = {"tag": _tag(scene), "include": entries}
    if scene.kind == "count":
        shape, count = scene.nouns[0].shape, len(scene.nouns)
        result["include"] = [{"class": shape, "count": count}]
        result["exclude"] = [{"class": shape, "count": count + 1}]
    elif scene.kind == "relation":
        subject, other = entries
        result["include"] = [other, {**subject, "position": [scene.relation, 0]}]
    return {**result, "prompt": prompt}
