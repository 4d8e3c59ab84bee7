"""The runner: batches of frames in a run folder, labelled frame by frame, resumable at any moment.

<run>/queue/<batch>/frames.extxyz, engine.json     what is to be labelled, and how
<run>/done/<key>.extxyz                            one labelled frame each
<run>/failed/<key>.json                            why a frame failed, with the engine's words
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ase import Atoms
from ase.io import read

from siliforce.errors import DataError
from siliforce.files import write_atomic
from siliforce.generate.engines import Engine, Labels, gate, make_engine
from siliforce.generate.engines.base import unforeseen
from siliforce.generate.frames import canonical, frame_key, labelled, read_frames, to_extxyz
from siliforce.jobs import Job, JobFailed, JobFolder, Progress, work
from siliforce.workers import Cluster, run_workers

SUFFIX = ".extxyz"


@dataclass(frozen=True)
class FrameTask:
    """One frame and the engine that labels it."""

    atoms: Atoms
    engine: Engine


class Run:
    """A run folder: add batches, work on them, gather what is finished."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.folder = JobFolder(self.root, SUFFIX)
        self._loaded: dict[Path, tuple[int, list[Job]]] = {}

    def add(self, name: str, frames: Iterable[Atoms], engine: Engine) -> int:
        """Queue a batch; frames of one batch with the same content are queued once.

        Returns:
            How many frames the batch holds.

        Raises:
            DataError: a batch of this name is already there with other content.
        """
        unique: dict[str, Atoms] = {}
        for atoms in frames:
            frame = canonical(atoms)
            key = frame_key(frame, engine.identity())
            frame.info["key"] = key
            unique.setdefault(key, frame)
        if not unique:
            raise DataError(f"batch '{name}' has no frames")
        batch = self.root / "queue" / name
        existing = batch / "frames.extxyz"
        if existing.is_file() and {f.info["key"] for f in read_frames(existing)} != set(unique):
            raise DataError(f"'{batch}' already holds other frames; choose another batch name")
        write_atomic(batch / "engine.json", engine.model_dump_json(indent=1))
        write_atomic(existing, to_extxyz(unique.values()))
        return len(unique)

    def accept(self, frames: Iterable[Atoms], engine: Engine) -> None:
        """Take the labels of queued frames that this engine computed while it moved their atoms.

        What the gate refuses stays queued.
        """
        done = self.folder.done_keys()
        for atoms in frames:
            key = frame_key(atoms, engine.identity())
            if atoms.calc is None or key in done:
                continue
            results = atoms.calc.results
            labels = Labels(
                results["energy"],
                results["forces"],
                results.get("stress"),
                version=str(atoms.info.get("version", "unknown")),
                details={},
            )
            try:
                gate(labels, atoms)
            except JobFailed:
                continue
            facts = {"key": key, "level": engine.level(atoms)}
            content = to_extxyz([labelled(atoms, labels, facts)])
            write_atomic(self.folder.done_path(key), content)

    def jobs(self) -> list[Job]:
        """Every queued frame; batches added while workers run are picked up."""
        found = []
        queue = self.root / "queue"
        for batch in sorted(queue.iterdir()) if queue.is_dir() else []:
            path = batch / "frames.extxyz"
            if not path.is_file():
                continue  # being written
            stamp = path.stat().st_mtime_ns
            if self._loaded.get(batch, (0, []))[0] != stamp:
                self._loaded[batch] = (stamp, _load(batch))
            found += self._loaded[batch][1]
        return list({job.key: job for job in found}.values())

    def check(self) -> None:
        """Raise before anything runs if a program or pseudopotential is missing."""
        needed: dict[str, tuple[Engine, set[str]]] = {}
        for job in self.jobs():
            engine: Engine = job.payload.engine
            elements = needed.setdefault(engine.model_dump_json(), (engine, set()))[1]
            elements.update(job.payload.atoms.get_chemical_symbols())
        for engine, elements in needed.values():
            engine.check(elements)

    def progress(self, workers: int = 1) -> Progress:
        """Counts and time left."""
        return self.folder.progress(self.jobs(), workers)

    def done(self) -> list[Atoms]:
        """Labelled frames, in the order they were queued."""
        keys = self.folder.done_keys()
        return [
            read(self.folder.done_path(j.key), format="extxyz")
            for j in self.jobs()
            if j.key in keys
        ]


def _load(batch: Path) -> list[Job]:
    engine = make_engine(json.loads((batch / "engine.json").read_text()))
    jobs = []
    for atoms in read_frames(batch / "frames.extxyz"):
        key = str(atoms.info.pop("key"))
        group = str(atoms.info.get("system", batch.name))
        jobs.append(Job(key=key, group=group, payload=FrameTask(atoms, engine)))
    return jobs


def label_frame(job: Job, scratch: Path, attempt: int) -> bytes:
    """Label one frame; the second attempt uses the engine's safer settings."""
    task: FrameTask = job.payload
    start = time.time()
    with unforeseen(f"engine '{task.engine.engine}'"):
        labels = gate(task.engine.label(task.atoms, scratch, safer=attempt > 0), task.atoms)
    facts = {
        "key": job.key,
        "level": task.engine.level(task.atoms),
        "seconds": round(time.time() - start, 1),
    }
    return to_extxyz([labelled(task.atoms, labels, facts)]).encode()


def run(
    root: str | Path,
    workers: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cluster: Cluster | None = None,
) -> Progress:
    """Label everything queued in a run folder; start it again after any stop.

    Args:
        workers: local processes; more may be started on other machines that share the folder.
        cluster: pilot jobs that hold the workers instead.

    Raises:
        ConfigError: a program, package or pseudopotential is missing.
        DiskFullError: the disk is full.
        WorkersLost: workers died again and again.
    """
    this = Run(Path(root).resolve())

    def progress() -> Progress:
        return this.progress(workers if cluster is None else cluster.workers)

    logs = this.root / "parsl"
    run_workers(partial(_work, this.root), workers, progress, on_progress, cluster, logs)
    return progress()


def _work(root: Path, on_progress: Callable[[Progress], None] = lambda progress: None) -> Progress:
    this = Run(root)
    this.check()

    def report(progress: Progress) -> None:
        write_atomic(root / f"progress-{os.getpid()}.txt", progress.line() + "\n")
        on_progress(progress)

    return work(this.folder, this.jobs, label_frame, on_progress=report)


def slug(text: str) -> str:
    """Text made safe as a file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-").lower()


def by_group(frames: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    """Frames by their `system`, in order of appearance."""
    groups: dict[str, list[Atoms]] = {}
    for frame in frames:
        groups.setdefault(str(frame.info.get("system", "frames")), []).append(frame)
    return groups
