"""References from a user's own files, on the command line and back."""

from __future__ import annotations

from pathlib import Path

import ase.io
import ase.units
import numpy as np
import pytest
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from typer.testing import CliRunner

from siliforce.cli import app
from siliforce.data.reference import Reference
from siliforce.errors import DataError
from siliforce.indicators.adf import adf
from siliforce.indicators.make_reference import make_reference
from siliforce.indicators.rdf import radial, rdf
from siliforce.indicators.vdos import density_of_states, undamped
from tests.unit.indicators.test_distributions import hot_crystal
from tests.unit.indicators.test_observables import harmonic_trajectory


def labelled(atoms: Atoms, energy: float, **info: float) -> Atoms:
    atoms = atoms.copy()
    atoms.info = dict(info)
    atoms.calc = SinglePointCalculator(atoms, energy=energy)
    return atoms


def files(folder: Path) -> dict[str, Path]:
    """A trajectory, an equation of state, a dimer and a cluster."""
    crystal = hot_crystal(0)
    scaled = []
    for scale in (1.02, 0.98, 1.0, 0.99, 1.01):
        image = crystal.copy()
        image.set_cell(crystal.cell * scale, scale_atoms=True)
        scaled.append(labelled(image, 40 * (scale - 1) ** 2))
    dimers = [
        labelled(Atoms("CuZn", [[0, 0, 0], [x, 0, 0]], cell=[9, 9, 9]), -1 / x) for x in (3, 2, 4)
    ]
    trimers = [
        labelled(Atoms("Cu3", [[0, 0, 0], [2, 0, 0], [0, 2, 0]]), a / 9, angle=float(a))
        for a in (60, 90, 120)
    ]
    found = {}
    for name, frames in {
        "hot": [hot_crystal(k) for k in range(12)],
        "eos": scaled,
        "dimer": dimers,
        "trimer": trimers,
    }.items():
        found[name] = folder / f"{name}.extxyz"
        ase.io.write(found[name], frames)
    return found


def test_made_and_scored_against_itself(tmp_path: Path) -> None:
    path = files(tmp_path)
    words = f"reference make brass --aimd crystal-900K={path['hot']} --skip 2 --ood crystal-900K"
    words += f" --eos {path['eos']} --pec CuZn={path['dimer']} --pec {path['trimer']}"
    words += f" --licence mine --out {tmp_path / 'brass'}"
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 0, done.output
    assert "ood:crystal-900K" in done.output
    made = Reference.load(tmp_path / "brass")
    start = made.start("crystal-900K")
    assert (start.temperature, start.ood, made.licence) == (900, True, "mine")
    frames = ase.io.read(path["hot"], index="2:")
    assert rdf("itself", frames, start).value("rdf_mae") == 0
    assert adf("itself", frames, start).value("adf_wasserstein") == 0
    assert start.noise.keys() == {"rdf_mae", "rdf_wasserstein", "adf_mae", "adf_wasserstein"}
    assert rdf("other", [hot_crystal(99)], start).value("rdf_mae") > start.noise["rdf_mae"]
    np.testing.assert_allclose(start.rdf.values["Cu-Cu"], radial(frames).curves().values["Cu-Cu"])
    assert start.rdf.errors["Cu-Cu"].max() > 0

    (scan,) = made.eos
    np.testing.assert_allclose(scan.points[:, 0], [0.98, 0.99, 1.0, 1.01, 1.02])
    np.testing.assert_allclose(scan.points[:, 2], 40 * (scan.points[:, 0] - 1) ** 2, atol=1e-9)
    np.testing.assert_allclose(scan.atoms.get_volume(), scan.points[2, 1])
    dimer, trimer = made.pec
    assert (dimer.coordinate, dimer.x.tolist(), trimer.x.tolist()) == (
        "distance",
        [2, 3, 4],
        [60, 90, 120],
    )
    np.testing.assert_allclose(dimer.energy, -1 / dimer.x)
    assert trimer.coordinate == "angle"
    shown = CliRunner().invoke(app, ["reference", "show", str(tmp_path / "brass")])
    assert "3 points, 60 to 120 degree" in shown.output


