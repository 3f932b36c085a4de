"""A Slurm cluster of one node, this machine: as root, without munge, on ports of its own, in a folder of its own.

Jobs in its partition `urgent` preempt those in `test`, which are given five seconds of grace."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = ("slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONFIG = """
ClusterName=latentmix
SlurmctldHost={host}(127.0.0.1)
NodeName={host} NodeAddr=127.0.0.1 Port={node} CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=5
PartitionName=urgent Nodes={host} MaxTime=INFINITE State=UP PriorityTier=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=5
MailProg=/bin/true
"""


def missing() -> str:
    """Why there can be no cluster here; empty where there can."""
    absent = [command for command in COMMANDS if shutil.which(command) is None]
    if absent:
        return f"{', '.join(absent)} not found; make test-slurm installs Debian's slurm-wlm"
    return "" if os.getuid() == 0 else "a cluster without munge needs root"


@contextmanager
def cluster(folder: Path, cpus: int) -> Iterator[dict[str, str]]:
    """The environment in which Slurm's commands find it."""
    for name in ("state", "spool"):
        (folder / name).mkdir(parents=True)
    host = socket.gethostname().partition(".")[0]
    ports = {"controller": _free_port(), "node": _free_port()}
    path = folder / "slurm.conf"
    path.write_text(CONFIG.format(folder=folder, host=host, cpus=cpus, **ports))
    (folder / "cgroup.conf").write_text(f"CgroupPlugin={_no_cgroups()}\n")  # looked for beside it
    environment = os.environ | {"SLURM_CONF": str(path)}
    with contextlib.ExitStack() as stack:
        for command in (["slurmctld", "-D"], ["slurmd", "-D", "-N", host]):
            stack.enter_context(_daemon(command, environment, folder))
        _wait_for_the_node(environment, folder)
        yield environment


def _no_cgroups() -> str:
    """What keeps slurmd from cgroups, which a container need not have, and none of these plugins needs."""
    version = subprocess.run(["slurmd", "-V"], capture_output=True, text=True, timeout=60, check=True).stdout
    return "disabled" if int(version.split()[-1].partition(".")[0]) >= 23 else "cgroup/v1"


@contextmanager
def _daemon(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / f"{command[0]}.out").open("wb") as said:
        process = subprocess.Popen(command, env=environment, stdout=said, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for_the_node(environment: dict[str, str], folder: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        done = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True, timeout=60)
        if done.stdout.strip() in ("idle", "mixed", "allocated"):
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text(errors="replace")[-3000:] for path in folder.glob("slurm*.log"))
    raise RuntimeError(f"the cluster did not come up: {done.stdout} {done.stderr}\n{logs}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
