"""The things that a prompt names, as short phrases: "a green bench and a blue bowl" names two.

T2I-CompBench takes spaCy's noun chunks. Where that library and its model are installed they are taken here as well; the
rules below know no grammar, only where a phrase begins and which words end it, and agree on prompts that are lists of
things with a determiner.
"""

import re
from functools import lru_cache
from typing import Any

RULES = "rules"
MOST = 8
"""Phrases of a prompt that are asked for."""
DROPPED = ("top", "the side", "the left", "the right")
"""Chunks that name a place and no thing."""
BEGIN = frozenset(
    (
        *("a", "an", "the", "this", "that", "these", "those", "his", "her", "its", "their", "some"),
        *("one", "two", "three", "four", "five", "six", "seven", "eight"),
    )
)
END = frozenset(
    (
        *(
            "and",
            "or",
            "but",
            "with",
            "without",
            "on",
            "in",
            "at",
            "of",
            "by",
            "from",
            "to",
            "into",
            "onto",
            "near",
            "next",
        ),
        *("beside", "behind", "under", "above", "below", "over", "between", "against", "through", "across", "around"),
        *(
            "along",
            "inside",
            "outside",
            "beneath",
            "underneath",
            "is",
            "are",
            "was",
            "were",
            "be",
            "been",
            "has",
            "have",
        ),
        *(
            "had",
            "while",
            "as",
            "which",
            "who",
            "sits",
            "sitting",
            "stands",
            "standing",
            "lies",
            "lying",
            "hangs",
            "hung",
        ),
        *("hanging", "rests", "resting", "placed", "covered", "filled", "made", "wearing", "holding", "left", "right"),
        *("top", "bottom", "side"),
    )
)


def noun_phrases(prompt: str, grammar: str = RULES) -> list[str]:
    """Phrases that each name a thing, in their order; at most eight.

    Args:
        prompt: the text.
        grammar: `rules`, or the name of a model of spaCy, such as en_core_web_sm, which the official evaluator has.

    Raises:
        ValueError: if spaCy or its model is not there.
    """
    chunks = _by_rules(prompt) if grammar == RULES else [chunk.text for chunk in _spacy(grammar)(prompt).noun_chunks]
    return [chunk for chunk in chunks if chunk.lower() not in DROPPED][:MOST]


def _by_rules(prompt: str) -> list[str]:
    found: list[list[str]] = []
    is_open = False
    for token in re.findall(r"[\w'-]+|[^\w\s]", prompt):
        word = token.lower()
        if word in BEGIN:
            found.append([token])
            is_open = True
        elif word in END or not re.match(r"\w", token):
            is_open = False
        elif is_open:
            found[-1].append(token)
        elif not found:  # a prompt may begin without a determiner
            found.append([token])
            is_open = True
    return [" ".join(words) for words in found if len(words) > 1 or words[0].lower() not in BEGIN]


@lru_cache(maxsize=2)
def _spacy(name: str) -> Any:
    try:
        import spacy

        return spacy.load(name)
    except (ImportError, OSError) as error:
        raise ValueError(
            f"phrases: {name!r} needs spaCy and its model: pip install spacy && python -m spacy download {name}; "
            f"or take phrases: {RULES} ({error})"
        ) from error
