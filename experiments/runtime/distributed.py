"""The processes of a training or an evaluation: joins those that a launcher has made, or starts them.

`torchrun` and `srun` (the submitit launcher of Hydra too) start every process themselves. Otherwise this process is
rank 0 and starts the others on this machine, each by `experiments.worker` as a plain run of the config that rank 0 has
composed: in a sweep every job has ranks of its own, and all of them do the same.
"""

import atexit
import logging
import os
import re
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from lightning_utilities.core.rank_zero import rank_zero_only
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from datamodules.distributed import barrier, broadcast, use
from datamodules.errors import Interrupted
from experiments.runtime.child_processes import PORT, LostRank, RankProcesses
from experiments.runtime.launchers import count_devices, launched, left_over, place

if TYPE_CHECKING:  # Lightning takes its time, and is of no use to a task that trains and measures nothing
    from lightning_modules.restoration import RestorationModule
    from lightning_modules.strategy import LaunchedEnvironment

log = logging.getLogger(__name__)

# Longer than anything one process may do while the others wait for its word, such as downloading or decoding.
_PATIENCE = timedelta(days=2)


@dataclass
class _Job:
    """What `start` leaves behind for the other functions."""

    here: "LaunchedEnvironment"
    devices: list[int] | int  # of this machine that the processes have, for Lightning
    nodes: int
    children: RankProcesses | None = None  # that this process has started
    log_file: logging.FileHandler | None = None  # of this rank


_jobs: list[_Job] = []  # the one at work, if any


def start(cfg: DictConfig) -> torch.device:
    """Join the other processes, or start them (`trainer.devices`); returns this one's device.

    Under a launcher the config of rank 0 becomes that of all. Call it in `together`, which ends what begins here.
    """
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    # A hint for those who let Lightning look for SLURM; here processes are found or started before.
    warnings.filterwarnings("ignore", r"The `srun` command is available")
    outside = launched()
    wanted = cfg.trainer.get("devices", 1)
    per_node, nodes = outside or (count_devices(cfg.trainer.accelerator, wanted), 1)
    world = per_node * nodes
    listed = isinstance(wanted, ListConfig) and len(wanted) == per_node
    job = _Job(_place(per_node, world), list(wanted) if listed else per_node, nodes)
    _jobs.append(job)
    store = None
    if world > 1 and not outside:
        port = int(os.environ.get(PORT, 0))
        first = port == 0
        store = dist.TCPStore("127.0.0.1", port, world, is_master=first, wait_for_workers=not first, timeout=_PATIENCE)
        job.children = RankProcesses(cfg, world, store.port) if first else None
    fabric = Fabric(
        accelerator=cfg.trainer.accelerator,
        devices=job.devices,
        num_nodes=nodes,
        strategy=DDPStrategy() if world > 1 else "auto",
        plugins=[job.here],
    )
    if world > 1:
        _meet(job.here, fabric.device, store)
        if outside:
            _take_over(cfg)
        if job.here.rank > 0:
            _be_quiet()
    fabric.launch()
    return fabric.device


