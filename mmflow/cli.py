"""LightningCLI with this project's rules: run directories, three verbs for a run, defaults that work."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, final

import lightning.pytorch as pl
from jsonargparse import Namespace, set_parsing_settings
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from mmflow.data.module import FlowData
from mmflow.flow import adaptive, formulations  # noqa: F401 - `adaptive` for its short name on the command line
from mmflow.model import crossdit, dit, mmdit3, uvit  # noqa: F401 - for their short names on the command line
from mmflow.planning.mfu import Utilisation
from mmflow.train.checkpoint import Checkpoints
from mmflow.train.ema import Ema
from mmflow.train.goodput import Goodput
from mmflow.train.guard import Guard
from mmflow.train.interference import Interference
from mmflow.train.launch import check_rendezvous, detect, settle
from mmflow.train.limits import limit_reached
from mmflow.train.loggers import RunCsv, RunWandb, wandb_id
from mmflow.train.module import FlowModule
from mmflow.train.precedence import Changes, changes, check, check_format
from mmflow.train.predictions import Predictions
from mmflow.train.preemption import Preemption, find_preemption, is_stopped, job_id, requeue
from mmflow.train.preference import Preference
from mmflow.train.preflight import Preflight
from mmflow.train.previews import Previews
from mmflow.train.probes import AttentionProbes
from mmflow.train.progress import TrainingBar
from mmflow.train.proxies import Proxies
from mmflow.train.rehearsal import Rehearsal
from mmflow.train.run import RunRecord, make_writable, nothing_to_train, start
from mmflow.train.saved import newest
from mmflow.train.scores import Scores
from mmflow.train.sharded import trainer_layout
from mmflow.train.signals import Signals
from mmflow.train.storage import read_plain
from mmflow.train.throughput import Throughput
from mmflow.train.watchdog import Watchdog
from mmflow.train.weights import find_checkpoint

DEFAULT_CLASSES = {
    "model.objective.path": "mmflow.flow.path.RectifiedFlow",
    "model.objective.prediction": "mmflow.flow.prediction.Velocity",
    "model.objective.density": "mmflow.flow.density.LogitNormal",
    "model.objective.shift": "mmflow.flow.shift.ConstantShift",
    "model.optimizer": "mmflow.train.optim.AdamW",
    "model.sampling.solver": "mmflow.flow.solver.Euler",
    "model.sampling.grid": "mmflow.flow.grid.Even",
    "data.autoencoder": "mmflow.encoders.autoencoder.RgbAutoencoder",
    "data.text_encoder": "mmflow.encoders.text.HashedWords",
}
"""The signatures' own defaults, by name: jsonargparse cannot print or override an instance."""

USES = ("validate", "test", "predict")
"""Commands that use a run as it is."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "runs/default",
    "max_epochs": -1,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "val_check_interval": 1000,
    "log_every_n_steps": 20,
    "gradient_clip_val": 1.0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
FORCED = {
    "ema": Ema,
    "checkpoints": Checkpoints,
    "previews": Previews,
    "signals": Signals,
    "preference": Preference,
    "scores": Scores,
    "proxies": Proxies,
    "predictions": Predictions,
    "interference": Interference,
    "probes": AttentionProbes,
    "preemption": Preemption,
    "watchdog": Watchdog,
    "guard": Guard,
    "goodput": Goodput,
    "rehearsal": Rehearsal,
}
"""Callbacks that every run has, under their own keys."""


def expand_run(args: list[str]) -> list[str]:
    """Puts a run's own config.yaml first where a command uses the run and names no other configuration.

    Raises:
        ValueError: if the checkpoint that is named lies in no run.
    """
    if not args or args[0] not in USES or any(a == "--config" or a.startswith("--config=") for a in args):
        return args
    value = next((a.split("=", 1)[1] for a in args if a.startswith("--ckpt_path=")), None)
    if value is None and "--ckpt_path" in args[:-1]:
        value = args[args.index("--ckpt_path") + 1]
    if value is None:
        return args
    folder = run_folder(value)
    if folder is None:
        raise ValueError(
            f"--ckpt_path {value} lies in no run: there is no config.yaml beside a checkpoints/ folder. Name the run "
            "directory, or say by --config what the checkpoint is of"
        )
    return [args[0], "--config", str(folder / "config.yaml"), *args[1:]]


def run_folder(checkpoint: str) -> Path | None:
    """The run directory that a checkpoint argument belongs to: itself, or the folder above `checkpoints/`."""
    path = Path(checkpoint)
    for folder in (path, path.parent.parent):
        if (folder / "config.yaml").is_file() and (folder / "checkpoints").is_dir():
            return folder
    return None


def _rank() -> int:
    """This process's rank as its launcher states it; before there is a trainer."""
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


