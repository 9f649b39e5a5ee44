"""One cell of a study, from the first step to its last score. `python -m mmflow.study.cell STUDY.yaml NAME`.

Everything is done once and kept in the cell's folder, so that a cell that was stopped at any moment goes on from there:

    run/             the run itself, as `python -m mmflow fit` leaves it
    controls.json    what it has in common with the other cells
    picked.json      the checkpoint with the least validation loss of the averaged weights
    ema.safetensors  its weights, averaged and raw
    raw.safetensors
    scores/          one file per kind of weights and sampling setting
    curve/           of a study with a curve: one file per checkpoint that was validated
    size.json        of a study with a curve: parameters, and FLOPs of a step
"""

import csv
import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mmflow.study.controls import controls_of, require_equal
from mmflow.study.folder import (
    BUSY,
    STOPPED,
    CellBusyError,
    CellStoppedError,
    curve_weights,
    is_done,
    lock,
    score_file,
)
from mmflow.study.judge import ShapesJudge
from mmflow.study.plan import Cell, Setting, Study, read_study
from mmflow.study.records import is_recorded, record, require_recorded_controls
from mmflow.study.size import size_of_run
from mmflow.train.run import write_json
from mmflow.train.saved import remove


def run_cell(study: Study, cell: Cell) -> None:
    """Trains, picks, samples and scores, as far as that is not done yet, and adds the cell to the study's records.

    Raises:
        CellBusyError: if another process works on it.
        CellStoppedError: if training was stopped from outside; it goes on from there the next time.
        ValueError: if the configuration is wrong, or not the one with which the cell was begun, or another than that
            of the cells in the records.
    """
    folder = study.folder(cell)
    with lock(folder):
        if is_recorded(study, cell):
            print(f"{cell.name} is in {study.records}")
            return
        if not (folder / "picked.json").is_file():
            fit(study, cell)
            pick(folder, study.curve)
        if study.curve and not (folder / "curve").is_dir():
            raise ValueError(
                f"{folder}: was trained before this study had `curve: true`, and its checkpoints are gone. Remove the "
                "folder to train it again"
            )
        if study.curve and not (folder / "size.json").is_file():
            write_json(folder / "size.json", asdict(size_of_run(folder / "run" / "config.yaml")))
        if not is_done(study, cell):
            score(study, cell)
    record(study, [cell])


def fit(study: Study, cell: Cell) -> None:
    """Trains the cell by the command line's own `fit`, in this process; continues what was begun."""
    from mmflow.__main__ import quieten
    from mmflow.cli import MmflowCLI
    from mmflow.train.preemption import is_stopped

    quieten()
    drop_unvalidated(study.folder(cell) / "run")
    folder, started = study.folder(cell), time.monotonic()
    cli = MmflowCLI(study.arguments(cell))
    config: str = cli._yaml()
    if not cli.datamodule.is_shapes:
        raise ValueError("a study scores pictures of the shapes world: data.train_shards cannot be judged")
    controls = controls_of(config, study.varied(), ShapesJudge(cli.datamodule.world, study.judge).identity())
    require_recorded_controls(study, cell, controls)
    kept = folder / "controls.json"
    if kept.is_file():
        require_equal(json.loads(kept.read_text()), controls, f"{folder.name} as it was begun and as it is now")
    else:
        write_json(kept, controls)
    cli.run()
    before = json.loads((folder / "seconds.json").read_text()) if (folder / "seconds.json").is_file() else 0.0
    write_json(folder / "seconds.json", before + time.monotonic() - started)
    if is_stopped(cli.trainer):  # a run ends in order then, and must not be taken for one that is over
        raise CellStoppedError(f"{folder.name} was stopped after step {cli.trainer.global_step}")


def validation_losses(metrics: Path) -> dict[int, float]:
    """Optimizer steps done -> validation loss of the averaged weights."""
    with metrics.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/loss")]
    return {int(row["step"]) + 1: float(row["val/loss"]) for row in rows}


def saved_steps(run: Path) -> dict[int, Path]:
    """Optimizer steps done -> checkpoint."""
    return {int(path.stem.split("-")[1]): path for path in (run / "checkpoints").glob("step-*.ckpt")}


def drop_unvalidated(run: Path) -> None:
    """Goes back to before a checkpoint that was saved but not validated, where a run was stopped between the two.

    A run that is continued there would never validate it, and so never pick it.
    """
    losses = validation_losses(run / "metrics.csv") if (run / "metrics.csv").is_file() else {}
    saved = saved_steps(run)
    unvalidated = saved.keys() - losses.keys()
    if not unvalidated:
        return
    for step in unvalidated:
        remove(saved.pop(step))
    last = run / "checkpoints" / "last.ckpt"
    last.unlink(missing_ok=True)
    if saved:
        os.link(saved[max(saved)], last)


