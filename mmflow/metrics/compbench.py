"""T2I-CompBench's rules for places and numbers, over the objects of any detector (Karine-Huang/T2I-CompBench, MIT).

The rules are the official evaluator's; reading a prompt is ours: the official one takes spaCy's first and last noun.
"""

import re
from collections.abc import Sequence

from mmflow.metrics.geneval import Found

NEAR = ("on side of", "next to", "near")
PLACES = {"left": "on the left of", "right": "on the right of", "bottom": "on the bottom of", "top": "on the top of"}
LOCALITIES = (*NEAR, *PLACES.values(), "on top of")
"""In the order in which the official evaluator looks for them; "on top of" is found, and no place satisfies it."""
NEAR_PIXELS = 150.0
"""What is near, in pixels of the 512 x 512 pictures that the benchmark was made for."""
OVERLAP = 0.1
SAME = 0.9
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
NUMBERS = {word: number for number, word in enumerate(DIGITS)} | {"a": 1, "an": 1}
PERSONS = frozenset(("girl", "boy", "man", "woman"))
RENAMED = {"ship": "boat", "telivision": "tv", "television": "tv", "goldfish": "fish", "painting": "picture"}
ARTICLE = re.compile(r"^(a|an|the|one)\s+")


def _canonical(name: str) -> str:
    return "person" if name in PERSONS else RENAMED.get(name, name)


def _is(found: Found, name: str) -> bool:
    return found.name == name or found.name == name.split(" ")[-1]


def relation_of(prompt: str) -> tuple[str, str, str] | None:
    """(first thing, locality, second thing) of a prompt such as "a man on the left of a car"; None if it has none."""
    text = prompt.lower().strip(" .")
    locality = next((word for word in LOCALITIES if re.search(rf"\b{word}\b", text)), None)
    if locality is None:
        return None
    before, after = re.split(rf"\b{locality}\b", text, maxsplit=1)
    things = [_canonical(ARTICLE.sub("", part.strip(" ,."))) for part in (before, after)]
    return (things[0], locality, things[1]) if all(things) else None


def position_score(locality: str, one: Found, two: Found, near: float = NEAR_PIXELS) -> float:
    """How well `one` stands to `two`, 0..1.

    Near: 1 within `near` pixels along either axis, falling with the larger distance. Left, right, top and bottom: on
    that side, along the longer axis; boxes that overlap by an IoU of 0.1 and more score 0.1 / IoU.
    """
    (ax, ay), (bx, by) = _centre(one), _centre(two)
    dx, dy = bx - ax, by - ay
    if locality in NEAR:
        return 1.0 if abs(dx) < near or abs(dy) < near else near / max(abs(dx), abs(dy))
    holds = {
        PLACES["right"]: dx < 0 and abs(dx) > abs(dy),
        PLACES["left"]: dx > 0 and abs(dx) > abs(dy),
        PLACES["bottom"]: dy < 0 and abs(dy) > abs(dx),
        PLACES["top"]: dy > 0 and abs(dy) > abs(dx),
    }.get(locality, False)
    overlap = _overlaps(one, two)[0]
    return 0.0 if not holds else 1.0 if overlap < OVERLAP else OVERLAP / overlap


def spatial_score(prompt: str, objects: Sequence[Found], near: float = NEAR_PIXELS) -> float:
    """A quarter of either thing's confidence and half of their position; below 0.5 it is 0.

    Args:
        prompt: with a locality.
        objects: of the picture; of several of a class the most confident is looked at.
        near: what is near, in the picture's pixels.

    Raises:
        ValueError: if the prompt says nothing of a place.
    """
    relation = relation_of(prompt)
    if relation is None:
        raise ValueError(f"prompt {prompt!r} has none of {', '.join(LOCALITIES)}")
    first, locality, second = relation
    ordered = sorted(objects, key=lambda found: -found.score)
    one, two = (next((f for f in ordered if _is(f, name)), None) for name in (first, second))
    score = 0.25 * sum(found.score for found in (one, two) if found is not None)
    if one is not None and two is not None:
        score += position_score(locality, one, two, near) / 2
    return score if score >= 0.5 else 0.0


def counts_of(prompt: str) -> list[tuple[str, int]]:
    """(thing, number) of a prompt such as "two cups, a dog and three birds", things in the singular.

    Raises:
        ValueError: if it names no number.
    """
    words = re.findall(r"[a-z]+", prompt.lower())
    found = []
    for i, word in enumerate(words):
        if word not in NUMBERS:
            continue
        thing = []
        for follower in words[i + 1 :]:
            if follower in NUMBERS or follower in ("and", "with", "in", "on", "near", "of", "are", "is"):
                break
            thing.append(follower)
        if thing:
            name = " ".join(thing)
            found.append((_canonical(name if NUMBERS[word] == 1 else singular(name)), NUMBERS[word]))
    if not found:
        raise ValueError(f"prompt {prompt!r} counts nothing")
    return found


def singular(name: str) -> str:
    """Of an English plural in -s; a few of other kinds."""
    odd = {"people": "person", "men": "man", "women": "woman", "children": "child", "mice": "mouse", "buses": "bus"}
    *before, last = name.split(" ")
    if last in odd:
        one = odd[last]
    elif re.search(r"(ss|x|z|ch|sh)es$", last):
        one = last[:-2]
    elif last.endswith("ies") and len(last) > 4:
        one = last[:-3] + "y"
    elif last.endswith("ves") and last[:-3] in ("kni", "lea", "wol", "shel", "lo"):
        one = last[:-3] + ("fe" if last == "knives" else "f")
    else:
        one = last[:-1] if last.endswith("s") and not last.endswith("ss") else last
    return " ".join([*before, one])


def numeracy_score(prompt: str, objects: Sequence[Found]) -> float:
    """Of n things each gives 0.5 / n for being there and 0.5 / n more for its exact number.

    Of two boxes of a class that are the same to 0.9, in IoU or as a share of either, one counts.

    Raises:
        ValueError: if the prompt counts nothing.
    """
    different: list[Found] = []
    for found in objects:
        if not any(found.name == kept.name and max(_overlaps(found, kept)) > SAME for kept in different):
            different.append(found)
    asked = counts_of(prompt)
    score = 0.0
    for name, number in asked:
        seen = sum(_is(found, name) for found in different)
        score += (0.5 * (seen > 0) + 0.5 * (seen == number)) / len(asked)
    return score


def _centre(found: Found) -> tuple[float, float]:
    x0, y0, x1, y1 = found.box
    return (x0 + x1) / 2, (y0 + y1) / 2


def _overlaps(one: Found, two: Found) -> tuple[float, float, float]:
    """IoU, and the share of either that is in the other."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = one.box, two.box
    both = max(0.0, min(ax1, bx1) - max(ax0, bx0)) * max(0.0, min(ay1, by1) - max(ay0, by0))
    areas = [(ax1 - ax0) * (ay1 - ay0), (bx1 - bx0) * (by1 - by0)]
    union = sum(areas) - both
    if both == 0 or union <= 0:
        return 0.0, 0.0, 0.0
    return both / union, both / areas[0], both / areas[1]
