"""The average against its closed form, and weights that always come back."""

from unittest.mock import Mock

import lightning.pytorch as pl
import pytest
import torch
from torch import nn

from mmflow.train.ema import Ema, find_ema


class Module(pl.LightningModule):
    """One weight, which is set to the step's number."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.backbone = nn.Linear(1, 1, bias=False)
        self.set(value)

    def set(self, value: float) -> None:
        self.backbone.weight.data.fill_(value)


def trainer_at(step: int) -> pl.Trainer:
    return Mock(spec=pl.Trainer, global_step=step, callbacks=[])


def averaged(ema: Ema) -> float:
    return ema.average["weight"].item()


def run(ema: Ema, module: Module, steps: range, accumulate: int = 1) -> None:
    """Optimizer steps after each of which the weight is the step's number."""
    trainer = trainer_at(steps.start)
    ema.on_train_start(trainer, module)
    for step in steps:
        for micro in range(accumulate):
            if micro == accumulate - 1:
                module.set(step + 1)
                trainer.global_step = step + 1
            ema.on_train_batch_end(trainer, module, None, None, 0)


def test_a_constant_decay_weighs_the_past_geometrically() -> None:
    ema, module = Ema(0.8, every_n_steps=1, warmup=False), Module(0.0)
    run(ema, module, range(0, 10))
    assert averaged(ema) == pytest.approx(sum(0.2 * 0.8 ** (10 - n) * n for n in range(1, 11)), rel=1e-5)
    assert ema.num_updates == 10


def test_it_starts_at_the_weights() -> None:
    ema, module = Ema(0.9, every_n_steps=100, warmup=False), Module(5.0)
    run(ema, module, range(0, 3))
    assert averaged(ema) == 5.0


@pytest.mark.parametrize("accumulate", [1, 3])
def test_only_every_nth_optimizer_step_counts(accumulate: int) -> None:
    ema, module = Ema(0.5, every_n_steps=4, warmup=False), Module(0.0)
    run(ema, module, range(0, 11), accumulate)
    assert averaged(ema) == pytest.approx(0.5 * 8 + 0.25 * 4) and ema.num_updates == 2


def test_warm_up_lengthens_to_the_decay() -> None:
    ema, module, expected = Ema(0.7, every_n_steps=1), Module(0.0), 0.0
    for n in range(1, 41):
        decay = min(0.7, n / (n + 9))
        run(ema, module, range(n - 1, n))
        expected = decay * expected + (1 - decay) * n
        assert averaged(ema) == pytest.approx(expected, rel=1e-4)
    assert 21 / 30 == 0.7, "from update 21 on the decay is the asked one"


def test_swapped_weights_come_back_whatever_happens() -> None:
    ema, module = Ema(0.5, every_n_steps=1, warmup=False), Module(0.0)
    run(ema, module, range(0, 2))
    parameter, own = module.backbone.weight, module.backbone.weight.data
    with pytest.raises(RuntimeError, match="in the middle"), ema.swapped(module.backbone):
        assert module.backbone(torch.ones(1, 1)).item() == averaged(ema) == 1.25
        raise RuntimeError("in the middle")
    assert module.backbone.weight is parameter and parameter.data.data_ptr() == own.data_ptr()
    assert parameter.item() == 2.0 and averaged(ema) == 1.25


def test_the_network_cannot_change_the_average_and_not_the_other_way_round() -> None:
    ema, module = Ema(0.5, 1), Module(1.0)
    ema.reset(module.backbone)
    module.set(9.0)
    assert averaged(ema) == 1.0
    ema.average["weight"].fill_(3.0)
    assert module.backbone.weight.item() == 9.0


def test_a_checkpoint_continues_the_average(tmp_path) -> None:
    whole, module = Ema(0.9, every_n_steps=2), Module(0.0)
    run(whole, module, range(0, 6))
    checkpoint: dict = {}
    whole.on_save_checkpoint(trainer_at(0), module, checkpoint)
    torch.save(checkpoint, tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    run(whole, module, range(6, 12))
    resumed, again = Ema(0.9, every_n_steps=2), Module(6.0)
    resumed.on_load_checkpoint(trainer_at(0), again, saved)
    run(resumed, again, range(6, 12))
    assert averaged(resumed) == averaged(whole) and resumed.num_updates == whole.num_updates == 6


def test_a_checkpoint_without_an_average_starts_one() -> None:
    ema, module = Ema(), Module(2.0)
    ema.on_load_checkpoint(trainer_at(0), module, {"state_dict": {}})
    ema.on_train_start(trainer_at(100), module)
    assert averaged(ema) == 2.0


def test_finding_it_and_refusing_what_is_no_average() -> None:
    ema, trainer = Ema(), trainer_at(0)
    assert find_ema(trainer) is None
    trainer.callbacks = [pl.Callback(), ema]
    assert find_ema(trainer) is ema
    for arguments in ((1.0, 1), (-0.1, 1), (0.9, 0)):
        with pytest.raises(ValueError, match=f"got {arguments[0]} and {arguments[1]}"):
            Ema(*arguments)
