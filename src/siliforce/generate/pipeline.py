"""A protocol from nothing to labelled frames: sample every trajectory, thin, label, gather.

<run>/sampling/done/<key>.extxyz      frames of one trajectory
<run>/queue, done, failed             see `runner`
"""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Callable
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

Report = Callable[[Progress], None]


def run(
    protocol: Protocol,
    root: str | Path,
    workers: int = 1,
    on_progress: Report = lambda progress: None,
    cluster: Cluster | None = None,
) -> Path:
    """Run a protocol, or go on with it after any stop.

    The protocol may have been edited meanwhile: what is still in it is not computed again, and
    the sets hold its frames only.

    Args:
        root: run folder.
        workers: local processes.
        on_progress: told after every trajectory and every frame.
        cluster: pilot jobs that hold the workers instead.

    Returns:
        The folder with one file of labelled frames for each system.

    Raises:
        ConfigError: an engine cannot run here.
        DiskFullError: the disk is full.
    """
    root = Path(root).resolve()
    _check(protocol)
    jobs = sampling_jobs(protocol)
    run_workers(
        partial(_sample, protocol, root),
        workers,
        lambda: sampling_folder(root).progress(jobs, workers),
        on_progress,
        cluster,
        root / "parsl",
    )
    folder = sampling_folder(root)
    if protocol.sampler is None and all(job.payload.stages for job in jobs):
        frames = [f for j in jobs for f in _sampled(folder, j)]  # the engine moved the atoms
        return _gather_all(frames, root / "sets")
    queue = Run(root)
    keys: list[str] = []
    for job in jobs:
        if job.key in folder.done_keys():
            frames = thinned(protocol, job.payload, _sampled(folder, job))
            keys += queue.add(
                f"{job.payload.number:05d}-{slug(job.payload.name)}",
                frames,
                protocol.label_engine(),
            )
    run_queue(root, workers, on_progress, cluster)
    return _gather_all(queue.done(dict.fromkeys(keys)), root / "sets")


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
    for file in set(folder.glob("*.extxyz.xz")) - {
        folder / f"{name}.extxyz.xz" for name in file_names(by_group(frames)).values()
    }:
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

    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        trajectory: Trajectory = job.payload
        start = trajectory.build()
        if not trajectory.stages:
            return to_extxyz([start]).encode()
        path = sample(
            start,
            list(trajectory.stages),
            protocol.sample_engine(),
            folder.root / "trajectories" / f"{job.key}-{attempt}",
            temperature=trajectory.temperature,
            timestep=protocol.timestep_fs,
            seed=int(trajectory.rng(2).integers(2**31)),
            safer=attempt > 0,
            keep_labels=protocol.sampler is None,
        )
        return path.read_bytes()

    return work(folder, lambda: jobs, perform, on_progress=on_progress)


def _sampled(folder: JobFolder, job: Job) -> list[Atoms]:
    path = folder.done_path(job.key)
    return read_frames(path) if path.is_file() else []
