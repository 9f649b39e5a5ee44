"""A run that is continued with another configuration: one test per row of the table in docs/cluster.md."""

from pathlib import Path
from typing import Any

import pytest

from mmflow.cli import MmflowCLI
from mmflow.train.ema import find_ema
from mmflow.train.history import append, read_history
from mmflow.train.precedence import FORMAT, changes, check, check_format, told
from mmflow.train.saved import complete
from mmflow.train.storage import load_plain
from tests.train.runs import command

BEFORE = ("--trainer.max_steps", 3, "--checkpoints.every_n_steps", 3, "--ema.decay", "[0.5,0.9]", "--wandb.mode", "off")
NOW: tuple[Any, ...] = (
    *("--trainer.max_steps", 5, "--checkpoints.every_n_steps", 5, "--checkpoints.keep", -1),
    *("--model.optimizer.lr", 3e-4, "--model.optimizer.weight_decay", 0.5),
    *("--model.lr_schedule.warmup_steps", 0, "--model.lr_schedule.decay", "linear"),
    *("--trainer.gradient_clip_val", 0.25, "--trainer.accumulate_grad_batches", 2, "--trainer.log_every_n_steps", 2),
    *("--ema.decay", "[0.9,0.7]", "--ckpt_path", "last"),
)


class Continued:
    """A run of three steps, and how it went on under another configuration."""

    def __init__(self, folder: Path) -> None:
        MmflowCLI(command(folder, *BEFORE)).run()
        self.folder, self.before = folder, load_plain(folder / "checkpoints" / "last.ckpt")
        self.cli = MmflowCLI(command(folder, *NOW))
        self.trainer = self.cli.trainer
        self.cli.run()
        self.after = load_plain(folder / "checkpoints" / "last.ckpt")
        (self.group, self.undecayed) = self.trainer.optimizers[0].param_groups


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Continued:
    return Continued(tmp_path_factory.mktemp("precedence") / "run")


def test_config_wins_learning_rate_and_schedule(run: Continued) -> None:
    # The last of five steps of a linear way down, without a warm-up.
    assert run.group["lr"] == pytest.approx(3e-4 * (1 - 4 / 5))


def test_config_wins_weight_decay(run: Continued) -> None:
    assert run.group["weight_decay"] == 0.5 and run.undecayed["weight_decay"] == 0.0


def test_config_wins_clipping(run: Continued) -> None:
    assert run.trainer.gradient_clip_val == 0.25


def test_config_wins_max_steps(run: Continued) -> None:
    assert run.before["global_step"] == 3 and run.after["global_step"] == 5


def test_config_wins_lengths_of_averages(run: Continued) -> None:
    ema = find_ema(run.trainer)
    assert ema is not None and ema.decays == [0.9, 0.7]
    # One goes on, one begins at the checkpoint's weights, one is gone.
    assert ema.updates == {0.9: 5, 0.7: 2} and run.after["ema"]["decays"] == [0.9, 0.7]


def test_config_wins_logging(run: Continued) -> None:
    assert run.trainer.log_every_n_steps == 2
    assert [path.name for path in complete(run.folder / "checkpoints")] == [
        "step-000000003.ckpt",
        "step-000000005.ckpt",
    ]


def test_config_wins_parallelism(run: Continued) -> None:
    """Two micro-steps per optimizer step from an odd step on, each step still all of its samples."""
    assert run.trainer.accumulate_grad_batches == 2
    assert run.before["FlowData"]["position"] == 3 * 8 and run.after["FlowData"]["position"] == 5 * 8


def test_checkpoint_wins_weights_and_moments(run: Continued) -> None:
    """Three steps of momentum are in them: with fresh ones, or fresh weights, two more steps would be elsewhere."""
    for state in run.after["optimizer_states"][0]["state"].values():
        assert state["step"].item() == 5
    name = "backbone.blocks.0.visual.qkv.weight"
    moved = (run.after["state_dict"][name] - run.before["state_dict"][name]).abs().max()
    assert 0 < moved < 2 * 3e-4 * 3, "two steps of at most the learning rate, and some decay"


