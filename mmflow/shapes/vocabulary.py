"""The words of the shapes world and what they mean. Order matters: the held-out rules count places in these lists."""

from typing import NamedTuple

RGB = tuple[int, int, int]

SHAPES = ("circle", "square", "triangle", "cross", "diamond", "ring", "heart")

PALETTE: dict[str, RGB] = {
    "red": (214, 39, 40),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 40),
    "green": (34, 139, 34),
    "blue": (31, 80, 220),
    "purple": (128, 40, 160),
    "pink": (255, 150, 190),
    "brown": (120, 70, 30),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
"""sRGB. The smallest CIE76 distance between two of them is 33.6, from any of them to a background 33.5."""
COLORS = tuple(PALETTE)

GROUNDS: dict[str, RGB] = {
    "gray": (128, 128, 128),
    "mist": (150, 160, 170),
    "sand": (170, 160, 140),
    "slate": (110, 130, 125),
}
"""Flat backgrounds. Captions only ever name gray."""
BACKGROUNDS = tuple(GROUNDS)

NUMBERS = {2: "two", 3: "three", 4: "four"}
RELATIONS = ("left of", "right of", "above", "below")
MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
PLACES = ("center", "top left", "top right", "bottom left", "bottom right")

DIRECTIONS = ("left", "right", "up", "down")
VERBS = (*DIRECTIONS, "still", "grow", "shrink")
SPEEDS = ("", "slowly", "quickly")


class Noun(NamedTuple):
    """One kind of object: its shape and its colour."""

    shape: str
    color: str


class Motion(NamedTuple):
    """What an object does in a clip. Only the four directions have a speed; "" is any speed."""

    verb: str
    speed: str = ""


def plural(shape: str) -> str:
    """The plural of a shape's name."""
    return shape + ("es" if shape.endswith("s") else "s")


def article(word: str) -> str:
    """The indefinite article that goes before `word`."""
    return "an" if word[0] in "aeiou" else "a"
