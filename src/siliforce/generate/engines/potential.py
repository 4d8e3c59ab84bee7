"""Engines that live in Python: universal potentials, tight binding, PySCF, GPAW, our own models.

Each runs in a process of its own (`server.py`), with a Python of its own if wished, so that it
can crash, run out of memory or time, or need other package versions without harm to the runner.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from pydantic import Field

from siliforce.data.read import content_digest
from siliforce.errors import ConfigError
from siliforce.generate.engines.base import (
    HANGS,
    LOG_TAIL_BYTES,
    Engine,
    Labels,
    Spin,
    child_setup,
    outlast,
    polarised,
    program,
    unforeseen,
    why_killed,
)
from siliforce.jobs import JobFailed
from siliforce.potential import BEST

SERVER = Path(__file__).with_name("server.py")
PER_FRAME = {"gpaw", "pyscf"}  # expensive and leaky: a new process for each frame
NO_STRESS = {"pyscf"}
Kind = Literal[
    "emt",
    "lj",
    "stillinger-weber",
    "nep",
    "chgnet",
    "sevennet",
    "tblite",
    "siliforce",
    "gpaw",
    "pyscf",
]


class PythonEngine(Engine):
    """A Python calculator.

    Attributes:
        python: interpreter of the environment that holds the package; None is this one.
        settings: passed to the calculator.
        safer_settings: changed for the second try (mixing, more iterations).
        start_moment: initial magnetic moment of every atom that makes a calculation one with spin.
        spin: which cells get it.
        pulay_stress: element -> what the unfinished plane-wave basis adds to stress times volume,
            eV per atom, measured against a finished one; it is taken off.
    """

    engine: Kind
    python: str | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    safer_settings: dict[str, Any] = Field(default_factory=dict)
    start_moment: float | None = None
    spin: Spin = True
    pulay_stress: dict[str, float] = Field(default_factory=dict)

    def check(self, elements: set[str]) -> None:
        """The interpreter exists and has the package; the Pulay stress of every element is known.

        Raises:
            ConfigError: it is not.
        """
        unknown = elements - set(self.pulay_stress)
        if self.pulay_stress and unknown:
            raise ConfigError(
                f"engine '{self.engine}', pulay_stress: nothing for {', '.join(sorted(unknown))}; "
                "measure it (stress times volume, against a higher cutoff) or leave all out"
            )
        try:
            with tempfile.TemporaryDirectory() as folder:  # some write where they start
                where = Path(folder) if self.engine in PER_FRAME else Path.cwd()
                Server(self, self.settings, where).close()
        except JobFailed as error:
            python = self.python or sys.executable
            raise ConfigError(
                f"engine '{self.engine}' does not start with {python}: {error}\n{error.log}"
            ) from error

    def level(self, atoms: Atoms, version: str = "") -> str:
        """E.g. `gpaw-22.8.0 PBE ecut=600 kpts={'density':1.7}`."""
        settings = " ".join(f"{k}={_short(v)}" for k, v in sorted(self.settings.items()))
        corrected = " Pulay stress taken off" if self.pulay_stress else ""
        spin = "" if self._moments(atoms) is None else " with spin"
        functional = " PBE" if self.engine == "gpaw" else ""  # others name theirs in the settings
        name = program(self.engine, version)
        return f"{name}{functional} {settings}{spin}{corrected}".strip()

    def _moments(self, atoms: Atoms) -> list[float] | None:
        """Initial magnetic moments, None without spin."""
        if self.start_moment is None or not polarised(self.spin, atoms):
            return None
        return [self.start_moment] * len(atoms)

    def identity(self) -> dict[str, Any]:
        """Without the interpreter, which does not change the numbers; a model by its content."""
        kept = super().identity() | {"settings": _by_content(self.settings)}
        return {k: v for k, v in kept.items() if k not in ("python", "safer_settings")}

    def label(self, atoms: Atoms, workdir: Path, safer: bool) -> Labels:
        """One frame; see `Engine.label`."""
        settings = self.settings | (self.safer_settings if safer else {})
        server = _server(self, settings, workdir)
        request = {
            "numbers": atoms.numbers.tolist(),
            "positions": atoms.positions.tolist(),
            "cell": atoms.cell.array.tolist(),
            "pbc": atoms.pbc.tolist(),
            "stress": self.stress and self.engine not in NO_STRESS and bool(atoms.pbc.all()),
            "magmoms": self._moments(atoms),
        }
        try:
            reply = server.ask(request)
        finally:
            if self.engine in PER_FRAME:
                server.close()
        stress = None
        if reply.get("stress") is not None:
            stress = np.asarray(reply["stress"], dtype=float)
            pulay = sum(self.pulay_stress.get(symbol, 0.0) for symbol in atoms.symbols)
            stress[:3] -= pulay / atoms.get_volume()
        return Labels(
            energy=float(reply["energy"]),
            forces=np.asarray(reply["forces"], dtype=float).reshape(-1, 3),
            stress=stress,
            version=str(reply["version"]),
            details={},
        )


class Server:
    """The process that runs `server.py`; it dies with us.

    Raises:
        ConfigError: the interpreter or the package is missing.
    """

    def __init__(self, engine: PythonEngine, settings: dict[str, Any], workdir: Path) -> None:
        self.engine = engine
        content = {"kind": engine.engine, "settings": settings}
        request = json.dumps(content | {"cpu_seconds": int(engine.max_cpu_hours * 3600)})
        self.log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        try:
            self.process = subprocess.Popen(
                [engine.python or sys.executable, str(SERVER), request],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.log,
                text=True,
                cwd=workdir,
                env=os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")},
                preexec_fn=child_setup(os.getpid()),
            )
        except FileNotFoundError as error:
            raise ConfigError(f"no Python interpreter '{engine.python}'") from error
        hello = self._read()
        if "missing" in hello:
            self.close()
            where = engine.python or sys.executable
            raise ConfigError(
                f"engine '{engine.engine}' does not start with {where}: {hello['missing']}"
            )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """One frame.

        Raises:
            JobFailed: the engine reports an error, or died.
        """
        assert self.process.stdin is not None
        self.log.seek(0)  # the process writes where we stand: its words on this frame only
        self.log.truncate()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died: reading says so
        reply = self._read()
        if "error" in reply:
            raise JobFailed(f"{self.engine.engine}: {reply['error']}", log=self._tail())
        return reply

    def _read(self) -> dict[str, Any]:
        stdout, name = self.process.stdout, f"engine '{self.engine.engine}'"
        assert stdout is not None

        def answered(seconds: float) -> bool:
            return bool(select.select([stdout], [], [], seconds)[0])

        alive = outlast(self.process, answered)
        line = stdout.readline() if alive else ""
        if line:
            with unforeseen(f"{name} answers nonsense", line):
                return dict(json.loads(line))
        code = self.process.wait()
        _forget(self)
        reason = f"{name} died with exit code {code}"
        if code < 0:
            reason = why_killed(name, code, self.engine.max_cpu_hours) if alive else HANGS
        raise JobFailed(reason, log=self._tail())

    def _tail(self) -> str:
        self.log.seek(0)
        return self.log.read()[-LOG_TAIL_BYTES:]

    def close(self) -> None:
        """End the process."""
        for stream in (self.process.stdin, self.process.stdout, self.log):
            if stream is not None and not stream.closed:
                stream.close()
        self.process.kill()
        self.process.wait()


_SERVERS: dict[str, Server] = {}


def _server(engine: PythonEngine, settings: dict[str, Any], workdir: Path) -> Server:
    """A running server for these settings, started when there is none."""
    if engine.engine in PER_FRAME:
        return Server(engine, settings, workdir)
    content = [engine.engine, engine.python, _by_content(settings), engine.max_cpu_hours]
    name = json.dumps(content, sort_keys=True)
    if name not in _SERVERS:
        _SERVERS[name] = Server(engine, settings, Path.cwd())
        atexit.register(_SERVERS[name].close)
    return _SERVERS[name]


def _forget(server: Server) -> None:
    for name in [name for name, known in _SERVERS.items() if known is server]:
        del _SERVERS[name]


def _by_content(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with the hash of the model in place of its path: another may come to lie there."""
    path = Path(str(settings.get("model", "")))
    if "model" in settings and path.is_dir():
        path = path / BEST
    if "model" not in settings or not path.is_file():
        return settings
    state = path.stat()
    return settings | {"model": _digest(path.resolve(), state.st_mtime_ns, state.st_size)}


@cache
def _digest(path: Path, modified: int, size: int) -> str:
    return content_digest(path)


def _short(value: Any) -> str:
    """File names without their folder."""
    return Path(value).name if isinstance(value, str) else str(value).replace(" ", "")
