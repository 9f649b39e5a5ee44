"""GenEval's six scores of a store, with any detector."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mmflow.metrics.detector import AbstractDetector
from mmflow.metrics.features import Floats
from mmflow.metrics.geneval import TASKS, judge
from mmflow.metrics.interval import bootstrap, wilson
from mmflow.metrics.scoring import Share
from mmflow.metrics.store import Store


def geneval_of_store(store: Store, detector: AbstractDetector, share: Share) -> dict[str, dict[str, Any]]:
    """`NAME/<task>` for each task that has pictures, `NAME/overall` (the unweighted mean of the six) if all have.

    Raises:
        ValueError: if no prompt has GenEval's metadata, or samples are missing or too many.
    """
    places = [i for i, a in enumerate(store.asked) if a.metadata.get("tag") in TASKS and not a.metadata.get("held_out")]
    if not places:
        raise ValueError(
            f"{detector.name} needs prompts with GenEval's metadata, as a line of evaluation_metadata.jsonl has: "
            "tag, include and exclude"
        )
    kept = store.scores(detector.name, detector.identity())
    if kept is None:
        store.require_whole()

        def of(part: list[int]) -> Floats:
            middle = [store.read(i)[store.asked[i].request.frames // 2] for i in part]
            found = detector.objects(middle)
            return np.array([_correct(store, i, detector, each) for i, each in zip(part, found, strict=True)])

        values = dict(zip(places, share.rows(places, of).tolist(), strict=True))
        if share.rank == 0:
            said = [values.get(place) for place in range(len(store.asked))]
            store.keep_scores(detector.name, detector.identity(), {"values": said})
    else:
        values = {place: kept["values"][place] for place in places}
    return _summary(detector.name, store, places, values)


def _correct(store: Store, place: int, detector: AbstractDetector, found: Sequence[Any]) -> float:
    metadata = store.asked[place].metadata
    return float(judge(metadata, found, detector.threshold, detector.count_threshold)[0])


def _summary(name: str, store: Store, places: Sequence[int], values: dict[int, float]) -> dict[str, dict[str, Any]]:
    by_task: dict[str, dict[str, list[float]]] = {}
    for place in places:
        metadata = dict(store.asked[place].metadata)
        prompts = by_task.setdefault(metadata["tag"], {})
        prompts.setdefault(json.dumps(metadata, sort_keys=True), []).append(values[place])
    scores = {}
    if set(by_task) == set(TASKS):
        scores[f"{name}/overall"] = asdict(bootstrap({task: list(by_task[task].values()) for task in TASKS}))
    for task in TASKS:
        hits = [value for images in by_task.get(task, {}).values() for value in images]
        if hits:
            scores[f"{name}/{task}"] = asdict(wilson(int(sum(hits)), len(hits)))
    return scores
