"""What every engine is: settings that name their level of theory, and `label(atoms) -> Labels`."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from pydantic import BaseModel, ConfigDict, Field

from siliforce.errors import ConfigError, SiliforceError
from siliforce.jobs import JobFailed

LOG_TAIL_BYTES = 3000
LOOK_SECONDS = 10.0
IDLE_SECONDS = 3600.0
"""A program that neither computes nor writes for so long hangs."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Labels:
    """What one calculation yields: energy [eV], forces (n_atoms, 3) [eV/Å], stress (6,) [eV/Å³].

    Attributes:
        stress: Voigt order, positive under tension; None where the engine was not asked.
        version: of the engine that computed it.
        details: further facts worth keeping with the frame (magnetisation, SCF cycles).
    """

    energy: float
    forces: np.ndarray
    stress: np.ndarray | None
    version: str
    details: dict[str, Any]


class Engine(BaseModel, ABC):
    """Settings of one engine. Two frames with equal settings are at the same level of theory.

    Attributes:
        convergence: measured error of forces from each approximation [eV/Å, RMS], by name.
        max_cpu_hours: limit for one frame, counted in CPU time, so that a pause costs nothing.
        max_net_force: largest norm of the sum of forces [eV/Å] with which a frame is kept; None
            does not look. It is zero but for the grid's error, so it shows how large that is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    engine: str
    stress: bool = True
    max_cpu_hours: float = Field(default=6.0, gt=0)
    max_net_force: float | None = Field(default=None, gt=0)
    convergence: dict[str, float] = Field(default_factory=dict)

    @abstractmethod
    def check(self, elements: set[str]) -> None:
        """Say what is missing on this machine before anything runs.

        Raises:
            ConfigError: program, package or pseudopotential missing.
        """

    @abstractmethod
    def level(self, atoms: Atoms, version: str = "") -> str:
        """One line naming everything that changes the numbers for this frame.

        Args:
            version: of the program, as `Labels` has it; left out where it is not known.
        """

    @abstractmethod
    def label(self, atoms: Atoms, workdir: Path, safer: bool) -> Labels:
        """Compute one frame.

        Args:
            workdir: empty folder for the engine's files.
            safer: second try: slower but steadier, at the same level of theory.

        Raises:
            JobFailed: this frame could not be computed; says why.
        """

    def identity(self) -> dict[str, Any]:
        """The settings that change the numbers, for the content hash."""
        limits = {"max_cpu_hours", "max_net_force"}
        return self.model_dump(mode="json", exclude=limits | {"convergence", "command"})


def program(name: str, version: str) -> str:
    """E.g. `QE-6.7`."""
    return f"{name}-{version}" if version else name


Spin = bool | Literal["odd"]
"""Whether cells are computed with spin; `odd`: those with an odd number of electrons."""


def polarised(spin: Spin, atoms: Atoms) -> bool:
    """Whether this cell is computed with spin (closed cores: Z gives the parity)."""
    return int(atoms.numbers.sum()) % 2 == 1 if spin == "odd" else bool(spin)


def net_force(forces: np.ndarray) -> float:
    """Norm of the sum of forces (n_atoms, 3) [eV/Å]."""
    return float(np.linalg.norm(forces.sum(axis=0)))


def gate(
    labels: Labels, atoms: Atoms, max_net_force: float | None = None, max_force: float = 100.0
) -> Labels:
    """Refuse labels that cannot be right.

    Args:
        max_net_force: see `Engine`.

    Raises:
        JobFailed: a number is missing, not finite, a force is absurd or the net force too large.
    """
    if labels.forces.shape != (len(atoms), 3):
        raise JobFailed(f"{labels.forces.shape[0]} forces for {len(atoms)} atoms")
    finite = math.isfinite(labels.energy) and np.isfinite(labels.forces).all()
    if labels.stress is not None:
        finite = finite and bool(np.isfinite(labels.stress).all())
    if not finite:
        raise JobFailed("energy, forces or stress are not finite")
    largest = float(np.linalg.norm(labels.forces, axis=1).max())
    if largest > max_force:
        raise JobFailed(f"largest force {largest:.0f} eV/Å is above {max_force:.0f} eV/Å")
    net = net_force(labels.forces)
    if max_net_force is not None and net > max_net_force:
        raise JobFailed(f"net force {net:.4f} eV/Å is above {max_net_force:g} eV/Å")
    return labels


def find_program(command: str) -> str:
    """Full path of a program.

    Raises:
        ConfigError: it is not installed.
    """
    path = shutil.which(command.split()[0])
    if path is None:
        raise ConfigError(f"program '{command.split()[0]}' is not on the PATH; install it")
    return path


@contextmanager
def unforeseen(doing: str, log: str = "") -> Iterator[None]:
    """Let whatever nobody thought of be the failure of one frame: the others can be done.

    Raises:
        JobFailed: with `log`, or where Python stopped.
    """
    try:
        yield
    except (SiliforceError, OSError):
        raise
    except Exception as error:
        tail = (log or traceback.format_exc())[-LOG_TAIL_BYTES:]
        raise JobFailed(f"{doing}: {type(error).__name__}: {error}", log=tail) from error


def child_setup(parent: int, cpu_seconds: int | None = None) -> Callable[[], None]:
    """Code run in the child before the engine: die with the runner, stop at the CPU limit."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None

    def setup() -> None:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # the runner died before the line above
                os._exit(1)
        if cpu_seconds is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (cpu_seconds, cpu_seconds + 30))

    return setup


