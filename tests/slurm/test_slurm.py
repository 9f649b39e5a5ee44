"""Runs on a real SLURM of two nodes on this host, disturbed in every way; each ends as an undisturbed one does."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from mmflow.train.history import read_history
from mmflow.train.saved import newest
from mmflow.train.storage import read_plain
from tests.slurm.host import Host, missing
from tests.train.runs import ROOT, TINY, fit, losses
from tests.wandb_file import points, run_records

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(missing()), reason=f"no SLURM here ({', '.join(missing())}): apt-get install slurm-wlm munge"
    ),
]
STEPS = 12
RUN = (
    *("--trainer.max_steps", STEPS, "--trainer.accelerator", "cpu", "--checkpoints.every_n_steps", 2),
    *("--wandb.mode", "offline", "--wandb.project", "test"),
)
LONG = 1500


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("slurm"))
    host.env |= {"PYTHONPATH": str(ROOT), "CONFIG": TINY, "WANDB_MODE": "offline"}
    try:
        host.start()
        yield host
    finally:
        host.stop()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    fit(folder, *RUN)
    assert ("hours/goodput", STEPS) in points(folder)
    assert len(losses(folder)) == STEPS and set(range(STEPS)) <= {step for _, step in learned(folder)}
    return folder


def learned(run: Path) -> dict[tuple[str, int], float]:
    """The points of a run's W&B history, each of which is there once, but for what depends on the clock."""
    return {
        (name, step): value
        for (name, step), value in points(run).items()
        if name.split("/")[0] not in ("speed", "hours")
    }


