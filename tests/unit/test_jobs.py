"""Jobs that need others: order, failures that travel on, waiting for what another worker does."""

from __future__ import annotations

import os
import signal
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from siliforce import jobs as module
from siliforce.errors import SiliforceError
from siliforce.jobs import Job, JobFailed, JobFolder, Progress, work
from siliforce.workers import Cluster, run_workers

CHAIN = [
    Job("leaf", "b", after=("middle", "root")),
    Job("root", "a"),
    Job("middle", "b", after=("root",)),
    Job("alone", "a"),
]


def test_a_job_waits_for_those_it_needs(tmp_path: Path) -> None:
    order = []

    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        order.append(job.key)
        return b""

    progress = work(JobFolder(tmp_path), lambda: CHAIN, perform)
    assert progress.done == 4
    assert order.index("root") < order.index("middle") < order.index("leaf")


def test_what_needs_a_failed_job_fails_with_its_reason(tmp_path: Path) -> None:
    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        if job.key == "root":
            raise JobFailed("the loss diverged")
        return b""

    folder = JobFolder(tmp_path)
    work(folder, lambda: CHAIN, perform, attempts=1)
    assert folder.done_keys() == {"alone"}
    assert folder.failed_keys() == {"root", "middle", "leaf"}
    assert {folder.reason(key) for key in folder.failed_keys()} == {"the loss diverged"}
    assert folder.reason("alone") == ""
    assert [entry["key"] for entry in folder.log() if entry["status"] == "failed"] == ["root"]


def test_a_job_that_nobody_does_is_an_error(tmp_path: Path) -> None:
    orphan = [Job("orphan", "a", after=("nobody",))]
    with pytest.raises(SiliforceError, match="waits for nobody, which nobody does"):
        work(JobFolder(tmp_path), lambda: orphan, lambda job, scratch, attempt: b"")


def test_a_worker_waits_for_what_another_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    folder, order = JobFolder(tmp_path), []

    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        order.append(job.key)
        return b""

    with folder.claim("root") as ours:
        assert ours
        worker = threading.Thread(target=work, args=(folder, lambda: CHAIN, perform))
        worker.start()
        time.sleep(0.2)
        assert worker.is_alive()
        assert order == ["alone"]
    worker.join(10)
    assert order == ["alone", "root", "middle", "leaf"]


def perform_and_die(root: Path, job: Job, scratch: Path, attempt: int) -> bytes:
    """The job that others wait for kills its worker, the first time."""
    if job.key == "root" and not (root / "killed").exists():
        (root / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return str(os.getpid()).encode()


def work_in(root: Path, on_progress: object = None) -> Progress:
    return work(JobFolder(root), lambda: CHAIN, partial(perform_and_die, root))


@pytest.mark.parametrize(
    "cluster", [None, Cluster(provider="local", workers_per_block=2)], ids=["processes", "parsl"]
)
def test_a_worker_killed_in_a_job_that_others_need(
    cluster: Cluster | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cluster is not None:
        pytest.importorskip("parsl")
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(_paths()))
    folder = JobFolder(tmp_path)
    run_workers(
        partial(work_in, tmp_path),
        2,
        lambda: folder.progress(CHAIN),
        lambda progress: None,
        cluster,
        tmp_path / "parsl",
    )
    assert (tmp_path / "killed").exists()
    assert folder.done_keys() == {job.key for job in CHAIN}
    assert len(folder.log()) == len(CHAIN)


def _paths() -> list[str]:
    """Where this file and the package are from, for workers that Parsl starts."""
    return [str(Path(__file__).parents[2]), str(Path(module.__file__).parents[1])]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(None, "unknown"), (8.4, "8 s"), (59.7, "1 min"), (130, "2 min"), (9000, "2.5 h")],
)
def test_the_time_left_has_a_unit_that_says_something(seconds: float | None, said: str) -> None:
    assert f"about {said} left" in Progress(1, 0, 2, seconds, {}).line()