def pick(folder: Path, curve: bool = False) -> None:
    """Keeps the weights, raw and averaged, of the checkpoint with the least validation loss; drops the checkpoints.

    Args:
        folder: of the cell.
        curve: keep the averaged weights of every checkpoint that was validated, until they are scored.

    Raises:
        ValueError: if no checkpoint was validated.
    """
    from safetensors.torch import save_file

    from mmflow.train.weights import load_weights

    run = folder / "run"
    losses = validation_losses(run / "metrics.csv")
    saved = saved_steps(run)
    common = sorted(losses.keys() & saved.keys())
    if not common:
        raise ValueError(
            f"{run}: validated after steps {sorted(losses)}, saved after steps {sorted(saved)}: no checkpoint can be "
            "picked. Set trainer.val_check_interval and checkpoints.every_n_steps of the base to the same number, and "
            "trainer.max_steps to a multiple of it"
        )
    best = min(common, key=lambda step: losses[step])
    wanted = {folder / f"{kind}.safetensors": f"{saved[best]}@{kind}" for kind in ("ema", "raw")}
    if curve:
        wanted |= {folder / "curve" / f"step-{step:09d}.safetensors": f"{saved[step]}@ema" for step in common}
    for target, source in wanted.items():
        target.parent.mkdir(exist_ok=True)
        weights = {name: value.contiguous() for name, value in load_weights(source).items()}
        save_file(weights, target.with_suffix(".part"))
        target.with_suffix(".part").replace(target)
    write_json(folder / "picked.json", {"step": best, "val_loss": losses[best], "losses": losses})
    for path in (run / "checkpoints").glob("*.ckpt"):
        remove(path)


def score(study: Study, cell: Cell) -> None:
    """Samples and judges every setting that has not been."""
    from mmflow.train.weights import load_weights

    folder = study.folder(cell)
    scorer = Scorer(study, folder)
    for kind in study.weights:
        for setting in study.settings:
            path = score_file(folder, kind, setting)
            if not path.is_file():
                scorer(load_weights(str(folder / f"{kind}.safetensors")), setting, path)
    for weights in curve_weights(folder):
        scorer(load_weights(str(weights)), study.settings[0], weights.with_suffix(".json"))
        weights.unlink()


class Scorer:
    """A cell's network, sampled and judged with any weights."""

    def __init__(self, study: Study, folder: Path) -> None:
        import torch

        from mmflow.cli import build

        self.module, self.data = build(folder / "run" / "config.yaml")
        self.judge = ShapesJudge(self.data.world, study.judge)
        self.reference = self.judge.reference()
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.module.configure_model()
        self.network = self.module.backbone.to(self.device).eval()

    def __call__(self, weights: Mapping[str, Any], setting: Setting, path: Path) -> None:
        """Writes the numbers of these weights in one sampling setting."""
        from mmflow.batch import request_batches
        from mmflow.train.sampling import make

        self.network.load_state_dict(weights)
        started, requests = time.monotonic(), self.judge.requests()
        sampling = replace(
            self.module.sampling,
            num_steps=setting.num_steps,
            guidance_scale=setting.guidance_scale,
            solver=solver_of(setting.solver),
        )
        made: dict[int, Any] = {}
        for batch in request_batches(requests, sampling.batch_size):
            frames = make(self.network, self.module.objective, self.data.encoders, batch, sampling, self.device)
            made |= {request.index: each for request, each in zip(batch, frames, strict=True)}
        numbers = self.judge([made[request.index] for request in requests], self.reference)
        path.parent.mkdir(exist_ok=True)
        numbers["evaluations"] = sampling.solver.evaluations(setting.num_steps)
        write_json(path, numbers | {"seconds": round(time.monotonic() - started, 2)})
        print(f"{path.stem}: score {numbers['score']:.3f}, kernel {numbers['kernel']:.3f}", flush=True)


def solver_of(name: str) -> Any:
    """A solver by its class's name.

    Raises:
        ValueError: if there is none.
    """
    from mmflow.flow import solver

    solvers = {each.__name__: each for each in solver.AbstractSolver.__subclasses__()}
    if name not in solvers:
        raise ValueError(f"unknown solver {name!r}; there are {', '.join(solvers)}")
    return solvers[name]()


def ended(study: Study, name: str) -> int:
    """Runs the cell of that name; the exit status that says how it ended."""
    try:
        run_cell(study, next(cell for cell in study.cells() if cell.name == name))
    except CellBusyError:
        print(f"{name} is being worked on by another process")
        return BUSY
    except CellStoppedError as stopped:
        print(f"{stopped}: `study.py run` goes on from there")
        return STOPPED
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(ended(read_study(sys.argv[1]), sys.argv[2]))
