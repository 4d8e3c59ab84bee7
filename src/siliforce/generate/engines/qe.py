"""Quantum ESPRESSO's pw.x: input written and output read by ASE, convergence checked here."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.io import read, write
from pydantic import Field

from siliforce.errors import ConfigError
from siliforce.generate.engines.base import (
    LOG_TAIL_BYTES,
    Engine,
    Labels,
    Spin,
    find_file,
    find_program,
    polarised,
    program,
    run_program,
    unforeseen,
)
from siliforce.generate.engines.gth import qe_gth
from siliforce.jobs import JobFailed

PSEUDO_DIR = "/usr/share/espresso/pseudo"
CONVERGED = "convergence has been achieved"
NOT_CONVERGED = "convergence NOT achieved"


class QuantumEspresso(Engine):
    """pw.x, PBE.

    Attributes:
        pseudopotentials: file for each element; `As.pbe-q5.gth` is made from CP2K's GTH table.
        pseudo_dirs: folders searched for them, in order.
        ecutwfc: cutoff of the wave functions [Ry].
        ecutrho: cutoff of the density [Ry].
        ecutrho_with: larger density cutoff where one of these elements is present [Ry].
        degauss: width of the occupations' smearing [Ry].
        kpts: mesh of k-points; None is Γ alone with real wave functions.
        kshift: move the mesh by half a step: half the points of an even Γ-centred mesh.
        kspacing: alternative to `kpts`: largest distance between k-points [1/Å, without 2π].
        spin: collinear spin, started from `start_moment` on every atom; `odd` for those cells
            only that have an odd number of electrons.
        conv_thr: energy threshold of the SCF [Ry].
        beta: mixing of the density; the second try takes less of it and more cycles.
    """

    engine: Literal["qe"] = "qe"
    command: str = "pw.x"
    pseudopotentials: dict[str, str]
    pseudo_dirs: list[str] = Field(default_factory=lambda: [PSEUDO_DIR])
    ecutwfc: float = Field(gt=0)
    ecutrho: float = Field(gt=0)
    ecutrho_with: dict[str, float] = Field(default_factory=dict)
    smearing: Literal["fd", "mv", "gauss"] | None = "fd"
    degauss: float = 0.002
    kpts: tuple[int, int, int] | None = None
    kshift: bool = False
    kspacing: float | None = None
    spin: Spin = False
    start_moment: float = 0.2
    conv_thr: float = 1e-8
    beta: float = 0.7
    max_cycles: int = 100

    def identity(self) -> dict[str, Any]:
        """Without the folders: they differ between machines. The usual one stands for all, so
        that keys stay what they were."""
        return super().identity() | {"pseudo_dirs": [PSEUDO_DIR]}

    def check(self, elements: set[str]) -> None:
        """Program present, and a pseudopotential for every element."""
        find_program(self.command)
        unknown = sorted(elements - set(self.pseudopotentials))
        if unknown:
            raise ConfigError(
                f"no pseudopotential given for {', '.join(unknown)}; "
                f"the preset has {', '.join(sorted(self.pseudopotentials))}"
            )
        for element in sorted(elements):
            pseudopotential(self.pseudopotentials[element], self.pseudo_dirs)

    def level(self, atoms: Atoms, version: str = "") -> str:
        """E.g. `QE-6.7 PBE Gamma ecut24Ry rho96Ry scf1e-08Ry fd0.002Ry nspin1 Si.pbe-rrkj.UPF`."""
        mesh = self.mesh(atoms)
        kpoints = "Gamma" if mesh is None else "k" + "x".join(map(str, mesh))
        if mesh is not None and self.kshift:
            kpoints += "s"
        symbols = atoms.get_chemical_symbols()
        kinds = sorted(set(symbols), key=lambda s: (-symbols.count(s), s))
        smearing = f"{self.smearing}{self.degauss:g}Ry" if self.smearing else "fixed"
        files = "+".join(self.pseudopotentials[kind] for kind in kinds)
        return (
            f"{program('QE', version)} PBE {kpoints} ecut{self.ecutwfc:g}Ry "
            f"rho{self.density_cutoff(atoms):g}Ry scf{self.conv_thr:g}Ry {smearing} "
            f"nspin{2 if polarised(self.spin, atoms) else 1} {files}"
        )

    def mesh(self, atoms: Atoms) -> tuple[int, int, int] | None:
        """k-point mesh of this cell, None for Γ alone."""
        if self.kspacing is None:
            return self.kpts
        lengths = np.linalg.norm(atoms.cell.reciprocal(), axis=1)
        n = [max(1, int(np.ceil(length / self.kspacing - 1e-9))) for length in lengths]
        return None if n == [1, 1, 1] else (n[0], n[1], n[2])

    def density_cutoff(self, atoms: Atoms) -> float:
        """The largest that an element of this cell asks for [Ry]."""
        asked = [self.ecutrho_with.get(element, 0.0) for element in set(atoms.symbols)]
        return max([self.ecutrho, *asked])

    def label(self, atoms: Atoms, workdir: Path, safer: bool) -> Labels:
        """One SCF; see `Engine.label`."""
        pseudo = workdir / "pseudo"
        pseudo.mkdir()
        for element in set(atoms.get_chemical_symbols()):
            name = self.pseudopotentials[element]
            (pseudo / name).write_text(pseudopotential(name, self.pseudo_dirs))
        (workdir / "pw.in").write_text(self.input_text(atoms, safer))
        command = [*self.command.split(), "-in", "pw.in"]
        text, code = run_program(command, workdir, "pw.out", self.max_cpu_hours)
        if NOT_CONVERGED in text:
            raise JobFailed("the SCF did not converge", log=text[-LOG_TAIL_BYTES:])
        if code != 0 or "JOB DONE" not in text or CONVERGED not in text:
            raise JobFailed(error_message(text, code), log=text[-LOG_TAIL_BYTES:])
        with unforeseen("cannot read what pw.x wrote", text):
            return read_output(text)

    def input_text(self, atoms: Atoms, safer: bool) -> str:
        """The pw.x input of one frame."""
        electrons = {"conv_thr": self.conv_thr, "mixing_beta": self.beta}
        electrons["electron_maxstep"] = self.max_cycles
        if safer:
            electrons |= {"mixing_beta": 0.3 * self.beta, "mixing_ndim": 12}
            electrons["electron_maxstep"] = 3 * self.max_cycles
        data = {
            "control": {
                "calculation": "scf",
                "tprnfor": True,
                "tstress": self.stress,
                "outdir": "./tmp",
                "pseudo_dir": "./pseudo",
                "disk_io": "none",
            },
            "system": self.system_section(atoms),
            "electrons": electrons,
        }
        mesh = self.mesh(atoms)
        offsets = tuple(int(self.kshift and n > 1) for n in mesh or (1, 1, 1))
        stream = io.StringIO()
        frame = plain(atoms)
        if polarised(self.spin, atoms):
            frame.set_initial_magnetic_moments([self.start_moment] * len(atoms))
        kinds = {s: self.pseudopotentials[s] for s in dict.fromkeys(atoms.get_chemical_symbols())}
        write(
            stream,
            frame,
            format="espresso-in",
            input_data=data,
            pseudopotentials=kinds,
            kpts=mesh,
            koffset=offsets,
        )
        return stream.getvalue()

    def system_section(self, atoms: Atoms) -> dict[str, Any]:
        """The &SYSTEM namelist."""
        section: dict[str, Any] = {"ecutwfc": self.ecutwfc, "nosym": True}
        section["ecutrho"] = self.density_cutoff(atoms)
        if self.smearing:
            section |= {
                "occupations": "smearing",
                "smearing": {"fd": "fermi-dirac", "mv": "cold", "gauss": "gaussian"}[self.smearing],
                "degauss": self.degauss,
            }
        if polarised(self.spin, atoms):
            section["nspin"] = 2
        return section


def plain(atoms: Atoms) -> Atoms:
    """Species, positions and cell only: no labels, tags or constraints."""
    return Atoms(atoms.get_chemical_symbols(), atoms.positions, cell=atoms.cell, pbc=atoms.pbc)


def read_version(text: str) -> str:
    """Version printed in pw.x's banner, without its release name."""
    match = re.search(r"Program PWSCF v\.(\d+(?:\.\d+)*)", text)
    return match.group(1) if match else "unknown"


