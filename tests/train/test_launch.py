"""Who started the processes, and what contradicts it."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmflow.__main__ import main
from mmflow.train.history import read_history
from mmflow.train.launch import Launch, check_rendezvous, detect, settle
from tests.processes import free_port
from tests.train.runs import ROOT, command, fit, losses

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "16", "LOCAL_WORLD_SIZE": "8", "RANK": "3", "LOCAL_RANK": "3"}
SLURM = {
    "SLURM_PROCID": "0",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train",
    "SLURM_NNODES": "2",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NODELIST": "n[0-1]",
}


def test_the_launcher_by_what_it_leaves_in_the_environment() -> None:
    assert detect({}) == Launch("alone")
    assert detect(TORCHRUN) == Launch("torchrun", 2, 8)
    assert detect(SLURM) == Launch("slurm", 2, 4)
    assert detect(SLURM | TORCHRUN) == Launch("torchrun", 2, 8), "torchrun within a job"
    assert detect(SLURM | {"SLURM_JOB_NAME": "bash"}) == Launch("alone"), "a shell in a job"
    assert detect({k: v for k, v in SLURM.items() if k != "SLURM_STEP_ID"}) == Launch("alone"), "sbatch's own script"
    assert detect(SLURM | {"SLURM_STEP_NUM_TASKS": "7"}) == Launch("slurm", 2, None)


def test_what_is_left_open_is_the_launcher_s() -> None:
    assert settle(Launch("alone"), "auto", 1) == ("auto", 1) and settle(Launch("alone"), 2, 1) == (2, 1)
    for devices in ("auto", -1, 8, "8"):
        for nodes in (1, 2):
            assert settle(Launch("slurm", 2, 8), devices, nodes) == (8, 2)


@pytest.mark.parametrize(
    ("launch", "devices", "nodes", "words"),
    [
        (Launch("slurm", 2, 8), 4, 2, r"trainer\.devices is 4, but slurm started 8 process\(es\) on each node"),
        (Launch("torchrun", 2, 8), "auto", 3, r"trainer\.num_nodes is 3, but torchrun started this on 2 node\(s\)"),
        (Launch("slurm", 2, None), "auto", 1, "use --ntasks-per-node"),
    ],
)
def test_contradictions(launch: Launch, devices: int | str, nodes: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settle(launch, devices, nodes)


def test_the_first_node_must_be_known_and_its_port_free() -> None:
    launch = Launch("slurm", 2, 1)
    with pytest.raises(ValueError, match=r"the first node's name, n0, is unknown to .*export MASTER_ADDR"):
        check_rendezvous(launch, SLURM)
    with pytest.raises(ValueError, match="MASTER_ADDR is not set: start with torchrun"):
        check_rendezvous(Launch("torchrun", 2, 8), TORCHRUN)
    check_rendezvous(launch, SLURM | {"MASTER_ADDR": "127.0.0.1"})
    check_rendezvous(Launch("slurm", 1, 1), SLURM)
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        env = TORCHRUN | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "RANK": "0"}
        with pytest.raises(ValueError, match=rf"port {port} of .* cannot be used .*export MASTER_PORT"):
            check_rendezvous(Launch("torchrun", 2, 8), env)
        check_rendezvous(Launch("torchrun", 2, 8), env | {"RANK": "1"})
        check_rendezvous(Launch("torchrun", 2, 8), env | {"TORCHELASTIC_USE_AGENT_STORE": "True"})


@pytest.mark.slow
def test_torchrun_on_two_nodes(tmp_path: Path) -> None:
    """Two of its agents on this host, a process each, give the losses of one process."""
    few = ("--trainer.max_steps", 3)
    rendezvous = ("--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "test")
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1", *rendezvous)
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    given = (*torchrun, "--local-addr", "127.0.0.1", "-m", "mmflow", *command(tmp_path / "run", *few))
    agents = [
        subprocess.Popen(given, env=env, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=1200)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], "\n".join(said)
    assert read_history(tmp_path / "run")[0]["processes"] == read_history(tmp_path / "run")[0]["nodes"] == 2
    fit(tmp_path / "one", *few)
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(tmp_path / "one"), rtol=2e-5)


def test_a_process_that_was_told_to_end_has_nothing_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first has ended while this one, slower, was still at its configuration and only noted the signal."""

    def slower(given: list[str]) -> list[str]:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ValueError("what the first has said")

    monkeypatch.setattr("mmflow.cli.expand_run", slower)
    monkeypatch.setattr("mmflow.train.preemption.RECEIVED", set())  # what it notes is nobody else's
    for rank, said in (("0", 1), ("1", 0)):
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit) as end:
            main(["fit"])
        assert end.value.code == 1
        assert capsys.readouterr().err.count("what the first has said") == said


@pytest.mark.slow
def test_one_process_says_what_is_wrong(tmp_path: Path) -> None:
    """Two have the same to say; the end of the first ends the other before it does."""
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    given = (*torchrun, "-m", "mmflow", *command(tmp_path / "run", "--trainer.devices", 3))
    done = subprocess.run(given, env=env, cwd=ROOT, capture_output=True, text=True, timeout=1200)
    assert done.returncode != 0
    assert done.stderr.count("trainer.devices is 3, but torchrun started 2 process(es)") == 1, done.stderr
    assert not (tmp_path / "run").exists()