class Job:
    """The script that users submit, on two nodes of this host."""

    def __init__(
        self, host: Host, folder: Path, *args: object, fault: str = "", nodes: int = 2, **options: object
    ) -> None:
        self.host, self.run, self.log = host, folder / "run", folder / "log.txt"
        given = {"nodes": nodes, "ntasks-per-node": 1, "cpus-per-task": 1, "gpus-per-node": 0, "time": 30, **options}
        sbatch = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
        faults = ["--trainer.callbacks+=tests.slurm.faults.Fault", *fault.split()] if fault else []
        everything = ["--trainer.default_root_dir", self.run, *RUN, *args, *faults]
        script = ROOT / "tools" / "slurm" / "train.sbatch"
        self.id = host.run(
            "sbatch", "--parsable", f"--output={self.log}", f"--chdir={ROOT}", *sbatch, script, *everything
        ).stdout.strip()

    def until(self, true: object, what: str) -> None:
        try:
            self.host._until(true, what, LONG)
        except TimeoutError as error:
            raise AssertionError(f"{error}\n{self.said()}") from error

    def until_step(self, step: int) -> None:
        """Waits until so many steps were logged."""
        self.until(lambda: (self.run / "metrics.csv").exists() and len(losses(self.run)) >= step, f"step {step}")

    def said(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def ends(self, state: str = "COMPLETED") -> None:
        found = self.host.wait(self.id, LONG)
        assert found == state, self.said()[-6000:]

    def is_like(self, undisturbed: Path, restarts: int) -> list[str]:
        """Losses of every step, W&B's points, the place in the data, and how the run came there: the events of its
        history.
        """
        np.testing.assert_allclose(losses(self.run), losses(undisturbed), rtol=2e-5)
        found, expected = learned(self.run), learned(undisturbed)
        assert found.keys() == expected.keys(), sorted(found.keys() ^ expected.keys())
        np.testing.assert_allclose(list(found.values()), [expected[point] for point in found], rtol=2e-5)
        assert {start.run_id for start in run_records(self.run)} == {(self.run / "wandb_id").read_text().strip()}
        last = newest(self.run)
        assert last is not None
        plain = read_plain(last)
        assert plain["global_step"] == STEPS and plain["FlowData"]["position"] == 8 * STEPS
        history = read_history(self.run)
        assert max(int(line["slurm"].get("restart_count", 0)) for line in history) == restarts
        assert int(self.host.job(self.id)["Restarts"]) == restarts, self.said()[-6000:]
        return [str(line["event"]) for line in history]


def slowly(kind: str = "none", seconds: float = 1.0) -> str:
    init = "--trainer.callbacks.init_args"
    return f"{init}.kind={kind} {init}.seconds={seconds}"


def test_two_nodes_to_the_end(host: Host, undisturbed: Path, tmp_path: Path) -> None:
    job = Job(host, tmp_path)
    job.ends()
    assert job.is_like(undisturbed, restarts=0) == ["start", "end"]
    assert "2 rank(s) x 1 micro-step(s)" in job.said()


def test_the_time_limit(host: Host, undisturbed: Path, tmp_path: Path) -> None:
    """SLURM sends SIGUSR1 before it; the run saves what no checkpoint was due for, and is started again."""
    job = Job(host, tmp_path, "--checkpoints.every_n_steps", 1000, fault=slowly(seconds=8), time=3, signal="USR1@100")
    job.ends()
    assert job.is_like(undisturbed, restarts=1) == ["start", "stop", "end", "continue", "end"]
    assert "SIGUSR1, as SLURM announces the end of the time limit" in job.said()
    assert 0 < read_history(job.run)[3]["step"] < STEPS


def test_a_job_of_higher_priority(host: Host, undisturbed: Path, tmp_path: Path) -> None:
    job = Job(host, tmp_path, "--checkpoints.every_n_steps", 1000, fault=slowly(seconds=2))
    job.until_step(2)
    (tmp_path / "urgent.sh").write_text("#!/bin/bash\nsleep 2\n")
    urgent = host.submit(
        tmp_path / "urgent.sh", "--partition=high", "--nodes=2", "--exclusive", f"--output={tmp_path}/u"
    )
    job.ends()
    assert host.wait(urgent, LONG) == "COMPLETED"
    assert job.is_like(undisturbed, restarts=1) == ["start", "stop", "end", "continue", "end"]


def test_a_node_that_is_lost(host: Host, undisturbed: Path, tmp_path: Path) -> None:
    """Its slurmd and all that it started are killed; the run goes on from its last checkpoint on other nodes."""
    job = Job(host, tmp_path, fault=slowly())
    job.until_step(5)
    host.kill_node("n1")
    time.sleep(2)
    host.start_node("n1")
    host.run("scontrol", "update", "nodename=n1", "state=resume", check=False)
    job.ends()
    events = job.is_like(undisturbed, restarts=1)
    assert events == ["start", "continue", "end"] and read_history(job.run)[1]["step"] >= 4


def test_another_number_of_nodes(host: Host, undisturbed: Path, tmp_path: Path) -> None:
    first = Job(host, tmp_path, fault=slowly(), nodes=2)
    first.until_step(3)
    (first.run / "STOP").touch()
    first.ends()
    history = read_history(first.run)
    assert history[-2]["reason"] == "file" and "a file STOP" in first.said() and not (first.run / "STOP").exists()
    second = Job(host, tmp_path, nodes=1)
    second.ends()
    events = second.is_like(undisturbed, restarts=0)
    assert events == ["start", "stop", "end", "continue", "end"]
    assert [line["nodes"] for line in read_history(second.run) if "nodes" in line] == [2, 1]


@pytest.mark.parametrize("kind", ["raise", "sleep"])
def test_a_rank_that_fails(kind: str, host: Host, undisturbed: Path, tmp_path: Path) -> None:
    """One that raises ends the job, and so does, after its time, one that sleeps for ever; both are started again."""
    job = Job(host, tmp_path, "--watchdog.step_timeout", 40, fault=slowly(kind, seconds=0))
    job.ends()
    assert job.is_like(undisturbed, restarts=1) == ["start", "continue", "end"]
    if kind == "raise":
        assert "a fault of this rank" in job.said()
    else:
        assert "rank 1 on" in job.said() and "is behind: step 3, forward" in job.said()
        assert "on_train_batch_start" in (job.run / "hang" / "rank-00001.txt").read_text()


def test_a_rank_that_breaks_after_the_end(host: Host, undisturbed: Path, tmp_path: Path) -> None:
    """The run is done, and not started again."""
    fault = f"{slowly('exit', seconds=0)} --trainer.callbacks.init_args.rank=0"
    job = Job(host, tmp_path, fault=fault)
    job.ends()
    assert job.is_like(undisturbed, restarts=0) == ["start", "end"]
    # SIGABRT's status, or SIGTERM's where the other task was still on its way out.
    assert re.search(r"srun ended with status 1(34|43) after the run was done", job.said()), job.said()


def test_what_contradicts_slurm_ends_the_job(host: Host, tmp_path: Path) -> None:
    """Before training, with one message of one process, and for good."""
    job = Job(host, tmp_path, "--trainer.devices", 2)
    job.ends("FAILED")
    assert job.said().count("trainer.devices is 2, but slurm started 1 process(es) on each node") == 1, job.said()
    assert host.job(job.id)["Restarts"] == "0" and not (job.run / "metrics.csv").exists()