@final
class MmflowCLI(LightningCLI):
    """Parses and builds at construction; `run()` does the work.

    Args:
        args: the command line.
        for_use: resolve what the command starts from; without it only what the configuration names is built.
    """

    def __init__(self, args: list[str], for_use: bool = True) -> None:
        set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
        self._for_use, self._args = for_use, args
        self._changed: Changes = {}
        self._launch = detect()
        super().__init__(
            FlowModule,
            FlowData,
            save_config_callback=None,
            seed_everything_default=0,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            parser_kwargs={"parser_mode": "omegaconf+"},
            args=args,
            auto_configure_optimizers=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.set_defaults({key: {"class_path": path} for key, path in DEFAULT_CLASSES.items()})
        for key, callback in FORCED.items():
            parser.add_lightning_class_args(callback, key)
        for name in ("latent_channels", "context_width", "pooled_width"):
            parser.link_arguments(f"data.{name}", f"model.{name}", apply_on="instantiate")
        for action in parser._actions:
            # jsonargparse would read a file that is named here as a part of the configuration: a tar, whole, as text.
            if action.dest in ("data.train_shards", "data.val_shards"):
                action._enable_path = False
        parser.add_argument("--wandb.mode", type=Literal["offline", "online", "off"], default="offline", help="W&B.")
        parser.add_argument("--wandb.project", type=str, default="mmflow", help="W&B project.")
        parser.add_argument(
            "--resume",
            type=Literal["never", "auto"],
            default="never",
            help="auto: continue the run in trainer.default_root_dir if it has a checkpoint, else start it.",
        )

    # LightningCLI runs the command inside its constructor; building and running are kept apart here, so that errors in
    # a configuration can be told from errors in a run.
    def _run_subcommand(self, subcommand: str) -> None:
        self._command = subcommand

    def run(self) -> None:
        """Runs the command that was parsed."""
        if self.config[self._command].ckpt_path is not None:
            self.model.init_from = None  # the checkpoint holds the weights, and the first ones may be gone
        super()._run_subcommand(self._command)
        limit = limit_reached(self.trainer)
        if limit is not None and self.is_done() and not self.has_begun():
            print(nothing_to_train(self.trainer, limit), flush=True)
        stopped = find_preemption(self.trainer)
        if stopped is not None and stopped.wants_requeue() and self.trainer.is_global_zero:
            requeue(job_id())

    def has_begun(self) -> bool:
        """Whether a training step has been done since the start; one that ended in an error counts as none."""
        trainer: pl.Trainer | None = getattr(self, "trainer", None)
        return trainer is not None and trainer.state.fn == "fit" and trainer.global_step > self.model.loaded_step

    def is_done(self) -> bool:
        """Whether this was a `fit` that came to its end, as the first process sees it: nothing asked it to stop."""
        trainer: pl.Trainer = self.trainer
        ended = trainer.state.fn == "fit" and trainer.state.finished and not is_stopped(trainer)
        return bool(ended and trainer.is_global_zero)

    def before_instantiate_classes(self) -> None:
        """Settles the run directory and the checkpoint to start from.

        Raises:
            ValueError: if the directory is in use or unwritable, or there is no such checkpoint.
        """
        command = self.config.subcommand
        config = self.config[command]
        if config.model.formulation is not None:
            self._write_out_formulation(config)
        if not self._for_use:
            return
        trainer = config.trainer
        trainer.devices, trainer.num_nodes = settle(self._launch, trainer.devices, trainer.num_nodes)
        check_rendezvous(self._launch)
        folder = Path(config.trainer.default_root_dir)
        if command == "fit":
            if _rank() == 0:
                config.ckpt_path = start(folder, config.ckpt_path, config.resume)
            elif config.ckpt_path == "last" or config.resume == "auto":
                last = newest(folder)
                config.ckpt_path = str(last) if last else None
        elif config.ckpt_path == "last":
            config.ckpt_path = str(find_checkpoint(folder))
        if _rank() == 0:
            make_writable(folder)
        if config.ckpt_path is not None:
            config.ckpt_path = str(find_checkpoint(config.ckpt_path))
            saved = read_plain(Path(config.ckpt_path))  # refuses here what is no checkpoint, in words that help
            check_format(saved, config.ckpt_path)
            if command == "fit" and "config" in saved:
                self._changed = changes(saved["config"], self._yaml())
                check(self._changed, config.ckpt_path)
        elif command in USES and config.model.init_from is None:
            raise ValueError(
                f"{command} needs trained weights: --ckpt_path RUN (a run directory), --ckpt_path last, or "
                "--model.init_from FILE"
            )

    def _write_out_formulation(self, config: Any) -> None:
        """Puts the parts that `model.formulation` names into `model.objective`: a run's config.yaml says one thing.

        Raises:
            ValueError: if the configuration names such parts as well, or there is no such formulation.
        """
        parts = ("path", "prediction", "density")
        given = self.parser.parse_args(self._args, defaults=False)[self.config.subcommand]
        both = [f"model.objective.{part}" for part in parts if given.get(f"model.objective.{part}") is not None]
        if both:
            raise ValueError(
                f"model.formulation {config.model.formulation!r} and {', '.join(both)} say the same thing twice: "
                "take one of them out"
            )
        objective = formulations.parse(config.model.formulation)
        for part in parts:
            config.model.objective[part] = as_config(getattr(objective, part))
        config.model.formulation = None

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with this project's callbacks and loggers."""
        config = self.config[self.config.subcommand]
        folder = Path(config.trainer.default_root_dir)
        command = self.config.subcommand
        extra: list[Any] = [
            Throughput(meter=Utilisation()),
            Preflight(self._yaml()),
            RunRecord(self._yaml(), self._changed),
        ]
        if config.trainer.enable_progress_bar is not False and command == "fit":
            extra.append(TrainingBar())
        if config.trainer.logger in (None, True):
            kwargs["logger"] = self._loggers(folder, config.ckpt_path) if command == "fit" else False
        self.trainer_defaults["callbacks"] = extra
        given = config.trainer.strategy, config.trainer.plugins, self._launch.by == "slurm"
        kwargs |= trainer_layout(self.model.parallel, *given)
        return super().instantiate_trainer(**kwargs)

    def _loggers(self, folder: Path, checkpoint: str | None) -> list[Any]:
        wandb = self.config[self.config.subcommand].wandb
        loggers: list[Any] = [RunCsv(folder)]
        if wandb.mode != "off" and _rank() == 0:
            if checkpoint is not None:
                wandb_id(folder, read_plain(Path(checkpoint)).get("wandb_id"))
            loggers.append(RunWandb(folder, wandb.mode, wandb.project))
        return loggers

    def _yaml(self) -> str:
        """The resolved configuration, without what belongs to one start of the run only."""
        config = self.config[self.config.subcommand].clone()
        for key in ("ckpt_path", "resume", "config"):
            config.pop(key, None)
        # A null is kept: left out, it would come back as the default.
        text: str = self._parser(self.config.subcommand).dump(
            config, skip_validation=True, skip_link_targets=True, skip_none=False
        )
        return text


def as_config(part: Any) -> Namespace:
    """A frozen dataclass as a configuration names it, with all that it holds."""
    values = {field.name: getattr(part, field.name) for field in dataclasses.fields(part)}
    init_args = {name: as_config(v) if dataclasses.is_dataclass(v) else v for name, v in values.items()}
    return Namespace(class_path=f"{type(part).__module__}.{type(part).__qualname__}", init_args=Namespace(**init_args))


def build(config: Path, overrides: Sequence[str] = ()) -> tuple[FlowModule, FlowData]:
    """Module and data module of a run's configuration, for use without a trainer."""
    cli = MmflowCLI(["predict", "--config", str(config), *overrides], for_use=False)
    module, data = cli.model, cli.datamodule
    assert isinstance(module, FlowModule) and isinstance(data, FlowData)
    return module, data
