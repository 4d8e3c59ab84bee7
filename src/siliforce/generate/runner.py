"""The runner: batches of frames in a run folder, labelled frame by frame, resumable at any moment.

<run>/queue/<batch>/frames.extxyz, engine.json     what is to be labelled, and how
<run>/done/<key>.extxyz                            one labelled frame each
<run>/failed/<key>.json                            why a frame failed, with the engine's words
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import unicodedata
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
BATCH_DIGITS = 8


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

    def add(self, name: str, frames: Iterable[Atoms], engine: Engine) -> list[str]:
        """Queue a batch; frames of one batch with the same content are queued once.

        The batch's folder is the name and a hash of its frames and settings, so that the same
        call finds it again and another one makes its own.

        Returns:
            The keys of its frames.

        Raises:
            DataError: no frames.
        """
        identity = engine.identity()
        unique: dict[str, Atoms] = {}
        for atoms in frames:
            frame = canonical(atoms)
            key = frame_key(frame, identity)
            frame.info["key"] = key
            unique.setdefault(key, frame)
        if not unique:
            raise DataError(f"batch '{name}' has no frames")
        batch = self.root / "queue" / f"{name}-{_digest(unique)}"
        write_atomic(batch / "engine.json", engine.model_dump_json(indent=1))
        write_atomic(batch / "frames.extxyz", to_extxyz(unique.values()))
        return list(unique)

    def accept(self, frames: Iterable[Atoms], engine: Engine) -> None:
        """Take the labels of queued frames that this engine computed while it moved their atoms.

        What the gate refuses stays queued.
        """
        done = self.folder.done_keys()
        for atoms in frames:
            frame = canonical(atoms)
            version = str(frame.info.pop("version", "unknown"))
            key = frame_key(frame, engine.identity())
            if atoms.calc is None or key in done:
                continue
            results = atoms.calc.results
            labels = Labels(
                results["energy"],
                results["forces"],
                results.get("stress"),
                version=version,
                details={},
            )
            try:
                gate(labels, frame, engine.max_net_force)
            except JobFailed:
                continue
            facts = {"key": key, "level": engine.level(frame, version)}
            content = to_extxyz([labelled(frame, labels, facts)])
            write_atomic(self.folder.done_path(key), content)

    def jobs(self, keys: Iterable[str] | None = None) -> list[Job]:
        """Every queued frame, each once; batches added while workers run are picked up.

        Args:
            keys: only these, in this order.
        """
        found: dict[str, Job] = {}
        queue = self.root / "queue"
        for batch in sorted(queue.iterdir()) if queue.is_dir() else []:
            path = batch / "frames.extxyz"
            if not path.is_file():
                continue  # being written
            stamp = path.stat().st_mtime_ns
            if self._loaded.get(batch, (0, []))[0] != stamp:
                self._loaded[batch] = (stamp, _load(batch))
            for job in self._loaded[batch][1]:
                found.setdefault(job.key, job)
        return list(found.values()) if keys is None else [found[key] for key in keys]

    def check(self) -> None:
        """Raise before anything runs if a program or pseudopotential is missing."""
        needed: dict[str, tuple[Engine, set[str]]] = {}
        for job in self.jobs():
            engine: Engine = job.payload.engine
            elements = needed.setdefault(engine.model_dump_json(), (engine, set()))[1]
            elements.update(job.payload.atoms.get_chemical_symbols())
        for engine, elements in needed.values():
            engine.check(elements)

    def progress(self, workers: int = 1, keys: Iterable[str] | None = None) -> Progress:
        """Counts and time left, of all frames or of some."""
        return self.folder.progress(self.jobs(keys), workers)

    def done(self, keys: Iterable[str] | None = None) -> list[Atoms]:
        """Labelled frames, all or those of some keys, in the order they were queued."""
        finished = self.folder.done_keys()
        return [
            read(self.folder.done_path(job.key), format="extxyz")
            for job in self.jobs(keys)
            if job.key in finished
        ]


def _digest(keys: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(keys).encode()).hexdigest()[:BATCH_DIGITS]


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
        labels = task.engine.label(task.atoms, scratch, safer=attempt > 0)
    gate(labels, task.atoms, task.engine.max_net_force)
    facts = {
        "key": job.key,
        "level": task.engine.level(task.atoms, labels.version),
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
    """Text made safe as a file name; letters of other alphabets by name, α as alpha."""
    text = "".join(map(_ascii, unicodedata.normalize("NFKD", text)))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-").lower()


def _ascii(letter: str) -> str:
    if letter.isascii() or not letter.isalpha():
        return "" if unicodedata.combining(letter) else letter
    return unicodedata.name(letter, letter).split()[-1]


def file_names(systems: Iterable[str]) -> dict[str, str]:
    """Name of the file of each system.

    Raises:
        DataError: a name has nothing that a file name can have, or two would have the same file.
    """
    names: dict[str, str] = {}
    owners: dict[str, str] = {}
    for system in dict.fromkeys(systems):
        name = names[system] = slug(system)
        if not name:
            raise DataError(f"'{system}' makes no file name; give it a label with letters")
        if name in owners:
            raise DataError(
                f"'{owners[name]}' and '{system}' would both be written to '{name}'; "
                "give one another label"
            )
        owners[name] = system
    return names


def by_group(frames: Sequence[Atoms]) -> dict[str, list[Atoms]]:
    """Frames by their `system`, in order of appearance."""
    groups: dict[str, list[Atoms]] = {}
    for frame in frames:
        groups.setdefault(str(frame.info.get("system", "frames")), []).append(frame)
    return groups
