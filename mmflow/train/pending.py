"""The numbers of a checkpoint's last step, which are logged only after the checkpoint was saved."""

from typing import Any

import lightning.pytorch as pl

from mmflow.train.loggers import RunCsv

KEY = "pending_row"


def pending_row(trainer: pl.Trainer) -> dict[str, Any] | None:
    """What Lightning is about to log, where it saves within a step that is logged; else None."""
    loop: Any = trainer.fit_loop.epoch_loop
    counted = loop.batch_progress.current
    connector = trainer._logger_connector
    if counted.processed == counted.completed or not connector.should_update_logs:
        return None
    values = {name: float(value) for name, value in connector.metrics["log"].items()}
    return {"step": int(loop._batches_that_stepped), "values": values}


def log_pending(trainer: pl.Trainer, row: dict[str, Any] | None) -> None:
    """Logs it in a continued run, if the one before was stopped between its save and its log."""
    tables = [logger for logger in trainer.loggers if isinstance(logger, RunCsv)]
    if row is None or not trainer.is_global_zero or not tables or tables[0].has_step(row["step"]):
        return
    for logger in trainer.loggers:
        logger.log_metrics(row["values"], step=row["step"])
