"""What people are asked: the SD3 paper's three questions of pictures (section 5.3.3), the same of clips, and motion."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

PICTURE, CLIP = "picture", "clip"
MEDIA = (PICTURE, CLIP)
TYPOGRAPHY = ("quoted", "always", "never")
QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|«[^»]+»|(?<!\w)'[^']+'(?!\w)|(?<!\w)‘[^’]+’(?!\w)")


@dataclass(frozen=True)
class Question:
    """One question about two pictures, or two clips, of one prompt.

    Attributes:
        name: in files and options.
        title: for people, short.
        text: as it is asked, by medium; a medium that it is not asked of is missing.
    """

    name: str
    title: str
    text: dict[str, str]


def _of_both(text: str) -> dict[str, str]:
    return {PICTURE: text.format("image"), CLIP: text.format("video")}


QUESTIONS = {
    question.name: question
    for question in (
        Question(
            "prompt",
            "Prompt following",
            _of_both("Which {} looks more representative to the text shown above and faithfully follows it?"),
        ),
        Question(
            "aesthetics",
            "Visual aesthetics",
            _of_both("Given the prompt, which {} is of higher-quality and aesthetically more pleasing?"),
        ),
        Question(
            "typography",
            "Typography",
            _of_both(
                "Which {} more accurately shows/displays the text specified in the above description? "
                "More accurate spelling is preferred! Ignore other aspects."
            ),
        ),
        Question(
            "motion",
            "Motion",
            {
                CLIP: "In which video is the motion better: smooth, natural and as the text says, without flicker, "
                "jumps or things that change into others? Ignore other aspects."
            },
        ),
    )
}
"""By name. The wording of the first three is the paper's; of clips it says video for image."""


def questions_of(prompt: str, medium: str, chosen: Sequence[str], typography: str = "quoted") -> tuple[str, ...]:
    """Names of what is asked about a prompt's pictures or clips.

    Args:
        prompt: of both.
        medium: picture or clip.
        chosen: names of questions.
        typography: quoted: asked where the prompt has words in quotes; always; never.

    Raises:
        ValueError: if a name is none of a question.
    """
    unknown = [name for name in chosen if name not in QUESTIONS]
    if unknown:
        raise ValueError(f"questions are {', '.join(QUESTIONS)}: not {', '.join(unknown)}")
    if typography not in TYPOGRAPHY:
        raise ValueError(f"typography is asked {', '.join(TYPOGRAPHY)}: not {typography}")
    asked = {"quoted": QUOTED.search(prompt) is not None, "always": True, "never": False}[typography]
    return tuple(
        name
        for name, question in QUESTIONS.items()
        if name in chosen and medium in question.text and (name != "typography" or asked)
    )
