"""People's votes as a score among others, set against the loss."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mmflow.metrics.evidence import gather_evidence
from mmflow.metrics.recommend import agreement
from mmflow.people.checkpoints import voted_checkpoints
from mmflow.people.session import Session, Settings, make_session
from mmflow.people.sides import open_side
from mmflow.people.votes import VoteFile
from tests.metrics.test_evidence import QUALITY, plant
from tests.people.studies import fill_store, simulated, study

STEPS = 9


def voted(run: Path, session: Path) -> Session:
    """A session over a run's checkpoints in which raters prefer what is better."""
    prompts = [f"a red circle, take {n}" for n in range(8)]
    stores = [fill_store(run, 0, prompts, step=10 * (i + 1)) for i in range(STEPS)]
    made = make_session(session, [open_side(str(s)) for s in stores], Settings(questions=("prompt",), repeats=0.0))
    votes = simulated(made, {"prompt": 6 * QUALITY[:STEPS]}, raters=1)
    made.votes.write_text("".join(json.dumps(vars(vote)) + "\n" for vote in votes))
    return made


def test_votes_correlate_with_the_loss_beside_the_proxies(tmp_path: Path) -> None:
    run = plant(tmp_path / "run", QUALITY)
    session = voted(run, tmp_path / "session")
    said = voted_checkpoints(session.folder)
    assert list(said) == [run.resolve()] and sorted(said[run.resolve()]) == [10 * (i + 1) for i in range(STEPS)]
    evidence = gather_evidence([run], voted=said)
    assert [point.step for point in evidence.points] == sorted(said[run.resolve()]), (
        "of 24 checkpoints those that people saw"
    )
    assert set(evidence.scores()) >= {"good", "people/prompt"}
    value, *_ = agreement(evidence, "people/prompt", "picture", "pearson")
    assert value > 0.8
    assert np.corrcoef(evidence.score("people/prompt")[0], QUALITY[:STEPS])[0, 1] > 0.9
    for step in list(said[run.resolve()])[:1]:
        (run / "signals" / f"step-{step:09d}" / "scores.json").unlink()
    assert gather_evidence([run], voted=said).scores() == ["people/prompt"], (
        "a proxy that did not see all does not count"
    )


def test_what_has_no_votes_is_told(tmp_path: Path) -> None:
    run, other = plant(tmp_path / "run", QUALITY[:8]), tmp_path / "other"
    session = study(tmp_path, settings=Settings(questions=("prompt",)))
    votes = VoteFile(session)
    for vote in simulated(session, {"prompt": [1.0, 0.0]}, raters=1):
        votes.append(vote)
    said = voted_checkpoints(session.folder)
    with pytest.raises(
        ValueError, match=r"voted on at steps none: no checkpoint has both. The votes are about .*secret-run"
    ):
        gather_evidence([run], voted=said)
    models = tuple(replace(model, run=None) for model in session.models)
    with pytest.raises(ValueError, match="of no checkpoint"):
        _rewrite(replace(session, models=models), other)


def _rewrite(session: Session, folder: Path) -> None:
    shutil.copytree(session.folder, folder)
    said = json.loads((folder / "session.json").read_text())
    (folder / "session.json").write_text(json.dumps({**said, "models": [vars(model) for model in session.models]}))
    voted_checkpoints(folder)
