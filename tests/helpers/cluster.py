"""A SLURM cluster of two nodes that are both this machine, in one folder: real daemons, real accounting, loopback only.

Nothing outside the folder is touched. The daemons run in the foreground as children that the kernel ends with this
process, so that even a killed test session leaves none behind.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "slurmdbd", "munged", "mariadbd", "mariadb-install-db", "sbatch", "setpriv")
NODES = ("node1", "node2")
PATIENCE = 60.0  # seconds that a daemon may take to answer; only one that is broken uses them up

# Requeued jobs wait one second more than `cred_expire`, which is five at least (default: 120).
# KillWait: seconds from SIGTERM to SIGKILL. `low` is preempted by `main`, with seconds of grace.
_SLURM = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld
SlurmdLogFile={folder}/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={ports[3]}
AccountingStoragePass={folder}/munge/socket
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=2
MpiDefault=none
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=10
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] CPUs=4 State=UNKNOWN
PartitionName=main Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=10
PartitionName=low Nodes=node[1-2] MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
"""
_SLURMDBD = """\
AuthType=auth/munge
AuthInfo={folder}/munge/socket
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={ports[3]}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={ports[4]}
StorageUser=slurm
StoragePass=tests
StorageLoc=accounting
LogFile={folder}/log/slurmdbd
PidFile={folder}/slurmdbd.pid
CommunicationParameters=NoInAddrAny
"""
_GRANTS = """
create database accounting; create user slurm@'127.0.0.1' identified by 'tests'; create user slurm@localhost identified
by 'tests'; grant all on accounting.* to slurm@'127.0.0.1'; grant all on accounting.* to slurm@localhost;
"""


