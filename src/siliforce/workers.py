"""Workers for a folder of jobs: processes of this machine, or pilot jobs of a cluster.

Workers share nothing but the job folder (`siliforce.jobs`), so where they run makes no difference
to the work. On a cluster they are started through Parsl (an optional dependency), and the folder
must lie on a file system that all nodes see and that supports file locks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from siliforce.errors import ConfigError, SiliforceError
from siliforce.jobs import Progress

LOOK_EVERY_SECONDS = 2.0
RESTARTS_PER_WORKER = 3
GRACE_SECONDS = 60.0
"""For a worker to save and leave once the process that started it is gone."""


class WorkersLost(SiliforceError):
    """Workers died again and again; what they had finished is kept."""


class Cluster(BaseModel):
    """Pilot jobs that hold workers; see Parsl's providers for what the words mean.

    Attributes:
        provider: the scheduler; `local` starts the same pilot jobs on this machine.
        blocks: pilot jobs at once.
        workers_per_block: workers in each, on one node.
        walltime: of a pilot job; a new one follows while work is left.
        scheduler_options: lines for the head of the job script.
        worker_init: shell lines before the workers start (load modules, activate an environment
            that has Parsl and siliforce); without it, workers use the environment of the caller.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    provider: Literal["slurm", "pbs", "local"]
    blocks: int = Field(default=1, ge=1)
    workers_per_block: int = Field(default=1, ge=1)
    walltime: str = Field(default="12:00:00", pattern=r"^\d+:\d\d:\d\d$")
    partition: str | None = None
    account: str | None = None
    scheduler_options: str = ""
    worker_init: str = ""

    @property
    def workers(self) -> int:
        """Workers in all pilot jobs together."""
        return self.blocks * self.workers_per_block


def load_cluster(path: str | Path) -> Cluster:
    """Cluster from its YAML file.

    Raises:
        ConfigError: no such file, or a setting that does not exist.
    """
    try:
        return Cluster(**yaml.safe_load(Path(path).read_text()))
    except FileNotFoundError as error:
        raise ConfigError(f"no cluster file '{path}'") from error
    except (ValidationError, TypeError, yaml.YAMLError) as error:
        raise ConfigError(f"cluster file '{path}': {error}") from error


def run_workers(
    work: Callable[..., object],
    workers: int,
    progress: Callable[[], Progress],
    on_progress: Callable[[Progress], None],
    cluster: Cluster | None = None,
    scratch: Path | None = None,
) -> None:
    """Work with so many workers until no job is left; a worker that dies is started anew.

    One worker without a cluster works in this process.

    Args:
        work: takes jobs until none is left; picklable; in this process called with `on_progress`.
        workers: local processes; a cluster has its own number.
        progress: where the jobs stand.
        on_progress: told whenever that has changed.
        scratch: folder for Parsl's own logs.

    Raises:
        WorkersLost: a few deaths per worker without a job finished in between.
        Exception: whatever `work` raised first, after all workers have ended.
    """
    if cluster is None and workers == 1:
        work(on_progress)
        return
    workers = workers if cluster is None else cluster.workers
    restarts = RESTARTS_PER_WORKER * workers
    failure: BaseException | None = None
    seen: Progress | None = None
    with _starter(cluster, scratch) as start:
        running = {start(i, work): i for i in range(workers)}
        while running:
            finished, _ = wait(running, LOOK_EVERY_SECONDS, FIRST_COMPLETED)
            now = progress()
            finished_more = seen is None or (now.done, now.failed) != (seen.done, seen.failed)
            if finished_more:
                restarts = RESTARTS_PER_WORKER * workers
            if seen is None or finished_more or now.note != seen.note:
                on_progress(now)
                seen = now
            for future in finished:
                index, error = running.pop(future), future.exception()
                if error is not None and _is_loss(error) and restarts > 0:
                    restarts -= 1
                    running[start(index, work)] = index
                elif error is not None and failure is None:
                    failure = _lost(error) if _is_loss(error) else error
    if failure is not None:
        raise failure


Start = Callable[[int, Callable[..., object]], "Future[object]"]


@contextmanager
def _starter(cluster: Cluster | None, scratch: Path | None) -> Iterator[Start]:
    """Function that starts a worker. Here each has an executor of its own: one may break alone."""
    if cluster is not None:
        with _parsl_executor(cluster, scratch or Path("parsl")) as executor:
            yield lambda index, work: executor.submit(work)
        return
    with ExitStack() as stack:
        own: dict[int, Executor] = {}

        def start(index: int, work: Callable[..., object]) -> Future[object]:
            if index in own:
                own[index].shutdown(wait=False)
            pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=_end_with_parent)
            own[index] = stack.enter_context(pool)
            return own[index].submit(work)

        yield start


def _end_with_parent() -> None:
    """Let this worker stop when the process that started it has died, however it died."""

    def watch() -> None:
        parent = parent_process()
        assert parent is not None
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _lost(error: BaseException) -> WorkersLost:
    return WorkersLost(
        f"workers died {RESTARTS_PER_WORKER} times each with no job finished in between ({error}); "
        "what was finished is kept. Look for a lack of memory, then start again"
    )


def _is_loss(error: BaseException) -> bool:
    """Whether a worker died, as against its work having failed."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ in (
        "WorkerLost",
        "ManagerLost",
    )


def _parsl_executor(cluster: Cluster, scratch: Path) -> Any:
    """Parsl's executor for a cluster.

    Raises:
        ConfigError: Parsl is not installed.
    """
    try:
        from parsl import Config
        from parsl.concurrent import ParslPoolExecutor
        from parsl.executors import HighThroughputExecutor
        from parsl.executors.high_throughput.executor import DEFAULT_LAUNCH_CMD
        from parsl.providers import LocalProvider, PBSProProvider, SlurmProvider
        from parsl.providers.base import ExecutionProvider
    except ImportError as error:
        raise ConfigError(
            f"workers on a cluster need Parsl ({error}); install it: pip install siliforce[cluster]"
        ) from error
    common: dict[str, Any] = {
        "init_blocks": cluster.blocks,
        "min_blocks": cluster.blocks,
        "max_blocks": cluster.blocks,
        "worker_init": cluster.worker_init,
    }
    scheduled: dict[str, Any] = {
        "walltime": cluster.walltime,
        "account": cluster.account,
        "scheduler_options": cluster.scheduler_options,
    }
    provider: ExecutionProvider
    if cluster.provider == "slurm":
        provider = SlurmProvider(**common, **scheduled, partition=cluster.partition)
    elif cluster.provider == "pbs":
        provider = PBSProProvider(**common, **scheduled, queue=cluster.partition)
    else:
        provider = LocalProvider(**common)
    here = Path(sys.executable).parent
    executor = HighThroughputExecutor(
        launch_cmd=DEFAULT_LAUNCH_CMD if cluster.worker_init else f"{here}/{DEFAULT_LAUNCH_CMD}",
        interchange_launch_cmd=[str(here / "interchange.py")],
        provider=provider,
        max_workers_per_node=cluster.workers_per_block,
        heartbeat_period=5,
        heartbeat_threshold=30,
        worker_logdir_root=str(scratch),
    )
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return ParslPoolExecutor(
        Config(executors=[executor], run_dir=str(scratch / stamp), usage_tracking=0)
    )
