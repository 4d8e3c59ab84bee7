"""Workers here and as pilot jobs: a killed one costs its job in flight and is started anew."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import read, write

from siliforce import workers as workers_module
from siliforce.errors import ConfigError
from siliforce.generate import label, make_engine
from siliforce.jobs import Job, JobFolder, Progress, work
from siliforce.workers import Cluster, WorkersLost, load_cluster, run_workers

N_JOBS = 8
CLUSTER = Cluster(provider="local", workers_per_block=2)


def jobs() -> list[Job]:
    return [Job(key=f"{i}", group="all") for i in range(N_JOBS)]


def perform(root: Path, deadly: bool, job: Job, scratch: Path, attempt: int) -> bytes:
    """Job 3 kills its worker: the first time, or always."""
    if job.key == "3" and (deadly or not (root / "killed").exists()):
        (root / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.05)
    return str(os.getpid()).encode()


def work_in(root: Path, deadly: bool = False, on_progress: object = None) -> Progress:
    return work(JobFolder(root), jobs, partial(perform, root, deadly))


@pytest.mark.parametrize(
    "cluster",
    [
        pytest.param(None, id="processes"),
        pytest.param(CLUSTER, id="parsl", marks=pytest.mark.full),
    ],
)
def test_a_killed_worker_costs_nothing_that_was_finished(
    cluster: Cluster | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cluster is not None:
        pytest.importorskip("parsl")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))  # where this file is from
    folder, seen = JobFolder(tmp_path), []
    run_workers(
        partial(work_in, tmp_path),
        2,
        lambda: folder.progress(jobs()),
        lambda progress: seen.append(progress.done),
        cluster,
        tmp_path / "parsl",
    )
    assert (tmp_path / "killed").exists()
    assert folder.done_keys() == {str(i) for i in range(N_JOBS)}
    assert seen == sorted(set(seen))
    assert seen[-1] == N_JOBS
    assert len(folder.log()) == N_JOBS  # nothing was done twice
    pids = {folder.done_path(job.key).read_text() for job in jobs()}
    assert str(os.getpid()) not in pids


@pytest.mark.full
def test_workers_that_always_die_are_given_up_after_all_other_jobs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers_module, "RESTARTS_PER_WORKER", 1)
    folder = JobFolder(tmp_path)
    with pytest.raises(WorkersLost, match="kept"):
        run_workers(
            partial(work_in, tmp_path, True),
            2,
            lambda: folder.progress(jobs()),
            lambda progress: None,
        )
    assert folder.done_keys() == {str(i) for i in range(N_JOBS)} - {"3"}


ENDLESS = """
import os, time
from pathlib import Path
from siliforce.jobs import Progress
from siliforce.workers import run_workers

def work():
    Path(str(os.getpid())).touch()
    time.sleep(600)

if __name__ == "__main__":
    run_workers(work, 2, lambda: Progress(0, 0, 1, None, {}), lambda progress: None)
"""


def alive(pid: str) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_the_process_that_started_them(
    sent: signal.Signals, tmp_path: Path
) -> None:
    (tmp_path / "main.py").write_text(ENDLESS)
    main = subprocess.Popen([sys.executable, "main.py"], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while len(pids := [p.name for p in tmp_path.iterdir() if p.name.isdigit()]) < 2:
        assert time.monotonic() < deadline, "no workers"
        time.sleep(0.1)
    main.send_signal(sent)
    main.wait(20)
    try:
        while any(alive(pid) for pid in pids):
            assert time.monotonic() < deadline, "the workers went on"
            time.sleep(0.1)
    finally:
        for pid in filter(alive, pids):
            os.kill(int(pid), signal.SIGKILL)


@pytest.mark.full
def test_frames_are_labelled_by_pilot_jobs(tmp_path: Path) -> None:
    pytest.importorskip("parsl")
    frames = []
    for seed in range(4):
        atoms = bulk("Si", cubic=True)
        atoms.rattle(0.05, seed=seed)
        frames.append(atoms)
    write(tmp_path / "frames.extxyz", frames)
    engine = make_engine({"engine": "stillinger-weber"})
    arguments = tmp_path / "frames.extxyz", engine, tmp_path / "run", tmp_path / "out.extxyz"
    progress = label(*arguments, cluster=CLUSTER)
    assert progress.done == 4
    assert len(read(tmp_path / "out.extxyz", ":")) == 4
    log = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    assert {json.loads(line)["status"] for line in log} == {"done"}


def test_a_failure_of_the_work_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "frames.extxyz").write_text("2\nno cell\nSi 0 0 0\nSi 0 0 2.3\n")
    engine = make_engine({"engine": "nep", "settings": {"model": "none.txt"}})
    for workers in (1, 2):
        with pytest.raises(ConfigError, match="does not start"):
            label(tmp_path / "frames.extxyz", engine, tmp_path / "run", "out.extxyz", workers)


def test_cluster_files_are_checked(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("provider: slurm\nblocks: 4\nworkers_per_block: 8\nwalltime: '01:00:00'\n")
    assert load_cluster(file).workers == 32
    page = (Path(__file__).parents[2] / "docs" / "data-production.md").read_text()
    file.write_text(page.split("```yaml\n")[1].split("```")[0])
    assert load_cluster(file).workers == 64
    file.write_text("provider: slurm\nnodes: 4\n")
    with pytest.raises(ConfigError, match="nodes"):
        load_cluster(file)
    with pytest.raises(ConfigError, match="no cluster file"):
        load_cluster(tmp_path / "none.yaml")
