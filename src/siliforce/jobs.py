"""Jobs kept as files in one folder: any number of workers, killed at any moment, no server.

A folder holds `done/<key>` (results), `failed/<key>.json` (reasons), `locks/` and `work/`
(scratch of the job in flight) and `log.jsonl` (one line per finished attempt). A worker takes a
job by locking a file; the system frees the lock when the worker dies, so a killed job is simply
free again. Workers need not know of each other: start as many as there are cores, on any machines
that share the folder.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from siliforce.errors import SiliforceError
from siliforce.files import write_atomic

MIN_FREE_BYTES = 50 * 2**20
WAIT_SECONDS = 1.0
"""Between looks at what other workers do, while jobs wait for theirs."""


NEEDS = "it needs the failed job"


class JobFailed(SiliforceError):
    """One job could not be done; others can. `log` is the end of what its program printed."""

    def __init__(self, reason: str, log: str = "") -> None:
        super().__init__(reason)
        self.log = log


class DiskFullError(SiliforceError):
    """The disk is full: the worker stops, everything finished is kept."""


@dataclass(frozen=True)
class Job:
    """One piece of work.

    Attributes:
        key: names its result for ever; a hash of everything that changes the result.
        group: groups advance evenly, by the fraction of each that is finished.
        payload: what the worker function needs.
        after: keys of the jobs whose results it needs; it waits for them, and fails if one does.
    """

    key: str
    group: str
    payload: Any = None
    after: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Where a folder of jobs stands; `eta_seconds` is None before the first finished job."""

    done: int
    failed: int
    total: int
    eta_seconds: float | None
    groups: dict[str, tuple[int, int, int]]  # done, failed, total

    def line(self) -> str:
        """One line for a terminal."""
        left = "unknown" if self.eta_seconds is None else _duration(self.eta_seconds)
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.done}/{self.total} done{failed}, about {left} left"


