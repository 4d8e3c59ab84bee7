"""CP2K: one input file written here (ASE's calculator needs a live shell), one output read.

Settings follow CP2K's usual GTH + MOLOPT choice; every element of the table is available.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.units import Bohr, GPa, Hartree
from pydantic import Field

from siliforce.errors import ConfigError
from siliforce.generate.engines.base import (
    LOG_TAIL_BYTES,
    Engine,
    Labels,
    find_program,
    program,
    run_program,
    unforeseen,
)
from siliforce.jobs import JobFailed

NUMBER = r"-?\d+\.\d+(?:[EeDd][+-]?\d+)?"


class CP2K(Engine):
    """CP2K Quickstep, PBE.

    Attributes:
        basis: MOLOPT basis set of each element.
        potential: GTH potential of each element.
        cutoff: of the density grid [Ry].
        rel_cutoff: of the grid a Gaussian is mapped to [Ry].
        smearing_k: electronic temperature [K]; None for integer occupations (OT minimiser).
        eps_scf: convergence of the SCF.
    """

    engine: Literal["cp2k"] = "cp2k"
    command: str = "cp2k"
    basis: dict[str, str]
    potential: dict[str, str]
    cutoff: float = Field(default=600.0, gt=0)
    rel_cutoff: float = Field(default=60.0, gt=0)
    smearing_k: float | None = None
    eps_scf: float = 1e-7
    spin: bool = False
    max_cycles: int = 60

    def check(self, elements: set[str]) -> None:
        """Program present, basis and potential for every element."""
        find_program(self.command)
        unknown = sorted(e for e in elements if e not in self.basis or e not in self.potential)
        if unknown:
            raise ConfigError(f"no basis or potential given for {', '.join(unknown)}")

    def level(self, atoms: Atoms, version: str = "") -> str:
        """E.g. `CP2K-2023.1 PBE Gamma cut600Ry rel60Ry scf1e-07 OT nspin1 Hf:DZVP-...`."""
        kinds = sorted(set(atoms.get_chemical_symbols()))
        occupations = "OT" if self.smearing_k is None else f"fd{self.smearing_k:g}K"
        names = "+".join(f"{k}:{self.basis[k]}/{self.potential[k]}" for k in kinds)
        return (
            f"{program('CP2K', version)} PBE Gamma cut{self.cutoff:g}Ry "
            f"rel{self.rel_cutoff:g}Ry scf{self.eps_scf:g} {occupations} "
            f"nspin{2 if self.spin else 1} {names}"
        )

    def label(self, atoms: Atoms, workdir: Path, safer: bool) -> Labels:
        """One frame; see `Engine.label`."""
        (workdir / "cp2k.inp").write_text(self.input_text(atoms, safer))
        command = [*self.command.split(), "-i", "cp2k.inp"]
        text, code = run_program(command, workdir, "cp2k.out", self.max_cpu_hours)
        tail = text[-LOG_TAIL_BYTES:]
        if re.search(r"SCF run NOT converged", text):
            raise JobFailed("the SCF did not converge", log=tail)
        if code != 0 or "PROGRAM ENDED" not in text:
            raise JobFailed(f"cp2k stopped with exit code {code}", log=tail)
        with unforeseen("cannot read what cp2k wrote", text):
            return read_output(text, len(atoms))

    def input_text(self, atoms: Atoms, safer: bool) -> str:
        """The CP2K input of one frame, charge 0, multiplicity from the electron count."""
        cell = "\n".join(
            f"      {name} " + " ".join(f"{x:.10f}" for x in row)
            for name, row in zip("ABC", atoms.cell.array, strict=True)
        )
        coordinates = "\n".join(
            f"      {s} " + " ".join(f"{x:.10f}" for x in xyz)
            for s, xyz in zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
        )
        kinds = "\n".join(
            f"    &KIND {k}\n      BASIS_SET {self.basis[k]}\n      POTENTIAL {self.potential[k]}\n"
            "    &END KIND"
            for k in sorted(set(atoms.get_chemical_symbols()))
        )
        return TEMPLATE.format(
            stress="STRESS_TENSOR ANALYTICAL" if self.stress else "",
            cutoff=self.cutoff,
            rel_cutoff=self.rel_cutoff,
            uks="UKS TRUE" if self.spin else "",
            scf=self.scf_section(safer),
            periodic="XYZ" if atoms.pbc.all() else "NONE",
            cell=cell,
            coordinates=coordinates,
            kinds=kinds,
        )

    def scf_section(self, safer: bool) -> str:
        """OT where occupations are integers; diagonalisation with smearing otherwise."""
        cycles = self.max_cycles * (3 if safer else 1)
        head = f"      EPS_SCF {self.eps_scf:g}\n      MAX_SCF {cycles}\n"
        if self.smearing_k is None:
            minimizer = "CG" if safer else "DIIS"
            return head + (
                f"      &OT\n        PRECONDITIONER FULL_ALL\n        MINIMIZER {minimizer}\n"
                "      &END OT\n      &OUTER_SCF\n        MAX_SCF 5\n"
                f"        EPS_SCF {self.eps_scf:g}\n      &END OUTER_SCF"
            )
        alpha = 0.1 if safer else 0.3
        return head + (
            "      ADDED_MOS 40\n      &DIAGONALIZATION\n      &END DIAGONALIZATION\n"
            f"      &SMEAR\n        METHOD FERMI_DIRAC\n        ELECTRONIC_TEMPERATURE "
            f"{self.smearing_k:g}\n      &END SMEAR\n      &MIXING\n"
            f"        METHOD BROYDEN_MIXING\n        ALPHA {alpha}\n      &END MIXING"
        )


TEMPLATE = """&GLOBAL
  PROJECT frame
  RUN_TYPE ENERGY_FORCE
  PRINT_LEVEL LOW
