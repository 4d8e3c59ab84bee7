"""VASP output with given labels, in VASP's own form, units and sign."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import units

from siliforce.data import Frame

KBAR = 0.1 * units.GPa


def write_vasprun(path: Path, frames: list[Frame], sigma_zero: float) -> Path:
    """`vasprun.xml`; the energy extrapolated to zero smearing is higher by `sigma_zero` eV."""
    symbols = frames[0].to_atoms().get_chemical_symbols()
    atoms = "".join(f"<rc><c>{s:<2}</c><c>   1</c></rc>" for s in symbols)
    initial = _structure(frames[0], ' name="initialpos"')
    steps = "".join(_calculation(frame, sigma_zero) for frame in frames)
    path.write_text(
        '<?xml version="1.0" encoding="ISO-8859-1"?><modeling>'
        '<generator><i name="program" type="string">vasp</i></generator>'
        '<kpoints><varray name="kpointlist"><v> 0.0 0.0 0.0 </v></varray>'
        '<varray name="weights"><v> 1.0 </v></varray></kpoints>'
        '<parameters><separator name="ionic"><i name="PSTRESS"> 0.0</i></separator></parameters>'
        f'<atominfo><atoms> {len(symbols)} </atoms><array name="atoms"><set>{atoms}</set></array>'
        f"</atominfo>{initial}{steps}</modeling>\n"
    )
    return path


def _structure(frame: Frame, name: str = "") -> str:
    scaled = frame.positions @ np.linalg.inv(frame.cell)
    return (
        f'<structure{name}><crystal><varray name="basis">{_rows(frame.cell)}</varray></crystal>'
        f'<varray name="positions">{_rows(scaled)}</varray></structure>'
    )


def _calculation(frame: Frame, sigma_zero: float) -> str:
    assert frame.forces is not None
    assert frame.stress is not None
    energy = (
        f'<energy><i name="e_fr_energy">{frame.energy:.8f}</i>'
        f'<i name="e_wo_entrp">{frame.energy + 2 * sigma_zero:.8f}</i>'
        f'<i name="e_0_energy">{frame.energy + sigma_zero:.8f}</i></energy>'
    )
    return (
        f"<calculation><scstep>{energy}</scstep>{_structure(frame)}"
        f'<varray name="forces">{_rows(frame.forces)}</varray>'
        f'<varray name="stress">{_rows(-frame.stress / KBAR)}</varray>{energy}</calculation>'
    )


def _rows(table: np.ndarray) -> str:
    return "".join("<v>" + " ".join(f"{x:.12f}" for x in row) + "</v>" for row in table)


def write_outcar(path: Path, frames: list[Frame], sigma_zero: float) -> Path:
    """`OUTCAR`, as far as readers look at it."""
    symbols = frames[0].to_atoms().get_chemical_symbols()
    potential = f" POTCAR:    PAW_PBE {symbols[0]} 22Jun2005\n"
    head = (
        " vasp.6.4.2 20Jul23 (build) complex\n"
        + 2 * potential
        + "   ISPIN  =      1    spin polarized calculation?\n"
        f"   ions per type =              {len(symbols)}\n"
        "   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   "
        "number of bands    NBANDS=     48\n"
        " k-points in reciprocal lattice and weights: Gamma\n"
        "   0.00000000  0.00000000  0.00000000       1.000\n\n"
    )
    path.write_text(head + "".join(_step(k, f, sigma_zero) for k, f in enumerate(frames)))
    return path


def _step(number: int, frame: Frame, sigma_zero: float) -> str:
    assert frame.forces is not None
    assert frame.stress is not None
    xx, yy, zz, xy, yz, zx = (
        -frame.stress[a, b] / KBAR for a, b in ((0, 0), (1, 1), (2, 2), (0, 1), (1, 2), (2, 0))
    )
    cell = "\n".join(
        " " + " ".join(f"{x:14.9f}" for x in (*row, *inverse))
        for row, inverse in zip(frame.cell, np.linalg.inv(frame.cell).T, strict=True)
    )
    atoms = "\n".join(
        " " + " ".join(f"{x:13.8f}" for x in (*r, *f))
        for r, f in zip(frame.positions, frame.forces, strict=True)
    )
    rule = " " + 83 * "-"
    return f"""
--------------------------------------- Iteration {number + 1:6d}(  12)  ---------------------------

  FORCE on cell =-STRESS in cart. coord.  units (eV):
  in kB  {xx:12.6f} {yy:12.6f} {zz:12.6f} {xy:12.6f} {yz:12.6f} {zx:12.6f}

 VOLUME and BASIS-vectors are now :
  volume of cell : {abs(np.linalg.det(frame.cell)):12.2f}
      direct lattice vectors                 reciprocal lattice vectors
{cell}

 POSITION                                       TOTAL-FORCE (eV/Angst)
{rule}
{atoms}
{rule}

  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  = {frame.energy:18.8f} eV

  energy  without entropy= {frame.energy + 2 * sigma_zero:18.8f}  energy(sigma->0) = \
{frame.energy + sigma_zero:18.8f}

"""
