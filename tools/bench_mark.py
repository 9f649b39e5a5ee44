"""The end of what `startup` of tools/bench.py measures: a callback of the run that is started."""

import time
from typing import Any, final

from lightning.pytorch.callbacks import Callback

MARK = "mmflow-bench: the first optimizer step is done"
WAITS = 120.0
"""Seconds in which whoever started the run ends it."""


@final
class FirstStep(Callback):
    """Says when the first optimizer step is done, and goes no further."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step:
            print(MARK, flush=True)
            time.sleep(WAITS)
            raise RuntimeError(f"nobody ended the run within {WAITS:.0f} s of its first step")
