"""A protocol from nothing to labelled frames: sample every trajectory, thin, label, gather.

<run>/sampling/done/<key>.extxyz      frames of one trajectory
<run>/sampling/trajectories/<key>/    the trajectory in flight, or as far as it came
<run>/queue, done, failed             see `runner`
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from ase import Atoms

from siliforce.errors import DataError
from siliforce.files import write_atomic
from siliforce.generate.frames import KEY_LENGTH, read_frames, to_extxyz
from siliforce.generate.protocols import Protocol, Trajectory
from siliforce.generate.runner import Run, by_group, file_names, slug
from siliforce.generate.runner import run as run_queue
from siliforce.generate.sampling import sample
from siliforce.generate.structures import substituted
from siliforce.jobs import Job, JobFolder, Progress, work
from siliforce.workers import Cluster, run_workers

PROGRESS = "progress.txt"
Report = Callable[[Progress], None]


def run(
    protocol: Protocol,
    root: str | Path,
    workers: int = 1,
    on_progress: Report = lambda progress: None,
    cluster: Cluster | None = None,
    retry_failed: bool = False,
) -> Path:
    """Run a protocol, or go on with it after any stop.

    The protocol may have been edited meanwhile: what is still in it is not computed again, and
    the sets hold its frames only.

    Args:
        root: run folder.
        workers: local processes.
        on_progress: told after every trajectory and every frame.
        cluster: pilot jobs that hold the workers instead.
        retry_failed: try failed frames again, and failed trajectories from where they failed.

    Returns:
        The folder with one file of labelled frames for each system.

    Raises:
        ConfigError: an engine cannot run here.
        DiskFullError: the disk is full.
    """
    root = Path(root).resolve()
    _check(protocol)
    if retry_failed:
        sampling_folder(root).forget_failures()
        Run(root).folder.forget_failures()
    jobs = sampling_jobs(protocol)
    run_workers(
        partial(_sample, protocol, root),
        workers,
        lambda: _progress(root, jobs, workers if cluster is None else cluster.workers),
        on_progress,
        cluster,
        root / "parsl",
    )
    folder = sampling_folder(root)
    queue, engine = Run(root), protocol.label_engine()
    keys: list[str] = []
    for job in jobs:
        frames = thinned(protocol, job.payload, _sampled(folder, job))
        if frames:
            batch = f"{job.payload.number:05d}-{slug(job.payload.name)}"
            keys += queue.add(batch, frames, engine)
            if protocol.sampler is None:
                queue.accept(frames, engine)
    run_queue(root, workers, on_progress, cluster)
    return _gather_all(queue.done(dict.fromkeys(keys)), root / "sets")


def failures(root: str | Path) -> list[str]:
    """What failed in a run folder, how often and why; one line for each reason."""
    folders = {"trajectories": sampling_folder(Path(root)), "frames": Run(root).folder}
    return [
        f"{count} {what} failed: {reason}"
        for what, folder in folders.items()
        for reason, count in folder.reasons().items()
    ]


def sampling_folder(root: Path) -> JobFolder:
    """The sampling jobs of a run folder."""
    return JobFolder(root / "sampling", ".extxyz")


def sampling_jobs(protocol: Protocol) -> list[Job]:
    """One job for each trajectory; its key holds everything that changes its frames."""
    engine = protocol.sample_engine().identity()
    jobs = []
    for trajectory in protocol.trajectories():
        content = {
            "engine": engine,
            "timestep": protocol.timestep_fs,
            "seed": [trajectory.seed, trajectory.name],
            "start": trajectory.start.content(trajectory.frame),
            "strain": trajectory.strain,
            "temperature": trajectory.temperature,
            "stages": [stage.model_dump(mode="json") for stage in trajectory.stages],
        }
        digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        jobs.append(Job(digest[:KEY_LENGTH], trajectory.system, trajectory))
    return jobs


def thinned(protocol: Protocol, trajectory: Trajectory, frames: list[Atoms]) -> list[Atoms]:
    """Evenly spaced frames of a trajectory, with the elements put in that the sampler lacks."""
    wanted = protocol.wanted(trajectory)
    if wanted is not None and len(frames) > wanted:
        picked = np.linspace(0, len(frames) - 1, wanted + 1)[1:]  # the start itself is no sample
        frames = [frames[round(i)] for i in picked]
    rng = trajectory.rng(1)
    out = []
    for frame in frames:
        info = dict(frame.info)
        for old, new in trajectory.start.replace_after.items():
            frame = substituted(frame, old, new, rng)
        frame.info = info
        out.append(frame)
    return out


def gather(frames: list[Atoms], folder: str | Path) -> Path:
    """Write labelled frames as one xz-compressed extended XYZ file for each system.

    Raises:
        DataError: there is no labelled frame, or two systems would have the same file.
    """
    if not frames:
        raise DataError("no frame has been labelled yet")
    folder = Path(folder)
    groups = by_group(frames)
    files = file_names(groups)
    for system, members in groups.items():
        text = to_extxyz(members).encode()
        write_atomic(folder / f"{files[system]}.extxyz.xz", lzma.compress(text, preset=9))
    return folder


def _gather_all(frames: list[Atoms], folder: Path) -> Path:
    """Gather, and take away the files of systems that the protocol no longer has."""
    gather(frames, folder)
    ours = {f"{name}.extxyz.xz" for name in file_names(by_group(frames)).values()}
    for file in folder.glob("*.extxyz.xz"):
        if file.name not in ours:
            file.unlink()
    return folder


def _check(protocol: Protocol) -> None:
    elements = set()
    for trajectory in protocol.trajectories():
        elements |= set(trajectory.build().get_chemical_symbols())
    after = {new for start in protocol.starts for new in start.replace_after.values()}
    protocol.sample_engine().check(elements)
    if protocol.sampler is not None:
        protocol.label_engine().check(elements | after)


def _sample(
    protocol: Protocol, root: Path, on_progress: Report = lambda progress: None
) -> Progress:
    folder = sampling_folder(root)
    jobs = sampling_jobs(protocol)

    def tell(job: Job, text: str) -> None:
        write_atomic(_trajectory_folder(folder, job) / PROGRESS, f"{job.payload.name}: {text}\n")
        on_progress(_progress(root, jobs))

    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        trajectory: Trajectory = job.payload
        start = trajectory.build()
        if not trajectory.stages:
            return to_extxyz([start]).encode()
        path = sample(
            start,
            list(trajectory.stages),
            protocol.sample_engine(),
            _trajectory_folder(folder, job),
            temperature=trajectory.temperature,
            timestep=protocol.timestep_fs,
            seed=int(trajectory.rng(2).integers(2**31)),
            keep_labels=protocol.sampler is None,
            on_progress=partial(tell, job),
        )
        return path.read_bytes()

    return work(folder, lambda: jobs, perform, attempts=1, on_progress=on_progress)


def _progress(root: Path, jobs: list[Job], workers: int = 1) -> Progress:
    """Where the trajectories stand, those in flight as well."""
    folder = sampling_folder(root)
    over = folder.done_keys() | folder.failed_keys()
    files = [_trajectory_folder(folder, job) / PROGRESS for job in jobs if job.key not in over]
    notes = [path.read_text().strip() for path in files if path.is_file()]
    return replace(folder.progress(jobs, workers), note="; ".join(notes))


def _trajectory_folder(folder: JobFolder, job: Job) -> Path:
    return folder.root / "trajectories" / job.key


def _sampled(folder: JobFolder, job: Job) -> list[Atoms]:
    """Frames of a trajectory: all of them, or where it failed those before that."""
    path = folder.done_path(job.key)
    if job.key in folder.failed_keys():
        path = _trajectory_folder(folder, job) / "frames.extxyz"
    return read_frames(path) if path.is_file() and path.stat().st_size else []
