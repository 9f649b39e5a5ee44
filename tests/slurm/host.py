"""A whole SLURM on this host, without cgroups and without systemd: one slurmctld, two slurmd, their own munged."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "munged", "sbatch", "srun", "scontrol", "squeue")
# cred_expire is also how long a job that was put back waits; below 5 SLURM takes its default, two minutes.
# SlurmdTimeout: on a busy machine a node may be silent for ten seconds without being dead.
CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=15
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait=5
MinJobAge=300
SlurmdTimeout=60
OverTimeLimit=0
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.%n.pid
SlurmdSpoolDir={root}/spool.%n
StateSaveLocation={root}/state
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.%n.log
NodeName=n0 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=2000 State=UNKNOWN
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=high Nodes=ALL PriorityTier=10 State=UP PreemptMode=OFF
"""


def missing() -> list[str]:
    """What of SLURM is not installed here."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    return [program for program in PROGRAMS if shutil.which(program, path=path) is None]


def free_ports(num: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(num)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Host:
    """The scheduler, and what one says to it.

    Args:
        root: a folder for all that it keeps.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.env = {
            **os.environ,
            "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
            "SLURM_CONF": str(root / "slurm.conf"),
            "MASTER_ADDR": "127.0.0.1",  # both nodes are this host, and their names mean nothing to it
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts everything and waits until both nodes are idle."""
        for name in ("state", "spool.n0", "spool.n1"):
            (self.root / name).mkdir(parents=True)
        (self.root / "slurm.conf").write_text(CONFIG.format(root=self.root, ports=free_ports(3)))
        (self.root / "key").write_bytes(os.urandom(1024))
        (self.root / "key").chmod(0o400)
        places = [f"--{what}={self.root / f'munge.{what}'}" for what in ("socket", "log-file", "pid-file", "seed-file")]
        self._daemon("munged", "--foreground", "--force", f"--key-file={self.root / 'key'}", *places)
        self._until(lambda: (self.root / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D")
        for node in ("n0", "n1"):
            self.start_node(node)
        self._until(lambda: self.says("sinfo", "-h", "-N", "-o", "%T").split().count("idle") >= 2, "idle nodes")

    def start_node(self, node: str) -> None:
        """Starts a node's slurmd."""
        self._daemon(f"slurmd.{node}", "-D", "-N", node)

    def kill_node(self, node: str) -> None:
        """The node's power fails: its slurmd and everything that it started are gone."""
        slurmd = self.daemons.pop(f"slurmd.{node}")
        slurmd.kill()
        slurmd.wait()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    environment = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                ours = f"SLURM_CONF={self.root / 'slurm.conf'}".encode() in environment
                if ours and f"SLURMD_NODENAME={node}".encode() in environment:
                    os.kill(int(entry.name), 9)

    def stop(self) -> None:
        """Ends everything."""
        self.run("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        for daemon in reversed(list(self.daemons.values())):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *command: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A SLURM command."""
        given = [str(part) for part in command]
        return subprocess.run(given, env=self.env, capture_output=True, text=True, check=check, timeout=60)

    def says(self, *command: object) -> str:
        """What a command prints; nothing if it fails."""
        return self.run(*command, check=False).stdout.strip()

    def submit(self, script: Path, *options: object) -> str:
        """A job's id."""
        return self.run("sbatch", "--parsable", *options, script).stdout.strip()

    def job(self, job: str) -> dict[str, str]:
        """What SLURM knows of a job."""
        pairs = [part.split("=", 1) for part in self.says("scontrol", "-o", "show", "job", job).split() if "=" in part]
        return {name: value for name, value in pairs}

    def wait(self, job: str, timeout: float) -> str:
        """The job's last state."""
        over = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED", "OUT_OF_MEMORY"}
        self._until(lambda: self.job(job).get("JobState") in over, f"the end of job {job}", timeout)
        return self.job(job)["JobState"]

    def _daemon(self, name: str, *arguments: str) -> None:
        log = (self.root / f"{name}.out").open("ab")
        self.daemons[name] = subprocess.Popen([name.split(".")[0], *arguments], env=self.env, stdout=log, stderr=log)

    def _until(self, true: object, what: str, timeout: float = 60) -> None:
        end = time.monotonic() + timeout
        while not true():  # type: ignore[operator]
            if time.monotonic() > end:
                log = self.root / "slurmctld.log"
                said = log.read_text()[-2000:] if log.exists() else ""
                raise TimeoutError(f"no {what} within {timeout} s\n{said}")
            time.sleep(0.3)
