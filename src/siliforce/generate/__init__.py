"""Making data: structures, protocols, engines, and a runner that survives the night.

plan(protocol)                         what would be computed, and how long it takes
run(protocol, folder, workers)         sample and label; start again after any stop
label(frames, engine, folder, out)     label the frames of a file
converge(frames, engine, variations)   measure the error of an engine's settings
"""

from __future__ import annotations

import lzma
from collections.abc import Callable
from pathlib import Path

from siliforce.errors import DataError
from siliforce.files import write_atomic
from siliforce.generate.converge import Deviation, converge
from siliforce.generate.engines import ENGINES, Engine, make_engine
from siliforce.generate.frames import read_frames, to_extxyz
from siliforce.generate.pipeline import failures, gather, run
from siliforce.generate.plan import Plan, plan
from siliforce.generate.protocols import Protocol, load_engine, load_protocol
from siliforce.generate.runner import Run, slug
from siliforce.generate.runner import run as run_queue
from siliforce.jobs import Progress
from siliforce.workers import Cluster, load_cluster


def label(
    frames: str | Path,
    engine: Engine,
    folder: str | Path,
    out: str | Path,
    workers: int = 1,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    cluster: Cluster | None = None,
    retry_failed: bool = False,
) -> Progress:
    """Label every frame of a file and write those that worked to `out`.

    The run folder may hold other frames, also of other engines: they are labelled too if they are
    not yet, but neither written nor counted.

    Args:
        frames: any file ASE reads; labels already in it are ignored.
        folder: run folder; the same call goes on after a stop.
        out: extended XYZ, xz-compressed if its name ends so.
        cluster: pilot jobs that hold the workers instead of this machine.
        retry_failed: try failed frames again.

    Returns:
        The counts of the file's frames.

    Raises:
        DataError: no readable frames, or none that could be labelled.
        ConfigError: the engine cannot run here.
        DiskFullError: the disk is full.
    """
    queue = Run(folder)
    if retry_failed:
        queue.folder.forget_failures()
    keys = queue.add(slug(Path(frames).name), read_frames(frames), engine)
    run_queue(folder, workers, on_progress, cluster)
    done = queue.done(keys)
    if not done:
        raise DataError(f"no frame of '{frames}' could be labelled; " + "; ".join(failures(folder)))
    text = to_extxyz(done).encode()
    write_atomic(out, lzma.compress(text) if str(out).endswith(".xz") else text)
    return queue.progress(keys=keys)


__all__ = [
    "ENGINES",
    "Cluster",
    "Deviation",
    "Engine",
    "Plan",
    "Protocol",
    "Run",
    "converge",
    "failures",
    "gather",
    "label",
    "load_cluster",
    "load_engine",
    "load_protocol",
    "make_engine",
    "plan",
    "run",
    "run_queue",
]
