"""A potential, a calculator or an ensemble against a reference, without a campaign."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from rich.console import Console
from typer.testing import CliRunner

from siliforce.benchmark.config import Simulation
from siliforce.benchmark.held_against import hold_against, pooled
from siliforce.cli import app
from siliforce.data.reference import EnergyCurve, EnergyVolume, Reference, Start
from siliforce.errors import ConfigError
from siliforce.indicators.adf import angular
from siliforce.indicators.base import Metric, Result
from siliforce.indicators.make_reference import make_reference
from siliforce.indicators.rdf import radial
from siliforce.indicators.tables import indicators_table
from siliforce.models import MODELS
from siliforce.simulation.batched import run_md
from tests.springs import Spring
from tests.toys import TOYS, DirectMorse, toy_potential

SHORT = Simulation(timestep=2, equilibration=0.01, production=0.02, frame_every=2)
CELL = bulk("Cu", "fcc", a=3.61, cubic=True)
SCALES = np.linspace(0.97, 1.03, 7)
DISTANCES = np.linspace(2.0, 6.0, 9)


def energy_of(atoms: Atoms) -> float:
    atoms.calc = EMT()
    return float(atoms.get_potential_energy())


@pytest.fixture(scope="module")
def reference() -> Reference:
    """Copper as EMT has it; the curves are those of a rattled crystal."""
    points = []
    for scale in SCALES:
        atoms = CELL.copy()
        atoms.set_cell(CELL.cell * scale, scale_atoms=True)
        points.append([scale, atoms.get_volume(), energy_of(atoms)])
    dimers = [Atoms("Cu2", [[0, 0, 0], [0, 0, d]], cell=[20] * 3, pbc=True) for d in DISTANCES]
    energies = np.array([energy_of(dimer.copy()) for dimer in dimers])
    rng, frames = np.random.default_rng(0), [CELL.repeat(2) for _ in range(3)]
    for frame in frames:
        frame.rattle(0.1, rng=rng)
    curves = {"rdf": radial(frames).curves(), "adf": angular(frames).curves()}
    return Reference(
        "copper",
        starts=[Start("crystal-300K", CELL.repeat(2), 300.0, **curves)],
        eos=[EnergyVolume("fcc", CELL, np.array(points))],
        pec=[EnergyCurve("Cu2", "distance", DISTANCES, energies, dimers)],
    )


def test_what_made_the_reference_has_no_error(reference: Reference, tmp_path: Path) -> None:
    results, _ = hold_against([EMT()], reference, md=SHORT, folder=tmp_path)
    value = {m.name: m.value for r in results for m in r.metrics}
    assert value["V0_error"] == pytest.approx(0, abs=1e-6)
    assert value["pec_energy_rmse"] == pytest.approx(0, abs=1e-9)
    assert value["survived_fraction"] == 1
    assert 0 < value["rdf_mae"] < 1, "three rattled frames are not 300 K, but the same crystal"
    assert {r.split for r in results} == {"id:fcc", "ood:Cu2", "id:crystal-300K"}
    only, _ = hold_against([EMT()], reference, ["pec"], folder=tmp_path)
    assert [r.indicator for r in only] == ["pec"]


def test_an_ensemble_gives_means_and_intervals(reference: Reference, tmp_path: Path) -> None:
    members = [MorsePotential(epsilon=e, r0=2.5, rcut1=5, rcut2=6) for e in (0.5, 0.6, 0.7)]
    alone = [hold_against([m], reference, ["pec"])[0][0] for m in members]
    (together,), _ = hold_against(members, reference, ["pec"])
    values = [r.value("pec_energy_rmse") for r in alone]
    metric = together.metric("pec_energy_rmse")
    assert metric.value == pytest.approx(np.mean(values))
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # Student, two degrees of freedom
    assert metric.high - metric.value == pytest.approx(half, rel=1e-6)
    assert together.provenance["n_pooled"] == 3


def test_replicas_that_failed_are_counted_not_averaged() -> None:
    def one(value: float | None, failure: str = "") -> Result:
        metric = Metric(name="rdf_mae", value=value, unit="1", better="lower")
        return Result(indicator="rdf", model="m", split="id:a", metrics=[metric], failure=failure)

    (found,) = pooled([one(0.1), one(None, "lost an atom"), one(0.3)])
    assert found.value("rdf_mae") == pytest.approx(0.2)
    assert found.metric("rdf_mae").note == "2 of 3 runs"
    assert found.failure == "1 of 3 runs: lost an atom"


def test_replicas_are_pooled(reference: Reference, tmp_path: Path) -> None:
    md = SHORT.model_copy(update={"replicas": 2})
    results, _ = hold_against([EMT()], reference, ["rdf", "survival"], md, tmp_path)
    counts = {r.indicator: r.provenance.get("n_pooled") for r in results}
    assert counts["rdf"] == 2
    assert next(r for r in results if r.indicator == "survival").provenance["n_runs"] == 2


def test_pressure_and_vibrations_are_held_against_the_reference(
    tmp_path: Path,
) -> None:
    md = Simulation(timestep=4, equilibration=0, production=0.2, frame_every=2, log_every=20)
    frames = run_md(CELL, EMT(), md.dynamics(300.0, 5)).frames
    aimd = tmp_path / "aimd.extxyz"
    for frame in frames:
        frame.calc = EMT()
        frame.calc = SinglePointCalculator(frame, stress=frame.get_stress())
    ase.io.write(aimd, frames)
    known = make_reference("copper", {"crystal-300K": aimd}, {}, {}, interval=8.0)
    results, notes = hold_against([EMT()], known, ["pressure", "vdos"], md, tmp_path)
    value = {m.name: m.value for r in results for m in r.metrics}
    assert abs(value["pressure_error"]) < known.starts[0].pressure.virial
    assert value["pressure_error"] == pytest.approx(
        value["pressure"] - known.starts[0].pressure.mean
    )
    assert 0 < value["vdos_wasserstein"] < 1
    assert notes == []
    direct = toy_potential(model=DirectMorse)
    results, _ = hold_against([direct], known, ["pressure"], md, tmp_path)
    console = Console(width=200)
    with console.capture() as shown:
        console.print(indicators_table(results))
    assert "not applicable" in shown.get()


def test_other_starts_and_other_weights_have_trajectories_of_their_own(
    reference: Reference, tmp_path: Path
) -> None:
    hotter = replace(reference.starts[0], name="crystal-600K", temperature=600.0)
    for depth in (0.3, 0.4):
        for starts in (reference.starts, [hotter]):
            some = replace(reference, starts=list(starts))
            hold_against([toy_potential(depth=depth)], some, ["survival"], SHORT, tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_other_parameters_of_a_calculator_are_other_runs(
    reference: Reference, tmp_path: Path
) -> None:
    """Also of one that states none: its folder is never taken up again."""
    home = reference.starts[0].atoms.positions
    sources = [
        *(EMT(asap_cutoff=short) for short in (False, True)),
        *(Spring(home, stiffness) for stiffness in (5.0, 9.0)),
    ]
    found = []
    for source in sources:
        results, _ = hold_against([source], reference, ["rdf"], SHORT, tmp_path)
        found.append(next(r for r in results if r.indicator == "dynamics").curves["potential"])
    assert found[0] != found[1]
    assert found[2] != found[3]


def test_bad_input_is_refused(reference: Reference) -> None:
    with pytest.raises(ConfigError, match="did you mean 'rdf'"):
        hold_against([EMT()], reference, ["rdff"])
    with pytest.raises(ConfigError, match="empty holds nothing for pec"):
        hold_against([EMT()], Reference("empty"), ["pec"])


def test_the_command_writes_results_that_the_report_shows(
    reference: Reference, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference.save(tmp_path / "copper")
    run = tmp_path / "run"
    monkeypatch.setattr("siliforce.models.MODELS", MODELS | TOYS)
    toy_potential().save(run / "best.safetensors")
    settings = [f"--set={k}={v}" for k, v in SHORT.model_dump(exclude_unset=True).items()]
    command = ["reference", "compare", str(tmp_path / "copper"), str(run), *settings]
    outcome = CliRunner().invoke(app, [*command, "--json"])
    assert outcome.exit_code == 0, outcome.output
    kinds = {r["indicator"] for r in json.loads(outcome.stdout)}
    assert kinds >= {"eos", "pec", "rdf", "adf", "survival", "pressure", "dynamics"}
    shown = CliRunner().invoke(app, [*command, "--only", "eos"])
    assert "id:fcc" in shown.output
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    page = (run / "report.html").read_text()
    assert "Against the reference" in page
    assert "Cu-Cu" in page
