"""The order of a training run and the place in it: one integer, and the plans that it was counted in.

A run may go on with other shards, weights, budgets or buckets. Each such change begins a segment: another plan, from
the next step on. What the passes already begun have had is not repeated, across any number of segments.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from mmflow.data.begun import Had, Memory, Start, carried, sources_of
from mmflow.data.plan import Filling, Item, Locator, Plan
from mmflow.data.source import AbstractSource, ShardSource

VERSION = 1
"""Of what a checkpoint says of its plan; a checkpoint of another is not gone on with."""
FIXED = ("version", "seed", "world")
"""What no segment can change."""


@dataclass(frozen=True)
class Segment:
    """Positions that were, or are, ordered by one plan."""

    plan: str
    """Digest of all that its order depends on."""
    start: int
    end: int
    """First position after it; of the last one, where the run is."""


class _Onward:
    """A source from its nth sample on."""

    def __init__(self, source: AbstractSource, nth: int) -> None:
        self._source, self._nth = source, nth

    def locate(self, source: int, nth: int, position: int) -> Item:
        return self._source.locate(source, self._nth + nth, position)


@final
class TrainOrder:
    """The steps of a run from its place on.

    Args:
        sources: what is read.
        weights: share of samples of each.
        filling: what fills a step.
        about: what the order depends on beside sources and weights: seed, world, batch and buckets.
        end: position at which the run ends, or None.
        excluded: samples to leave out, where they are.
    """

    def __init__(
        self,
        sources: Sequence[AbstractSource],
        weights: Sequence[float],
        filling: Filling,
        about: dict[str, Any],
        end: int | None = None,
        excluded: Callable[[Item], bool] | None = None,
    ) -> None:
        self.sources, self._weights, self._filling = list(sources), list(weights), filling
        self._end, self._excluded = end, excluded
        self.about = {"version": VERSION, **about, "weights": self._weights, "sources": sources_of(sources)}
        self._starts = [Start() for _ in sources]
        self.position, self.steps = 0, 0
        self._before: list[Segment] = []
        self._memory: Memory = {}
        self.plan = self._make_plan(0)

    def _make_plan(self, first: int) -> Plan:
        """Raises ValueError if the weights cannot be used."""
        for i, (source, start) in enumerate(zip(self.sources, self._starts, strict=True)):
            if isinstance(source, ShardSource) and start.begun is not None:
                self.sources[i] = source.going_on(start.begun)
        onward: list[Locator] = [_Onward(s, start.nth) for s, start in zip(self.sources, self._starts, strict=True)]
        return Plan(onward, self._weights, self._filling, end=self._end, first=first, excluded=self._excluded)

    def advance(self, next_position: int) -> None:
        """Notes that an optimizer step was taken."""
        self.position, self.steps = next_position, self.steps + 1

    @property
    def digest(self) -> str:
        """One name for the present plan."""
        text = json.dumps([self.about, [start.as_json() for start in self._starts], self.plan.first])
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @property
    def segments(self) -> list[Segment]:
        """All plans of the run so far; the last one is in use."""
        return [*self._before, Segment(self.digest, self.plan.first, self.position)]

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps: the place, the segments, and of the last plan all that another needs to go on."""
        return {
            "position": self.position,
            "steps": self.steps,
            "segments": [asdict(segment) for segment in self.segments],
            "plan": {
                "about": self.about,
                "starts": [start.as_json() for start in self._starts],
                "memory": [[*name, *had.as_json()] for name, had in self._memory.items()],
            },
        }

    def take_up(self, state: dict[str, Any]) -> list[str]:
        """Goes on at a checkpoint's place; returns what changed since, in words, if that began a segment.

        Raises:
            ValueError: if seed or world are others, or the checkpoint says nothing that this version understands.
        """
        plan, segments = state.get("plan", {}), [Segment(**each) for each in state.get("segments", [])]
        theirs = plan.get("about", {"version": None})
        changed = [name for name in self.about if self.about[name] != theirs.get(name)]
        if (fixed := [name for name in FIXED if name in changed]) or not segments:
            raise ValueError(
                "this checkpoint's place is counted in another order:\n  "
                + "\n  ".join(f"{name}: {theirs.get(name)} -> {self.about[name]}" for name in fixed)
                + "\nContinue with the old values, or start a new run from its weights: --model.init_from RUN"
            )
        self.position, self.steps = state["position"], state["steps"]
        starts = [Start.of_json(each) for each in plan["starts"]]
        self._memory = {tuple(each[:4]): Had.of_json(each[4:]) for each in plan["memory"]}
        if changed:
            self._before, taken = segments, self.position - segments[-1].start
            self._starts, self._memory = carried(theirs, starts, taken, self._memory, self.sources)
            self.plan = self._make_plan(self.position)
        else:
            self._before, self._starts = segments[:-1], starts
            self.plan = self._make_plan(segments[-1].start)
        return [_told(name, theirs.get(name), self.about[name]) for name in changed]


def _told(name: str, then: Any, now: Any) -> str:
    """What of the order changed, in a line."""
    if name != "sources":
        return f"{name}: {then} -> {now}"
    old, new = (
        {(source["name"], source["medium"], *shard) for source in sources for shard in source.get("shards", [])}
        for sources in (then, now)
    )
    return f"shards: {len(new - old)} new or changed, {len(old - new)} gone, {len(old & new)} as before"
