"""The books of a run: every item of the index, and what became of it, so that nothing is lost without a word."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from mmflow.data.index import read_index
from mmflow.data.manifest import listed
from mmflow.data.source import AbstractSource, ShardSource

Fates = Sequence[tuple[str, str, str, int]]
"""(source and medium, bucket, fate, samples), as the ledger has them."""


def accounts(sources: Sequence[AbstractSource], fates: Fates, position: int) -> dict[str, Any]:
    """What `ledger.json` says of the training shards; of those that were there when the run began.

    Per source and medium: items in the index = `held_out` (for validation, or by data.exclude) + `not_asked` for +
    `samples`; of these `not_reached` were never planned; `visits` = the sum of `fates`. `left_out` counts members of
    tars that are no items, by reason. `balanced`: the visits of all sources sum to the place in the plan.

    Args:
        sources: of training.
        fates: of all that was planned.
        position: samples that the plan has dealt.
    """
    sharded = [source for source in sources if isinstance(source, ShardSource)]
    sizes = {(source.name, str(source.medium)): source.size or 0 for source in sharded}
    found: dict[str, Any] = {}
    left_out: Counter[str] = Counter()
    for name, tars in {source.name: source.places.tars for source in sharded}.items():
        indexed, skipped = _indexed(tars)
        left_out += skipped
        for medium in ("picture", "clip"):
            if not indexed[medium]:
                continue
            own = Counter[str]()
            for source, _, fate, number in fates:
                own[fate] += number * (source == f"{name}/{medium}")
            samples = sizes.get((name, medium))
            found[f"{name}/{medium}"] = {
                "indexed": indexed[medium],
                "held_out": 0 if samples is None else indexed[medium] - samples,
                "not_asked": indexed[medium] if samples is None else 0,
                "samples": samples or 0,
                "not_reached": max((samples or 0) - own.total(), 0),
                "visits": own.total(),
                "fates": {fate: number for fate, number in own.items() if number},
            }
    visits = sum(number for *_, number in fates)
    return {"sources": found, "left_out": dict(left_out), "balanced": visits == position} if found else {}


def _indexed(tars: tuple[str, ...]) -> tuple[Counter[str], Counter[str]]:
    """(items of each medium, members that are no items by reason) of tars, from manifests and indexes: the tars
    themselves may be gone."""
    known = listed(tars)
    indexed: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    for tar in tars:
        if tar in known:
            indexed.update({"picture": known[tar].pictures, "clip": known[tar].clips})
            left_out.update(known[tar].skipped)
            continue
        try:
            index = read_index(tar, check=False)
        except ValueError:
            left_out["index_gone"] += 1
            continue
        indexed.update(index.column("kind").tolist())
        left_out.update(each.reason for each in index.skipped)
    return indexed, left_out