def test_pressure_and_vibrations_of_a_trajectory(tmp_path: Path) -> None:
    """A chain on springs, with stresses: by velocities, and by positions 8 fs apart."""
    frames = harmonic_trajectory(96, 8.0)[0]
    rng = np.random.default_rng(0)
    stresses = 0.01 * rng.normal(size=(96, 6)) - 0.02
    apart = np.array([[x, y, y] for y in (0, 4) for x in (0, 3, 6)], dtype=float)
    for k, (frame, stress) in enumerate(zip(frames, stresses, strict=True)):
        # Positions of which these velocities are the middle differences, in a cell of 9 Å.
        moved = frames[k - 1].get_velocities() * 8.0 * ase.units.fs if k else 0.0
        frame.positions = (frames[k - 1].positions + moved) if k else apart
        frame.calc = SinglePointCalculator(frame, energy=0.0, stress=stress)
    for frame in frames:
        frame.wrap()
    ase.io.write(tmp_path / "chain.extxyz", frames)
    words = f"reference make chain --aimd hot-300K={tmp_path / 'chain.extxyz'} --interval 8"
    done = CliRunner().invoke(app, [*words.split(), "--out", str(tmp_path / "chain")])
    assert done.exit_code == 0, done.output
    start = Reference.load(tmp_path / "chain").starts[0]
    kinetic = [2 * f.get_kinetic_energy() / (3 * f.get_volume()) for f in frames]
    virial = -stresses[:, :3].mean(axis=1) / ase.units.GPa
    assert start.pressure.mean == pytest.approx(np.mean(kinetic) / ase.units.GPa + virial.mean())
    assert start.pressure.virial == pytest.approx(np.sqrt(np.mean(virial**2)))
    assert 0.3 < start.pressure.error / (virial.std() / 96**0.5) < 3
    assert start.noise["pressure_error"] == pytest.approx(1.128 * start.pressure.error, rel=0.2)
    assert "GPa" in done.output
    expected = density_of_states(frames, 8.0)
    np.testing.assert_allclose(start.vdos.values["Ge"], expected.values["Ge"], atol=1e-9)
    assert start.noise["vdos_wasserstein"] > 0

    ase.io.write(tmp_path / "still.extxyz", [Atoms(f.symbols, f.positions, cell=f.cell, pbc=True)
                                             for f in frames])  # fmt: skip
    made = make_reference("x", {"a-300K": tmp_path / "still.extxyz"}, {}, {}, interval=8.0)
    (still,) = made.starts
    assert still.pressure is None
    expected = undamped(density_of_states(frames[:-1], 8.0), 8.0)
    np.testing.assert_allclose(still.vdos.values["Ge"], expected.values["Ge"], atol=1e-6)
    plain = make_reference("x", {"a-300K": tmp_path / "chain.extxyz"}, {}, {}).starts[0]
    assert plain.vdos is None
    with pytest.raises(DataError, match="a-300K: a density of states needs 16"):
        make_reference("x", {"a-300K": tmp_path / "still.extxyz"}, {}, {}, skip=90, interval=8.0)


def test_what_cannot_be_a_reference(tmp_path: Path) -> None:
    path = files(tmp_path)

    def make(aimd: dict = {}, eos: dict = {}, pec: dict = {}, **more: object) -> None:  # noqa: B006
        make_reference("x", aimd, eos, pec, **more)

    with pytest.raises(DataError, match="at what temperature"):
        make({"hot": path["hot"]})
    with pytest.raises(DataError, match="12 frames, of which 12"):
        make({"a-1K": path["hot"]}, skip=12)
    with pytest.raises(DataError, match="no energy in hot"):
        make(eos={"a": path["hot"]})
    with pytest.raises(DataError, match="needs five frames, not 3"):
        make(eos={"a": path["dimer"]})
    with pytest.raises(DataError, match="no such file"):
        make(pec={"a": tmp_path / "nothing.xyz"})
    with pytest.raises(DataError, match="cold is neither a start nor a structure"):
        make(eos={"a": path["eos"]}, ood=["cold"])
    strained = ase.io.read(path["eos"], index=":")
    strained[3].set_cell(strained[3].cell.array * [[1.02], [1], [1]], scale_atoms=True)
    ase.io.write(tmp_path / "strained.extxyz", strained)
    with pytest.raises(DataError, match="scaled isotropically"):
        make(eos={"a": tmp_path / "strained.extxyz"})
    cluster = [labelled(Atoms("Cu3", np.eye(3) * k), 1.0 * k) for k in (2, 3, 4)]
    ase.io.write(tmp_path / "cluster.extxyz", cluster)
    with pytest.raises(DataError, match="needs its distance"):
        make(pec={"a": tmp_path / "cluster.extxyz"})
    twins = ase.io.read(path["dimer"], index=":") * 2
    ase.io.write(tmp_path / "twins.extxyz", twins)
    with pytest.raises(DataError, match="the same distance"):
        make(pec={"a": tmp_path / "twins.extxyz"})