def _place(per_node: int, world: int) -> "LaunchedEnvironment":
    """Which of the processes this one is, by what its launcher, or rank 0, tells it."""
    from lightning_modules.strategy import LaunchedEnvironment

    rank, local = place()
    return LaunchedEnvironment(rank=rank, local=local, node=rank // per_node, world=world)


def _meet(here: "LaunchedEnvironment", device: torch.device, store: dist.Store | None) -> None:
    """Form the group of all processes; one that a launcher has made stays in its group from job to job."""
    if dist.is_initialized():
        return
    options: dict[str, Any] = {"backend": "nccl", "device_id": device} if device.type == "cuda" else {"backend": "gloo"}
    options |= {"rank": here.rank, "world_size": here.world, "timeout": timedelta(minutes=30)}
    if store is not None:
        dist.init_process_group(store=store, **options)
    else:
        atexit.register(_destroy)
        dist.init_process_group(init_method=_address(), **options)
    use(dist.new_group(backend="gloo", timeout=_PATIENCE))
    # What is logged once an epoch is the same on all of them already.
    warnings.filterwarnings("ignore", r"It is recommended to use `self\.log\(")


@contextmanager
def group_of_one(device: torch.device) -> Iterator["LaunchedEnvironment"]:
    """A group of this process only, to measure what a group costs."""
    from lightning_modules.strategy import LaunchedEnvironment

    here = LaunchedEnvironment(world=1)
    _meet(here, device, dist.TCPStore("127.0.0.1", 0, 1, is_master=True, wait_for_workers=False))
    try:
        yield here
    finally:
        _destroy()


def _address() -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "env://"
    from lightning_fabric.plugins.environments import SLURMEnvironment

    # As Lightning has it: MASTER_ADDR and MASTER_PORT, or the first node and a port by the number of the job.
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_NODELIST", "127.0.0.1")
    host = os.environ.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
    port = os.environ.get("MASTER_PORT") or 15000 + int(os.environ.get("SLURM_JOB_ID", 0)) % 10000
    return f"tcp://{host}:{port}"


def _take_over(cfg: DictConfig) -> None:
    """Make the config of rank 0 that of all: samplers of a sweep may have drawn others."""
    of_first: Any = broadcast(OmegaConf.to_container(cfg))
    with open_dict(cfg):
        for key, value in of_first.items():
            cfg[key] = value


def _be_quiet() -> None:
    """Rank 0 speaks for all; what this one has to say goes to its file."""
    logging.captureWarnings(True)
    for handler in logging.getLogger().handlers:
        handler.setLevel(logging.ERROR)


def for_lightning(trainer: DictConfig, module: "RestorationModule") -> dict[str, Any]:
    """The arguments of Lightning's Trainer that say which processes there are, and how they train together."""
    from lightning_modules.strategy import DDP
    from lightning_modules.sync_batchnorm import SyncBatchNorm

    job = _jobs[-1]
    arguments: dict[str, Any] = {"plugins": [job.here], "devices": job.devices, "num_nodes": job.nodes}
    if job.here.world > 1 and trainer.get("sync_batchnorm", False):
        arguments["plugins"].append(SyncBatchNorm())
    if job.here.world > 1 and str(trainer.get("strategy", "auto")).startswith(("auto", "ddp")):
        arguments["strategy"] = DDP(find_unused_parameters=module.leaves_parameters_out)
    return {**arguments, "sync_batchnorm": False}


def batch_line(cfg: DictConfig) -> str:
    """What the log says about the batch of all processes and the learning rate."""
    world, size, several = _jobs[-1].here.world, cfg.data.batch_size, cfg.trainer.accumulate_grad_batches
    factors = [f"data.batch_size={size}"]
    factors += [f"{world} processes"] if world > 1 else []
    factors += [f"trainer.accumulate_grad_batches={several}"] if several > 1 else []
    text = f"effective batch {size * world * several}" + (f" ({' x '.join(factors)})" if len(factors) > 1 else "")
    text += f", learning rate {cfg.optimizer.lr:g}" if "lr" in cfg.optimizer else ""
    if world > 1:
        text += "; the recipe is one for a single process, and nothing is rescaled"
        text += f": data.batch_size={size // world} keeps its batch" if size % world == 0 else ""
    return text


def log_into(folder: Path) -> None:
    """From here on, write what this process logs into a file of its own, `logs/rankN.log` in the folder of the run."""
    job = _jobs[-1]
    if job.here.world == 1:
        return
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    job.log_file = logging.FileHandler(folder / "logs" / f"rank{job.here.rank}.log")
    job.log_file.handleError = lambda _: None  # type: ignore[assignment]  # a full disk: rank 0 tells
    job.log_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(job.log_file)


def leaving() -> None:
    """All that takes several processes is done; from here on it is no fault if the others end first."""
    if _jobs and (children := _jobs[-1].children):
        children.leaving.set()


@contextmanager
def together() -> Iterator[None]:
    """Around a task: ends the processes that it has started, however it ends.

    Raises:
        LostRank: instead of what the block raised, if that was because another process is gone.
    """
    # Lightning would take it from whatever variables there are; where it keeps it.
    rank_zero_only.rank, _ = place()  # type: ignore[attr-defined]
    if note := left_over():
        log.warning("%s", note)
    try:
        yield
    except BaseException as error:
        lost = _end(error)
        if lost is not None:
            raise lost from error
        raise
    lost = _end(None)
    if lost is not None:
        raise lost


def _end(error: BaseException | None) -> LostRank | None:
    if not _jobs:
        return None
    job = _jobs.pop()
    lost = _leave(job, error) if job.here.world > 1 else None
    if job.log_file is not None:
        if said := lost or error:
            known = isinstance(said, LostRank | Interrupted)
            text = str(said) if known else "".join(traceback.format_exception(said))
            job.log_file.handle(logging.makeLogRecord({"levelname": "ERROR", "msg": text}))
        logging.getLogger().removeHandler(job.log_file)
        with suppress(OSError):
            job.log_file.close()
    return lost


def _leave(job: _Job, error: BaseException | None) -> LostRank | None:
    """Leave the other processes, and end those that this one has started; what is wrong if one of them is to blame."""
    if error is None:
        try:
            barrier()
        except RuntimeError as gone:
            error = gone
    lost = None
    if isinstance(error, dist.DistError) or _lost_by_its_text(error):
        lost = LostRank(
            f"rank {job.here.rank} has lost another process of the job, which says why, or was killed: "
            "the same command with resume=auto continues at the last checkpoint"
        )
    if launched() is None:
        _destroy(abort=error is not None)
    if job.children is not None:
        patience = 60.0 if error is None else 10.0 if lost or isinstance(error, Interrupted) else 0.0
        blamed = job.children.end(patience)
        if error is None or lost:
            lost = blamed or lost
    return lost


def _lost_by_its_text(error: BaseException | None) -> bool:
    """Whether another process is gone, of errors of gloo and of DDP: they are plain `RuntimeError`s."""
    said = r"connection (closed|reset|refused)|broken pipe|timed out|socket|nccl|gloo"
    return isinstance(error, RuntimeError) and re.search(said, str(error), re.IGNORECASE) is not None


def _destroy(abort: bool = False) -> None:
    """Leave the group; without it a process may abort at its exit.

    Args:
        abort: do not wait for what is under way on the GPU: another process may be missing.
    """
    if dist.is_initialized():
        use(None)
        if abort and dist.get_backend() == "nccl":
            dist.distributed_c10d._abort_process_group()
        else:
            dist.destroy_process_group()
