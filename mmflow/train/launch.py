"""What starts a run's processes: SLURM's srun, torchrun, or Lightning itself; one configuration serves all three."""

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Launch:
    """Processes as their launcher has laid them out.

    Attributes:
        by: the launcher; `alone` if Lightning starts the other processes of one machine.
        nodes: machines; None if unknown.
        per_node: processes on each; None if unknown.
    """

    by: Literal["slurm", "torchrun", "alone"]
    nodes: int | None = None
    per_node: int | None = None


def detect(env: Mapping[str, str] = os.environ) -> Launch:
    """The launcher of this process."""
    if "TORCHELASTIC_RUN_ID" in env:
        per_node = int(env["LOCAL_WORLD_SIZE"])
        return Launch("torchrun", int(env["WORLD_SIZE"]) // per_node, per_node)
    # What runs in a job without srun (a shell, sbatch's own script) starts its processes itself.
    if "SLURM_PROCID" in env and "SLURM_STEP_ID" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        nodes = int(env.get("SLURM_STEP_NUM_NODES") or env.get("SLURM_NNODES") or 1)
        tasks = int(env.get("SLURM_STEP_NUM_TASKS") or env.get("SLURM_NTASKS") or nodes)
        return Launch("slurm", nodes, tasks // nodes if tasks % nodes == 0 else None)
    return Launch("alone")


def settle(launch: Launch, devices: int | str, num_nodes: int) -> tuple[int | str, int]:
    """`trainer.devices` and `trainer.num_nodes`: the launcher's where they are left open.

    Raises:
        ValueError: if they contradict the launcher's.
    """
    if launch.by == "alone":
        return devices, num_nodes
    if launch.per_node is None or launch.nodes is None:
        raise ValueError(
            f"{launch.by} started different numbers of processes on the nodes: use --ntasks-per-node to have the same"
        )
    if num_nodes not in (1, launch.nodes):
        raise ValueError(
            f"trainer.num_nodes is {num_nodes}, but {launch.by} started this on {launch.nodes} node(s): leave it out, "
            f"or set it to {launch.nodes}"
        )
    if devices not in ("auto", -1, "-1", launch.per_node, str(launch.per_node)):
        raise ValueError(
            f"trainer.devices is {devices}, but {launch.by} started {launch.per_node} process(es) on each node: leave "
            f"it out, or set it to {launch.per_node}"
        )
    return launch.per_node, launch.nodes


def check_rendezvous(launch: Launch, env: Mapping[str, str] = os.environ) -> None:
    """Looks, before anything waits for it, whether the processes can find each other.

    Raises:
        ValueError: if the first node's name means nothing here, or its port is taken.
    """
    if launch.by == "alone" or (launch.nodes or 1) * (launch.per_node or 1) == 1:
        return
    address = env.get("MASTER_ADDR")
    if address is None and launch.by == "torchrun":
        raise ValueError("MASTER_ADDR is not set: start with torchrun, or export the name of the first node")
    if address is None:
        from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

        address = SLURMEnvironment.resolve_root_node_address(env.get("SLURM_NODELIST", "127.0.0.1"))
    try:
        socket.getaddrinfo(address, None)
    except OSError as error:
        raise ValueError(
            f"the first node's name, {address}, is unknown to {socket.gethostname()} ({error.strerror}): "
            "export MASTER_ADDR=<a name or address that all nodes know>"
        ) from error
    rank = env.get("RANK") or env.get("SLURM_PROCID") or "0"
    port = env.get("MASTER_PORT")
    # Torchrun's own agent holds the port.
    if port is None or rank != "0" or env.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        return
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", int(port)))
        except OSError as error:
            raise ValueError(
                f"port {port} of {socket.gethostname()} cannot be used ({error.strerror}): export MASTER_PORT=<another>"
            ) from error
