"""GenEval's six scores of a store, from whoever says which pictures are right."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmflow.metrics.detector import AbstractVerdicts, Verdict
from mmflow.metrics.geneval import TASKS
from mmflow.metrics.interval import bootstrap, wilson
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Store


def geneval_places(store: Store) -> list[int]:
    """Places whose prompt has GenEval's metadata; what asks for something held out of training does not count.

    Raises:
        ValueError: if there is none.
    """
    places = [i for i, a in enumerate(store.asked) if a.metadata.get("tag") in TASKS and not a.metadata.get("held_out")]
    if not places:
        raise ValueError(
            f"{store.folder}: GenEval needs prompts with its metadata, as a line of evaluation_metadata.jsonl has: "
            "tag, include and exclude"
        )
    return places


def verdicts_of_store(store: Store, judge: AbstractVerdicts, share: Share) -> dict[int, Verdict]:
    """Place -> verdict; what was said before is not asked again.

    Raises:
        ValueError: if no prompt has GenEval's metadata, or samples are missing or too many.
    """
    places = geneval_places(store)
    kept = store.scores(judge.name, judge.identity())
    if kept is not None and "verdicts" in kept:
        return {place: Verdict(**kept["verdicts"][place]) for place in places}
    store.require_whole()
    said = share.each(places, lambda part: judge.verdicts(store, part))
    if share.rank == 0:
        order = [said.get(place) for place in range(len(store.asked))]
        rows = [None if each is None else asdict(each) for each in order]
        values = [None if each is None else float(each.correct) for each in order]
        store.keep_scores(judge.name, judge.identity(), {"values": values, "verdicts": rows})
    return said


def geneval_of_store(store: Store, judge: AbstractVerdicts, share: Share) -> dict[str, dict[str, Any]]:
    """`NAME/<task>` for each task that has pictures, `NAME/overall` (the unweighted mean of the six) if all have, and
    `NAME/prompts`, the share of prompts of which any picture is right.

    Raises:
        ValueError: as `verdicts_of_store`.
    """
    said = verdicts_of_store(store, judge, share)
    return summary(
        judge.name, [(dict(store.asked[place].metadata), each.correct) for place, each in sorted(said.items())]
    )


def summary(name: str, judged: Sequence[tuple[Mapping[str, Any], bool]]) -> dict[str, dict[str, Any]]:
    """The official aggregation (summary_scores.py): mean over pictures per tag, unweighted mean of the six tags.

    Args:
        name: what the scores' names begin with.
        judged: metadata of the prompt, and whether the picture is right.
    """
    by_task: dict[str, dict[str, list[float]]] = {}
    for metadata, correct in judged:
        prompts = by_task.setdefault(metadata["tag"], {})
        prompts.setdefault(json.dumps(metadata, sort_keys=True), []).append(float(correct))
    scores = {}
    if set(by_task) == set(TASKS):
        scores[f"{name}/overall"] = asdict(bootstrap({task: list(by_task[task].values()) for task in TASKS}))
    for task in TASKS:
        hits = [value for images in by_task.get(task, {}).values() for value in images]
        if hits:
            scores[f"{name}/{task}"] = asdict(wilson(int(sum(hits)), len(hits)))
    any_right = [max(images) for prompts in by_task.values() for images in prompts.values()]
    scores[f"{name}/prompts"] = asdict(wilson(int(sum(any_right)), len(any_right)))
    return scores