def test_checkpoint_wins_counters(run: Continued) -> None:
    rows = [line.split(",")[0] for line in (run.folder / "metrics.csv").read_text().splitlines()[1:]]
    assert rows == ["0", "1", "2", "3"], "logged every second step from now on"
    assert run.trainer.global_step == 5


def test_every_difference_is_kept_and_told(run: Continued) -> None:
    start, end, again, _ = read_history(run.folder)
    assert (start["event"], end["event"], again["event"]) == ("start", "end", "continue") and again["step"] == 3
    assert again["changed"]["model.optimizer.init_args.lr"] == [1e-4, 3e-4]
    assert again["changed"]["model.lr_schedule.decay"] == ["constant", "linear"]
    assert again["changed"]["trainer.max_steps"] == [3, 5] and again["changed"]["ema.decay"] == [[0.5, 0.9], [0.9, 0.7]]
    lines = told({key: tuple(pair) for key, pair in again["changed"].items()})
    assert "  trainer.max_steps: 3 -> 5" in lines and len(lines) == 1 + len(again["changed"])


@pytest.mark.parametrize(
    ("what", "option", "words"),
    [
        ("depth", ("--model.backbone.depth", 2), ["depth 1 there, depth 2 here", "--model.backbone.depth 1"]),
        ("width of the text", ("--data.text_encoder.width", 16), ["width 24 there, width 16 here"]),
        (
            "autoencoder",
            (
                *("--data.autoencoder", "mmflow.encoders.diffusers_autoencoder.DiffusersAutoencoder"),
                *("--data.autoencoder.path", "elsewhere"),
            ),
            ["RgbAutoencoder there", "DiffusersAutoencoder here", "--data.autoencoder mmflow"],
        ),
        (
            "prediction",
            ("--model.objective.prediction", "mmflow.flow.prediction.Data"),
            ["prediction", "mmflow.flow.prediction.Velocity", "--model.init_from"],
        ),
        ("optimizer", ("--model.optimizer", "Muon"), ["AdamW there", "Muon here"]),
    ],
)
def test_refused(what: str, option: tuple[Any, ...], words: list[str], run: Continued) -> None:
    kept = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError) as refused:
        MmflowCLI(command(run.folder, *BEFORE, "--ckpt_path", "last", *option))
    assert all(word in str(refused.value) for word in words), refused.value
    assert kept == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_differences_by_key() -> None:
    old = "a: {b: 1, c: [1, 2]}\nd: x\ngone: 1\n"
    new = "a: {b: 2, c: [1, 2]}\nd: x\nmore: {e: 0.5}\n"
    assert changes(old, new) == {"a.b": (1, 2), "more.e": (None, 0.5), "gone": (1, None)}
    assert changes(old, old) == {} and told({}) == []


def test_the_attention_s_backend_is_no_part_of_the_model() -> None:
    check({"model.backbone.init_args.attention": ("sdpa", "xformers"), "trainer.max_steps": (1, 2)}, "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt was made with another model"):
        check({"data.autoencoder.class_path": ("A", "B")}, "a.ckpt")


def test_a_checkpoint_of_a_later_mmflow_is_refused() -> None:
    check_format({}, "a.ckpt")
    check_format({"mmflow": {"format": FORMAT, "version": "9"}}, "a.ckpt")
    with pytest.raises(ValueError, match=r"a\.ckpt was saved by mmflow 9\.1\.0 in format 9.*mmflow-mmdit 9\.1\.0"):
        check_format({"mmflow": {"format": 9, "version": "9.1.0"}}, "a.ckpt")


def test_a_line_that_was_cut_short_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "3")
    append(tmp_path, "start", 0)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": 1, "ev')
    (line,) = read_history(tmp_path)
    assert line["event"] == "start" and line["slurm"] == {"job_id": "12", "restart_count": "3"}
