"""VASP for those who own it: inputs written and outputs read by ASE, convergence checked here."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.calculators.vasp import Vasp
from ase.io import read
from ase.io.vasp import write_vasp
from pydantic import Field

from siliforce.errors import ConfigError
from siliforce.generate.engines.base import (
    LOG_TAIL_BYTES,
    Engine,
    Labels,
    find_program,
    program,
    run_program,
)
from siliforce.jobs import JobFailed


class VASP(Engine):
    """VASP, one static calculation per frame.

    Attributes:
        potcar_path: folder that holds `potpaw_PBE`.
        setups: POTCAR suffix of each element, e.g. `{"Hf": "_pv"}`.
        encut: plane-wave cutoff [eV].
        sigma: width of the Gaussian smearing [eV].
        incar: further INCAR tags, as ASE spells them.
    """

    engine: Literal["vasp"] = "vasp"
    command: str = "vasp_std"
    potcar_path: str
    setups: dict[str, str] = Field(default_factory=dict)
    encut: float = Field(default=520.0, gt=0)
    sigma: float = 0.05
    kpts: tuple[int, int, int] = (1, 1, 1)
    spin: bool = False
    ediff: float = 1e-6
    nelm: int = 100
    incar: dict[str, Any] = Field(default_factory=dict)

    def check(self, elements: set[str]) -> None:
        """Program present, and a POTCAR for every element."""
        find_program(self.command)
        for element in sorted(elements):
            self.potcar(element)

    def potcar(self, element: str) -> Path:
        """POTCAR of one element.

        Raises:
            ConfigError: there is none.
        """
        name = element + self.setups.get(element, "")
        path = Path(self.potcar_path).expanduser() / "potpaw_PBE" / name / "POTCAR"
        if not path.is_file():
            raise ConfigError(f"no POTCAR for {element}: '{path}' is missing; set potcar_path")
        return path

    def identity(self) -> dict[str, Any]:
        """Without the folder of the POTCARs."""
        return {k: v for k, v in super().identity().items() if k != "potcar_path"}

    def level(self, atoms: Atoms, version: str = "") -> str:
        """E.g. `VASP-6.3.0 PBE 520 eV ediff1e-06 k1x1x1 gauss0.05eV nspin1 Hf_pv+O ivdw=12`."""
        kinds = sorted(set(atoms.get_chemical_symbols()))
        names = "+".join(kind + self.setups.get(kind, "") for kind in kinds)
        mesh = "x".join(map(str, self.kpts))
        further = "".join(f" {key}={value}" for key, value in sorted(self.incar.items()))
        return (
            f"{program('VASP', version)} PBE {self.encut:g} eV ediff{self.ediff:g} k{mesh} "
            f"gauss{self.sigma:g}eV nspin{2 if self.spin else 1} {names}{further}"
        )

    def calculator(self, workdir: Path, safer: bool) -> Vasp:
        """ASE's VASP calculator, used to write the inputs only."""
        tags: dict[str, Any] = {
            "xc": "PBE",
            "pp": "PBE",
            "encut": self.encut,
            "ismear": 0,
            "sigma": self.sigma,
            "ediff": self.ediff,
            "nelm": self.nelm * (3 if safer else 1),
            "algo": "Normal" if safer else "Fast",
            "prec": "Accurate",
            "lreal": False,
            "lwave": False,
            "lcharg": False,
            "ibrion": -1,
            "nsw": 0,
            "isif": 2,
            "ispin": 2 if self.spin else 1,
            "kpts": self.kpts,
            "gamma": True,
        }
        return Vasp(directory=str(workdir), setups=self.setups, **(tags | self.incar))

    def label(self, atoms: Atoms, workdir: Path, safer: bool) -> Labels:
        """One frame; see `Engine.label`."""
        order = self.write_inputs(atoms, workdir, safer)
        text, code = run_program(self.command.split(), workdir, "vasp.out", self.max_cpu_hours)
        if code != 0:
            raise JobFailed(f"VASP stopped with exit code {code}", log=text[-LOG_TAIL_BYTES:])
        return read_run(workdir, order)

    def write_inputs(self, atoms: Atoms, workdir: Path, safer: bool) -> np.ndarray:
        """POSCAR, INCAR, KPOINTS, POTCAR; returns where VASP's atoms belong in `atoms`."""
        frame = Atoms(atoms.symbols, atoms.positions, cell=atoms.cell, pbc=True)
        old = os.environ.get("VASP_PP_PATH")
        os.environ["VASP_PP_PATH"] = str(Path(self.potcar_path).expanduser())
        try:
            calculator = self.calculator(workdir, safer)
            calculator.initialize(frame)
        finally:
            if old is None:
                del os.environ["VASP_PP_PATH"]
            else:
                os.environ["VASP_PP_PATH"] = old
        calculator.write_incar(frame, directory=str(workdir))
        calculator.write_kpoints(atoms=frame, directory=str(workdir))
        calculator.write_potcar(directory=str(workdir))
        write_vasp(workdir / "POSCAR", frame[calculator.sort])
        return np.asarray(calculator.resort)


def read_run(workdir: Path, order: np.ndarray) -> Labels:
    """Labels from `vasprun.xml`, atoms in the caller's order; the energy is the free energy.

    Raises:
        JobFailed: the output is torn, or the SCF used all its steps.
    """
    outcar = workdir / "OUTCAR"
    text = outcar.read_text(errors="replace") if outcar.is_file() else ""
    if "aborting loop because EDIFF is reached" not in text:
        raise JobFailed("the SCF did not converge", log=text[-LOG_TAIL_BYTES:])
    try:
        results = read(workdir / "vasprun.xml").calc.results
    except Exception as error:
        raise JobFailed(f"cannot read vasprun.xml: {error}") from error
    version = re.search(r"vasp\.(\S+)", text)
    stress = results.get("stress")
    return Labels(
        energy=float(results["free_energy"]),
        forces=np.asarray(results["forces"])[order],
        stress=None if stress is None else np.asarray(stress),
        version=version.group(1) if version else "unknown",
        details={},
    )