def missing() -> str | None:
    """Why there can be no cluster on this machine, or None."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"  # where Debian has the daemons; not in every user's path
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{absent[0]} is not installed: apt-get install slurm-wlm munge slurmdbd mariadb-server"
    return None if os.geteuid() == 0 else "a SLURM node needs root"


class Cluster:
    """A running cluster. Commands find it by `environment`.

    Args:
        folder: empty, without spaces in its path, which is short enough for a socket.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.config = folder / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.config)}

    def start(self) -> None:
        """Start everything and wait for both nodes."""
        for name in ("munge", "state", "log", "database", *(f"spool/{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        values = {"folder": self.folder, "host": socket.gethostname().split(".")[0], "ports": _free_ports(5)}
        self.config.write_text(_SLURM.format(**values))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n")
        accounting = self.folder / "slurmdbd.conf"
        accounting.write_text(_SLURMDBD.format(**values))
        accounting.chmod(0o600)
        self._start_munge()
        self._start_database(values["ports"][4])  # type: ignore[index]  # a list
        self._daemon("slurmdbd", "slurmdbd", "-D")
        self._until(lambda: self.works("sacctmgr", "-n", "show", "cluster"), "slurmdbd does not answer")
        self.command("sacctmgr", "-i", "add", "cluster", "tests")
        self._daemon("slurmctld", "slurmctld", "-D", "-i")
        for node in NODES:
            self.start_node(node)

    def stop(self) -> None:
        """End all jobs and daemons; raises AssertionError if one of them stays."""
        if self.works("scontrol", "ping"):
            self.works("scancel", "--user=root", "--signal=KILL", "--full")
            self.works("scancel", "--user=root")
            self._until(lambda: not self.command("squeue", "-h"), "jobs do not end", fail=False)
        for name in reversed(list(self.daemons)):
            self.daemons[name].terminate()
            try:
                self.daemons[name].wait(20)
            except subprocess.TimeoutExpired:
                self.daemons[name].kill()
                self.daemons[name].wait()
        self.daemons.clear()
        left = self.processes()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        assert not left, f"{len(left)} processes of the cluster were left and had to be killed"

    def start_node(self, node: str) -> None:
        """Start the daemon of a node and wait until it takes jobs."""
        self._daemon(node, "slurmd", "-D", "-N", node)
        self._until(lambda: self.command("sinfo", "-h", "-n", node, "-p", "main", "-o", "%t") == "idle", f"no {node}")

    def fail_node(self, node: str) -> None:
        """Take the power from a node: its processes are gone, and the controller learns that it is down."""
        tasks = self.processes(f"SLURMD_NODENAME={node}")
        for pid in [self.daemons[node].pid, *tasks]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemons.pop(node).wait()
        self.command("scontrol", "update", f"nodename={node}", "state=down", "reason=power")

    def processes(self, *marks: str) -> list[int]:
        """Process ids of what runs in this cluster, except its daemons.

        Args:
            marks: only those that have these, `KEY=VALUE`, in their environment, and the slurmstepd above them.
        """
        wanted = {f"SLURM_CONF={self.config}", *marks}
        own = {os.getpid(), *(daemon.pid for daemon in self.daemons.values())}
        found: set[int] = set()
        steps: set[int] = set()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if wanted <= set((entry / "environ").read_bytes().decode(errors="replace").split("\0")):
                    found.add(int(entry.name))
                if (entry / "cmdline").read_bytes().startswith(b"slurmstepd"):
                    steps.add(int(entry.name))
            except OSError:  # it has just ended
                continue
        for pid in list(found):
            with contextlib.suppress(OSError):
                above = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
                found |= {above} & steps
        return sorted(found - own)

    def command(self, *arguments: str, timeout: float = PATIENCE) -> str:
        """What a command prints. Raises CalledProcessError if it fails."""
        done = subprocess.run(
            arguments, env=self.environment, capture_output=True, text=True, timeout=timeout, check=True
        )
        return done.stdout.strip()

    def works(self, *arguments: str) -> bool:
        done = subprocess.run(arguments, env=self.environment, capture_output=True, timeout=PATIENCE)
        return done.returncode == 0

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / "log" / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", program, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for pytest, which then stops them in order
            )

    def _start_munge(self) -> None:
        place = self.folder / "munge"
        key = place / "key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        files = {"key-file": key, "socket": place / "socket", "pid-file": place / "pid", "seed-file": place / "seed"}
        files["log-file"] = self.folder / "log" / "munged"
        options = [f"--{option}={path}" for option, path in files.items()]
        self._daemon("munged", "munged", "--foreground", "--force", "--num-threads=2", *options)
        self._until((place / "socket").is_socket, "munged does not start")

    def _start_database(self, port: int) -> None:
        data, door = self.folder / "database", self.folder / "mariadb.socket"
        own = ["--no-defaults", "--user=root", f"--datadir={data}"]
        self.command("mariadb-install-db", *own, "--skip-test-db", "--auth-root-authentication-method=normal")
        small = ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0", f"--pid-file={door}.pid"]
        self._daemon(
            "mariadbd", "mariadbd", *own, f"--socket={door}", "--bind-address=127.0.0.1", f"--port={port}", *small
        )
        client = ("mariadb", "--no-defaults", f"--socket={door}", "--user=root", "--execute")
        self._until(lambda: self.works(*client, "select 1"), "mariadbd does not answer")
        self.command(*client, _GRANTS)

    def _until(self, ready: Callable[[], bool], complaint: str, fail: bool = True) -> None:
        end = time.monotonic() + PATIENCE
        while not ready():
            if time.monotonic() > end:
                logs = [f"{path.name}: {path.read_text(errors='replace')[-500:]}" for path in self.folder.glob("log/*")]
                assert not fail, "\n".join([complaint, *logs])
                return
            time.sleep(0.05)


def _free_ports(count: int) -> list[int]:
    """Ports of the loopback device that nobody has; the second and third are neighbours."""
    while True:
        doors = [socket.socket() for _ in range(count)]
        try:
            for i, door in enumerate(doors):
                door.bind(("127.0.0.1", doors[1].getsockname()[1] + 1 if i == 2 else 0))
            return [door.getsockname()[1] for door in doors]
        except (OSError, OverflowError):
            continue
        finally:
            for door in doors:
                door.close()
