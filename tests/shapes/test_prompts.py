import pytest

from mmflow.shapes import GENEVAL_TASKS, HELD_OUT_TASKS, TASKS, World
from mmflow.shapes.splits import count_held, motion_held, pair_held, relation_held
from mmflow.shapes.vocabulary import Noun

WORLD = World()


@pytest.mark.parametrize("task", TASKS)
def test_prompts_are_named_by_seed_and_task(task: str) -> None:
    prompts = WORLD.prompts(task, "val_iid", 40)
    assert prompts == WORLD.prompts(task, "val_iid", 40)
    assert prompts[:10] == WORLD.prompts(task, "val_iid", 10)
    assert prompts != WORLD.prompts(task, "val_iid", 40, seed=1)
    assert all(prompt["tag"] == task and len(prompts) == 40 for prompt in prompts)
    assert all(prompt["prompt"].startswith(("a photo of ", "a video of ")) for prompt in prompts)


def test_prompts_do_not_repeat_before_all_were_there() -> None:
    assert len({p["prompt"] for p in WORLD.prompts("color_attr", "val_iid", 100)}) == 100
    assert len({p["prompt"] for p in WORLD.prompts("single_object", "val_iid", 7)}) == 7
    assert len(WORLD.prompts("single_object", "val_iid", 30)) == 30


def test_geneval_asks_without_colours() -> None:
    for task in ("single_object", "two_object", "counting", "position"):
        assert not any("color" in entry for prompt in WORLD.prompts(task, "val_iid", 30) for entry in prompt["include"])


def rules_broken(prompt: dict) -> set[str]:
    found = set()
    for entry in prompt["include"]:
        if "color" in entry and pair_held(Noun(entry["class"], entry["color"])):
            found.add("comp_pair")
        if entry["count"] > 1 and count_held(entry["class"], entry["count"]):
            found.add("comp_count")
        if "motion" in entry and motion_held(entry["class"], entry["motion"]):
            found.add("comp_motion")
        if "position" in entry:
            relation, index = entry["position"]
            if relation_held(entry["class"], relation, prompt["include"][index]["class"]):
                found.add("comp_relation")
    return found


@pytest.mark.parametrize("task", TASKS)
def test_iid_prompts_obey_the_rules(task: str) -> None:
    assert not any(map(rules_broken, WORLD.prompts(task, "val_iid", 300)))


@pytest.mark.parametrize("split", ["comp_pair", "comp_count", "comp_relation", "comp_motion"])
def test_held_out_prompts_break_their_rule(split: str) -> None:
    for task in HELD_OUT_TASKS[split]:
        assert all(split in rules_broken(prompt) for prompt in WORLD.prompts(task, split, 30))


def test_length_asks_for_three_and_paraphrases_for_the_same_tasks() -> None:
    assert all(len(p["include"]) == 3 for p in WORLD.prompts("color_attr", "length", 20))
    assert HELD_OUT_TASKS["paraphrase"] == TASKS == (*GENEVAL_TASKS, "motion")
    assert not any(p["prompt"].startswith("a photo of") for p in WORLD.prompts("position", "paraphrase", 20))


def test_wrong_requests_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown task 'colour'"):
        WORLD.prompts("colour", "val_iid", 1)
    with pytest.raises(ValueError, match="says nothing of position"):
        WORLD.prompts("position", "comp_pair", 1)
    with pytest.raises(ValueError, match="no scene of task counting"):
        World(max_count=1).prompts("counting", "val_iid", 1)