def _duration(seconds: float) -> str:
    """`40 s`, `12 min`, `3.5 h`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


class JobFolder:
    """The files of a set of jobs; see the module's text for the layout."""

    def __init__(self, root: str | Path, suffix: str = "") -> None:
        self.root = Path(root)
        self.suffix = suffix

    def done_path(self, key: str) -> Path:
        """Result of a finished job."""
        return self.root / "done" / f"{key}{self.suffix}"

    def failed_path(self, key: str) -> Path:
        """Why a job failed."""
        return self.root / "failed" / f"{key}.json"

    def done_keys(self) -> set[str]:
        """Keys of the finished jobs."""
        names = _names(self.root / "done")
        return {name.removesuffix(self.suffix) for name in names if name.endswith(self.suffix)}

    def failed_keys(self) -> set[str]:
        """Keys of the jobs that failed for good."""
        return {n.removesuffix(".json") for n in _names(self.root / "failed")}

    def ordered(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs that can be done now, next first: the group with the smallest finished part leads.

        A job whose worker died left its lock file behind: it comes last, so that one that always
        takes its worker with it (out of memory, say) does not keep the others waiting.
        """
        locked = set(_names(self.root / "locks"))
        succeeded = self.done_keys()
        done = succeeded | self.failed_keys()
        total: dict[str, int] = defaultdict(int)
        finished: dict[str, int] = defaultdict(int)
        for job in jobs:
            total[job.group] += 1
            finished[job.group] += job.key in done
        ranked = []
        for order, job in enumerate(jobs):
            if job.key not in done and succeeded.issuperset(job.after):
                fraction = finished[job.group] / total[job.group]
                ranked.append((job.key in locked, fraction, order, job))
                finished[job.group] += 1
        return [entry[-1] for entry in sorted(ranked, key=lambda entry: entry[:3])]

    def waiting(self, jobs: Sequence[Job]) -> list[Job]:
        """Jobs that wait for others; those that wait for a failed one fail here as well.

        Raises:
            SiliforceError: a job waits for one that is neither finished nor among `jobs`.
        """
        done, failed = self.done_keys(), self.failed_keys()
        known = done | {job.key for job in jobs}
        found = []
        for job in jobs:
            if job.key in done | failed or done.issuperset(job.after):
                continue
            if lost := sorted(set(job.after) - known):
                raise SiliforceError(f"job {job.key} waits for {lost[0]}, which nobody does")
            broken = sorted(failed.intersection(job.after))
            if broken:
                self._fail(job, [{"status": "failed", "reason": f"{NEEDS} {broken[0]}"}])
                failed.add(job.key)
            else:
                found.append(job)
        return found

    def reason(self, key: str) -> str:
        """Why a job failed, or the job it needed; empty if it did not."""
        try:
            attempts = json.loads(self.failed_path(key).read_text())["attempts"]
        except (OSError, ValueError, KeyError):
            return ""
        found = str(attempts[-1]["reason"])
        return self.reason(found.rpartition(" ")[2]) if found.startswith(NEEDS) else found

    def _fail(self, job: Job, history: Sequence[dict[str, Any]]) -> None:
        record = {"key": job.key, "group": job.group, "attempts": list(history)}
        write_atomic(self.failed_path(job.key), json.dumps(record, indent=1))

    def progress(self, jobs: Sequence[Job], workers: int = 1) -> Progress:
        """Counts, and the time left from the mean time of finished jobs of the same group."""
        done, failed = self.done_keys(), self.failed_keys()
        groups: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
        for job in jobs:
            counts = groups[job.group]
            counts[0] += job.key in done
            counts[1] += job.key in failed
            counts[2] += 1
        seconds = self.mean_seconds()
        overall = sum(seconds.values()) / len(seconds) if seconds else None
        eta = None
        if overall is not None:
            left = {g: c[2] - c[1] - c[0] for g, c in groups.items()}
            eta = sum(n * seconds.get(g, overall) for g, n in left.items()) / max(workers, 1)
        return Progress(
            done=sum(c[0] for c in groups.values()),
            failed=sum(c[1] for c in groups.values()),
            total=len(jobs),
            eta_seconds=eta,
            groups={g: (c[0], c[1], c[2]) for g, c in groups.items()},
        )

    def mean_seconds(self) -> dict[str, float]:
        """Mean wall time of a finished job of each group, from the log."""
        spent: dict[str, list[float]] = defaultdict(list)
        for entry in self.log():
            if entry["status"] == "done":
                spent[entry["group"]].append(entry["seconds"])
        return {group: sum(values) / len(values) for group, values in spent.items()}

    def log(self) -> list[dict[str, Any]]:
        """Finished attempts, oldest first; a line torn by a kill is left out."""
        path = self.root / "log.jsonl"
        entries = []
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                entries.append(json.loads(line))
            except json.JSONDecodeError:
                continue
        return entries

    def append_log(self, entry: dict[str, Any]) -> None:
        """Add one line; a short append is one write, so several workers may share the file."""
        line = json.dumps(entry) + "\n"
        handle = os.open(self.root / "log.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            os.write(handle, line.encode())
        finally:
            os.close(handle)

    @contextmanager
    def claim(self, key: str) -> Iterator[bool]:
        """Hold a job: True inside if it is ours, False if another worker has it."""
        path = self.root / "locks" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                path.unlink(missing_ok=True)

    @contextmanager
    def scratch(self, key: str) -> Iterator[Path]:
        """Empty folder for one attempt; what a killed attempt left there is thrown away."""
        folder = self.root / "work" / key
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _names(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    return [entry.name for entry in os.scandir(folder) if not entry.name.startswith(".")]


Perform = Callable[[Job, Path, int], bytes]


def work(
    folder: JobFolder,
    jobs: Callable[[], Sequence[Job]],
    perform: Perform,
    attempts: int = 2,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """One worker: take open jobs one after another until none is left.

    Args:
        jobs: asked again after every job, so that jobs may be added while workers run.
        perform: does a job in a scratch folder and returns the result file's content; told the
            number of the attempt (0 first) so that a second try can use safer settings.
        attempts: tries before a job counts as failed.
        on_progress: called after every job.

    Raises:
        DiskFullError: no space left; free some and start again.
    """
    while True:
        todo = jobs()
        for job in folder.ordered(todo):
            with folder.claim(job.key) as ours:
                if not ours or job.key in folder.done_keys() | folder.failed_keys():
                    continue
                _finish(folder, job, perform, attempts)
            on_progress(folder.progress(todo))
            break
        else:
            if not folder.waiting(todo):
                return folder.progress(todo)
            time.sleep(WAIT_SECONDS)


def _finish(folder: JobFolder, job: Job, perform: Perform, attempts: int) -> None:
    """Try one job until it is done or failed for good."""
    history: list[dict[str, Any]] = []
    for attempt in range(attempts):
        start = time.time()
        try:
            with folder.scratch(job.key) as scratch:
                content = perform(job, scratch, attempt)
            write_atomic(folder.done_path(job.key), content)
        except JobFailed as failure:
            _stop_if_disk_full(folder.root)
            entry = _entry(job, "failed", start, attempt) | {"reason": str(failure)}
            folder.append_log(entry)
            history.append(entry | {"log": failure.log})
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _disk_full(folder.root) from error
            raise
        else:
            folder.append_log(_entry(job, "done", start, attempt))
            return
    folder._fail(job, history)


def _entry(job: Job, status: str, start: float, attempt: int) -> dict[str, Any]:
    return {
        "key": job.key,
        "group": job.group,
        "status": status,
        "attempt": attempt,
        "seconds": round(time.time() - start, 2),
        "ended": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "host": socket.gethostname(),
    }


def _stop_if_disk_full(root: Path) -> None:
    """An engine that fails on a full disk is not the frame's fault."""
    if shutil.disk_usage(root).free < MIN_FREE_BYTES:
        raise _disk_full(root)


def _disk_full(root: Path) -> DiskFullError:
    return DiskFullError(
        f"the disk of {root} is full; everything finished is kept, the job in flight is not. "
        "Free some space and start again"
    )
