"""People's votes as a score of checkpoints: what `tools/compare.py --correlate --votes` sets against the loss."""

from pathlib import Path

from mmflow.metrics.evidence import Voted
from mmflow.people.scores import all_said
from mmflow.people.session import Session
from mmflow.people.votes import read_votes


def voted_checkpoints(folder: str | Path) -> Voted:
    """Elo of the checkpoints that a session compared, about the mean of its models; `people/` begins the names.

    One session only: Elo of two does not compare.

    Raises:
        ValueError: if votes do not link all models, or the samples are of no checkpoint.
    """
    session, found = Session.open(folder), Voted()
    if all(model.run is None for model in session.models):
        raise ValueError(f"{folder}: its samples are of no checkpoint: make it from stores that `test` filled")
    for said in all_said(session, read_votes(session)):
        if said.elo is None:
            raise ValueError(f"{folder}, {said.name}: {'; '.join(said.not_said)}")
        for model in session.models:
            if model.run is not None:
                assert model.step is not None and model.weights is not None
                kinds = found.setdefault(Path(model.run), {}).setdefault(model.step, {})
                kinds.setdefault(model.weights, {})[f"people/{said.name}"] = said.elo[model.name]
    return found