def run_program(
    command: list[str], workdir: Path, output: str, cpu_hours: float
) -> tuple[str, int]:
    """Run an engine in its folder; it dies with the runner, at its CPU limit, and when it hangs.

    Returns:
        What it printed, and its exit code.

    Raises:
        JobFailed: it was killed (by a signal or by a limit).
    """
    env = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    path = workdir / output
    with path.open("wb") as stream:
        process = subprocess.Popen(
            command,
            cwd=workdir,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=env,
            preexec_fn=child_setup(os.getpid(), int(cpu_hours * 3600)),
        )

    def ended(seconds: float) -> bool:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    hangs = not outlast(process, ended, lambda: path.stat().st_size)
    text, code = path.read_text(errors="replace"), process.wait()
    if hangs or code < 0:
        reason = HANGS if hangs else why_killed(command[0], code, cpu_hours)
        raise JobFailed(reason, log=text[-LOG_TAIL_BYTES:])
    return text, code


HANGS = "it hung: no CPU time used and nothing written for an hour"


def why_killed(program: str, code: int, cpu_hours: float) -> str:
    """What a negative exit code means."""
    if code == -signal.SIGXCPU:
        return f"more than {cpu_hours:g} CPU hours"
    return f"{program} was killed by {signal.Signals(-code).name}"


def outlast(
    process: subprocess.Popen[Any],
    ready: Callable[[float], bool],
    written: Callable[[], object] = lambda: None,
) -> bool:
    """Wait until `ready`, asked with the seconds it may take; kill a process that hangs.

    A process that is paused (or whose CPU time is nowhere to be read) does not hang.

    Args:
        written: something that changes as long as the process writes.

    Returns:
        Whether it became ready.
    """
    before, idle = None, 0.0
    look = min(LOOK_SECONDS, IDLE_SECONDS)
    while not ready(look):
        used = cpu_ticks(process.pid)
        if used is None or (used, written()) != before:
            before, idle = (used, written()), 0.0
            continue
        idle += look  # not by the clock: we may have been paused ourselves
        if idle >= IDLE_SECONDS:
            process.kill()
            return False
    return True


def cpu_ticks(pid: int) -> int | None:
    """CPU time of a process and its children so far; None: one is paused, or the system is mute."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    parts = [cpu_ticks(int(child)) for child in children]
    if fields[0] in "Tt" or None in parts:
        return None
    return sum(map(int, fields[11:15])) + sum(part or 0 for part in parts)


def find_file(name: str, folders: list[str], hint: str) -> Path:
    """First of `folders` that holds `name`.

    Raises:
        ConfigError: none does.
    """
    for folder in folders:
        path = (Path(folder).expanduser() / name).resolve()
        if path.is_file():
            return path
    raise ConfigError(f"'{name}' is in none of {', '.join(folders)}; {hint}")