&END GLOBAL
&FORCE_EVAL
  METHOD QUICKSTEP
  {stress}
  &PRINT
    &FORCES ON
    &END FORCES
    &STRESS_TENSOR ON
    &END STRESS_TENSOR
  &END PRINT
  &DFT
    BASIS_SET_FILE_NAME BASIS_MOLOPT
    POTENTIAL_FILE_NAME GTH_POTENTIALS
    {uks}
    &MGRID
      CUTOFF {cutoff}
      REL_CUTOFF {rel_cutoff}
    &END MGRID
    &QS
      EPS_DEFAULT 1.0E-12
    &END QS
    &SCF
{scf}
    &END SCF
    &XC
      &XC_FUNCTIONAL PBE
      &END XC_FUNCTIONAL
    &END XC
  &END DFT
  &SUBSYS
    &CELL
{cell}
      PERIODIC {periodic}
    &END CELL
    &COORD
{coordinates}
    &END COORD
{kinds}
  &END SUBSYS
&END FORCE_EVAL
"""


def read_output(text: str, n_atoms: int) -> Labels:
    """Labels from the text of a finished CP2K run (its stress is minus ASE's)."""
    energy = re.findall(rf"ENERGY\| Total FORCE_EVAL.*?({NUMBER})\s*$", text, re.M)
    block = text[text.index("ATOMIC FORCES in [a.u.]") :]
    rows = re.findall(rf"^\s+\d+\s+\d+\s+\w+\s+({NUMBER})\s+({NUMBER})\s+({NUMBER})", block, re.M)
    forces = np.array(rows[:n_atoms], dtype=float) * Hartree / Bohr
    found = re.search(r"STRESS\| Analytical stress tensor \[GPa\].*?\n.*?\n((?:.*\n){3})", text)
    stress = None
    if found:
        matrix = [[float(x) for x in row.split()[2:5]] for row in found.group(1).splitlines()]
        stress = -np.array(matrix).ravel()[[0, 4, 8, 5, 2, 1]] * GPa
    ran = re.search(r"CP2K\| version string:\s+CP2K version (\S+)", text)
    details: dict[str, Any] = {}
    return Labels(
        energy=float(energy[-1]) * Hartree,
        forces=forces,
        stress=stress,
        version=ran.group(1) if ran else "unknown",
        details=details,
    )
