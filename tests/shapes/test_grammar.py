import re

import pytest

from mmflow.shapes import TASKS, World
from mmflow.shapes.grammar import PLAIN, TAUGHT, UNSEEN, Scene, metadata, sentence
from mmflow.shapes.scenes import scene_of
from mmflow.shapes.vocabulary import Motion, Noun
from mmflow.shapes.world import generator

pytestmark = pytest.mark.usefixtures("unpainted")

WORLD = World()
A, B = Noun("square", "orange"), Noun("cross", "blue")


def words(split: str, count: int) -> set[str]:
    seen: set[str] = set()
    for index in range(count):
        seen |= set(re.findall(r"[a-z]+", WORLD.picture(0, split, index).caption))
        seen |= set(re.findall(r"[a-z]+", WORLD.clip(0, split, index).caption))
    return seen


def test_training_has_a_small_vocabulary_and_the_paraphrases_add_no_word() -> None:
    train = words("train", 1500)
    assert words("paraphrase", 400) <= train
    assert len(train) == 63
    prompts = [p["prompt"] for task in TASKS for p in WORLD.prompts(task, "val_iid", 60)]
    assert set(re.findall(r"[a-z]+", " ".join(prompts))) <= train


def test_unseen_templates_are_unseen() -> None:
    for kind, templates in UNSEEN.items():
        assert not {PLAIN[kind], *TAUGHT[kind]} & set(templates)
    assert set(PLAIN) == set(TAUGHT) == set(UNSEEN)


@pytest.mark.parametrize(
    ("scene", "expected"),
    [
        (Scene("single", (A,)), "a square"),
        (Scene("single", (A,), True), "an orange square"),
        (Scene("pair", (A, B), True), "an orange square and a blue cross"),
        (Scene("count", (B, B, B)), "three crosses"),
        (Scene("relation", (A, B), relation="left of"), "a square left of a cross"),
        (Scene("place", (A,), place="top left"), "a square in the top left"),
        (Scene("one", (A,), True, motions=(Motion("up", "slowly"),)), "an orange square moving slowly up"),
        (
            Scene("two", (A, B), motions=(Motion("grow"), Motion("still"))),
            "a square growing; a cross staying still",
        ),
    ],
)
def test_plain_sentences(scene: Scene, expected: str) -> None:
    assert sentence(scene, PLAIN[scene.kind]) == expected


def test_metadata_follows_geneval() -> None:
    relation = metadata(Scene("relation", (A, B), relation="above"), "a photo of a square above a cross")
    assert relation == {
        "tag": "position",
        "include": [{"class": "cross", "count": 1}, {"class": "square", "count": 1, "position": ["above", 0]}],
        "prompt": "a photo of a square above a cross",
    }
    count = metadata(Scene("count", (B, B)), "two crosses")
    assert count["include"] == [{"class": "cross", "count": 2}]
    assert count["exclude"] == [{"class": "cross", "count": 3}]
    colored = metadata(Scene("pair", (A, B), True), "")
    assert colored["tag"] == "color_attr" and colored["include"][0] == {
        "class": "square",
        "count": 1,
        "color": "orange",
    }


def test_metadata_reads_back() -> None:
    """Caption to metadata to scene: what the metadata states is what was drawn."""
    for index in range(300):
        for item in (WORLD.picture(0, "train", index), WORLD.clip(0, "train", index)):
            scene = scene_of(generator(0), item.metadata, WORLD.options("train"))
            assert [n.shape for n in scene.nouns] == [each.shape for each in item.objects]
            if scene.named:
                assert [n.color for n in scene.nouns] == [each.color for each in item.objects]
            assert metadata(scene, item.caption) == item.metadata


def test_captions_name_what_is_drawn() -> None:
    for index in range(300):
        item = WORLD.picture(0, "train", index)
        for each in item.objects:
            assert each.shape in item.caption
        for color in re.findall("|".join(WORLD.colors), item.caption):
            assert color in {each.color for each in item.objects}


def test_training_uses_the_form_of_every_task() -> None:
    tags = {WORLD.picture(0, "train", index).metadata["tag"] for index in range(300)}
    assert tags == {"single_object", "two_object", "counting", "colors", "position", "color_attr", "place"}