def pseudopotential(name: str, folders: list[str]) -> str:
    """Text of a pseudopotential file: found in a folder, or made from the GTH table.

    Raises:
        ConfigError: neither works.
    """
    match = re.fullmatch(r"([A-Z][a-z]?)\.pbe-q(\d+)\.gth", name)
    if match:
        return qe_gth(match.group(1), int(match.group(2)))
    hint = "set pseudo_dirs, or install quantum-espresso-data"
    return find_file(name, folders, hint).read_text()


def error_message(text: str, code: int) -> str:
    """What pw.x says between its rows of %, in one line."""
    parts = re.split(r"%{20,}", text)
    if len(parts) >= 3:
        return "pw.x: " + " ".join(parts[1].split())
    return f"pw.x stopped with exit code {code} and no result"


def read_output(text: str) -> Labels:
    """Labels from the text of a finished pw.x run."""
    atoms = read(io.StringIO(text), format="espresso-out")
    results = atoms.calc.results
    cycles = re.findall(r"convergence has been achieved in\s+(\d+)", text)
    details: dict[str, Any] = {"scf_cycles": int(cycles[-1])} if cycles else {}
    moment = re.findall(r"total magnetization\s+=\s+(-?\d+\.\d+)", text)
    if moment:
        details["magnetization"] = float(moment[-1])
    stress = results.get("stress")
    return Labels(
        energy=float(results["energy"]),
        forces=np.asarray(results["forces"], dtype=float),
        stress=None if stress is None else np.asarray(stress, dtype=float),
        version=read_version(text),
        details=details,
    )
