"""A potential behind a pipe: one JSON request per line in, one JSON answer per line out.

Run by path with any Python that has ASE and the wanted package (its own environment), so that
packages that cannot be installed together can still work together. Nothing of siliforce is
imported unless the potential is ours.

    python server.py '{"kind": "chgnet", "settings": {}, "cpu_seconds": 3600}'
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from ase import Atoms
from ase.units import Bohr, Hartree


def _emt(settings: dict[str, Any]) -> Any:
    from ase.calculators.emt import EMT

    return EMT(**settings)


def _lennard_jones(settings: dict[str, Any]) -> Any:
    from ase.calculators.lj import LennardJones

    return LennardJones(**settings)


def _stillinger_weber(settings: dict[str, Any]) -> Any:
    from siliforce.generate.stillinger_weber import StillingerWeber

    return StillingerWeber(**settings)


def _nep(settings: dict[str, Any]) -> Any:
    return import_module("nep_adapters.ase").NepAseCalculator(settings["model"])


def _chgnet(settings: dict[str, Any]) -> Any:
    return import_module("chgnet.model.dynamics").CHGNetCalculator(use_device="cpu", **settings)


def _sevennet(settings: dict[str, Any]) -> Any:
    return import_module("sevenn.calculator").SevenNetCalculator(
        settings.get("model", "7net-0"), device="cpu"
    )


def _tblite(settings: dict[str, Any]) -> Any:
    return import_module("tblite.ase").TBLite(**({"method": "GFN1-xTB", "verbosity": 0} | settings))


def _siliforce(settings: dict[str, Any]) -> Any:
    return import_module("siliforce.simulation.calculator").SiliforceCalculator(settings["model"])


def _gpaw(settings: dict[str, Any]) -> Any:
    gpaw = import_module("gpaw")
    settings = dict(settings)
    cutoff = settings.pop("ecut")
    width = settings.pop("fermi_width", 0.05)
    settings.setdefault("txt", "gpaw.txt")
    return gpaw.GPAW(mode=gpaw.PW(cutoff), xc="PBE", occupations=gpaw.FermiDirac(width), **settings)


class PySCFMolecule:
    """PBE energy and forces of a molecule with density fitting; spin from the electron count."""

    def __init__(self, basis: str = "def2-TZVP", xc: str = "pbe", grid: int = 2) -> None:
        self.basis, self.xc, self.grid = basis, xc, grid

    def compute(self, atoms: Atoms) -> dict[str, Any]:
        """Energy [eV], forces [eV/Å] and the number of SCF cycles."""
        dft, gto = import_module("pyscf.dft"), import_module("pyscf.gto")
        pairs = zip(atoms.get_chemical_symbols(), atoms.positions, strict=True)
        spin = int(atoms.numbers.sum()) % 2
        molecule = gto.M(
            atom=[(symbol, tuple(xyz)) for symbol, xyz in pairs],
            basis=self.basis,
            spin=spin,
            verbose=0,
        )
        field = (dft.UKS if spin else dft.RKS)(molecule, xc=self.xc).density_fit()
        field.grids.level = self.grid
        field.conv_tol = 1e-9
        energy = field.kernel()
        if not field.converged:
            raise RuntimeError("the SCF did not converge")
        gradient = field.nuc_grad_method()
        gradient.grid_response = True
        forces = -gradient.kernel() * Hartree / Bohr
        return {
            "energy": energy * Hartree,
            "forces": forces.tolist(),
            "version": package_version("pyscf"),
        }


def _pyscf(settings: dict[str, Any]) -> Any:
    return PySCFMolecule(**settings)


BUILDERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "emt": _emt,
    "lj": _lennard_jones,
    "stillinger-weber": _stillinger_weber,
    "nep": _nep,
    "chgnet": _chgnet,
    "sevennet": _sevennet,
    "tblite": _tblite,
    "siliforce": _siliforce,
    "gpaw": _gpaw,
    "pyscf": _pyscf,
}
PACKAGES = {
    "nep": "nep_adapters",
    "chgnet": "chgnet",
    "sevennet": "sevenn",
    "tblite": "tblite",
    "gpaw": "gpaw",
    "pyscf": "pyscf",
}


def package_version(kind: str) -> str:
    """Version of the package behind a kind."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(PACKAGES.get(kind, "ase").replace("_", "-"))
    except PackageNotFoundError:
        return "unknown"


def answer(calculator: Any, request: dict[str, Any], version: str) -> dict[str, Any]:
    """Compute one request."""
    atoms = Atoms(
        numbers=request["numbers"],
        positions=request["positions"],
        cell=request["cell"],
        pbc=request["pbc"],
    )
    if hasattr(calculator, "compute"):
        return dict(calculator.compute(atoms))
    if request.get("magmoms") is not None:
        atoms.set_initial_magnetic_moments(request["magmoms"])
    atoms.calc = calculator
    forces = atoms.get_forces()
    try:  # forces belong to the free energy
        energy = float(atoms.get_potential_energy(force_consistent=True))
    except Exception:  # potentials without smearing have one energy only
        energy = float(atoms.get_potential_energy())
    reply = {"energy": energy, "forces": np.asarray(forces).tolist(), "version": version}
    if request["stress"]:
        reply["stress"] = np.asarray(atoms.get_stress()).tolist()
    return reply


def allow(cpu_seconds: int) -> None:
    """So much CPU time from now on, whatever was used before."""
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    limit = int(time.process_time()) + max(cpu_seconds, 1)
    resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))


def serve(kind: str, settings: dict[str, Any], cpu_seconds: int) -> None:
    """Answer requests until the pipe closes. What packages print goes to standard error.

    Args:
        cpu_seconds: for the start, and again for every request.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    allow(cpu_seconds)
    try:
        calculator = BUILDERS[kind](settings)
        ready: dict[str, Any] = {"ready": package_version(kind)}
    except Exception as error:
        ready = {"missing": f"{type(error).__name__}: {error}"}
    print(json.dumps(ready), file=replies, flush=True)
    for line in sys.stdin:
        allow(cpu_seconds)
        try:
            reply = answer(calculator, json.loads(line), ready["ready"])
        except Exception as error:
            traceback.print_exc()
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), file=replies, flush=True)


if __name__ == "__main__":
    serve(**json.loads(sys.argv[1]))
