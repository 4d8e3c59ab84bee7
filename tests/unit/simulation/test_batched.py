"""Many runs at once: each as if alone, failures kept apart, interruptions without a trace."""

from __future__ import annotations

import signal
import subprocess
import sys
import warnings
from pathlib import Path

import ase.units
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential
from ase.io import read

from siliforce.errors import ConfigError, DataError
from siliforce.generate.engines.potential import PythonEngine
from siliforce.generate.sampling import EngineCalculator
from siliforce.graph import Graph
from siliforce.models.base import RawOutput
from siliforce.simulation.batched import identity, run_batch, run_md
from siliforce.simulation.md import MDConfig, Progress, Status
from tests.springs import Spring
from tests.toys import DirectMorse, Morse, toy_potential

ROOT = Path(__file__).resolve().parents[3]
SHORT = MDConfig(timestep=2.0, equilibration=0.04, production=0.08, frame_every=10, max_heating=20)


def crystal(repeat: tuple[int, int, int] = (2, 2, 1)) -> Atoms:
    return bulk("Cu", "fcc", a=3.7, cubic=True).repeat(repeat)


def mixture() -> list[Atoms]:
    """Two sizes and a cluster."""
    cluster = Atoms("Cu4", positions=[[0, 0, 0], [2.6, 0, 0], [0, 2.6, 0], [0, 0, 2.6]])
    return [crystal(), crystal((1, 1, 1)), cluster]


@pytest.mark.parametrize("thermostat", ["bussi", "nose-hoover", "langevin"])
def test_a_batch_equals_its_members_one_by_one(thermostat):
    configs = [
        SHORT.model_copy(update={"thermostat": thermostat, "temperature": t, "seed": s})
        for t, s in ((300.0, 1), (700.0, 5), (150.0, 1))
    ]
    together = run_batch(toy_potential(), mixture(), configs)
    for atoms, config, run in zip(mixture(), configs, together, strict=True):
        alone = run_md(atoms, toy_potential(), config)
        assert run.failure is None
        assert run.steps == alone.steps == 60
        assert run.config == config
        for name, column in alone.log.items():
            np.testing.assert_allclose(run.log[name], column, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(run.frames[-1].positions, alone.frames[-1].positions, atol=1e-9)


@pytest.mark.parametrize("ensemble", ["nve", "nvt"])
def test_models_that_predict_forces_directly_run_too(ensemble):
    potential = toy_potential(model=DirectMorse)
    assert any(p.requires_grad for p in potential.parameters())
    runs = run_batch(potential, mixture(), SHORT.model_copy(update={"ensemble": ensemble}))
    for run in runs:  # the toy's forces are no gradient: its energy may drift
        assert run.failure is None or (ensemble, run.failure.reason) == ("nve", "energy drift")
        assert run.steps > 10
        assert np.isfinite(run.log["conserved"]).all()


def test_one_configuration_gives_every_run_a_seed_of_its_own():
    runs = run_batch(toy_potential(), [crystal((1, 1, 1))] * 2, SHORT)
    assert [r.config.seed for r in runs] == [0, 1]
    assert runs[0].log["potential"] != runs[1].log["potential"]


class Fragile(Morse):
    """Has no answer for pairs closer than 2.1 Å."""

    def forward(self, graph: Graph) -> RawOutput:
        """NaN for the atoms concerned."""
        energy = super().forward(graph).atom_energy
        close = graph.center[graph.edge_lengths < 2.1]
        return RawOutput(energy.index_add(0, close, torch.full((len(close),), torch.nan).double()))


@pytest.mark.parametrize("kind", ["explodes", "not a number", "collapses"])
def test_a_failing_run_is_taken_out_and_the_others_go_on(kind):
    good = [crystal((1, 1, 1)), crystal((2, 1, 1))]
    sick = crystal((1, 1, 1))
    model, changes = Morse, {}
    if kind == "explodes":
        sick.positions[1] = sick.positions[0] + [1.3, 0, 0]
    elif kind == "not a number":
        model, changes = Fragile, {"log_every": 1000}
        sick.positions[1] = sick.positions[0] + [2.105, 0, 0]
        sick.set_cell(sick.cell * 0.93, scale_atoms=True)
        sick.positions[1] = sick.positions[0] + [2.105, 0, 0]
    else:  # attracts at every distance
        changes = {"log_every": 1000}
        sick = Atoms("Cu2", positions=[[0, 0, 0], [1.0, 0, 0]])
    potential = toy_potential(model=model)
    config = SHORT.model_copy(update=changes)
    runs = run_batch(potential, [good[0], sick, good[1]], [config.model_copy()] * 3)
    assert runs[1].failure is not None, kind
    assert runs[1].survived < 0.12
    assert runs[1].failure.time == pytest.approx(runs[1].survived)
    for run, atoms in ((runs[0], good[0]), (runs[2], good[1])):
        assert run.failure is None
        alone = run_md(atoms, potential, config)
        np.testing.assert_allclose(run.log["conserved"], alone.log["conserved"], rtol=1e-7)
    reasons = {"explodes": ("temperature runaway", "energy drift", "close contact")}
    assert runs[1].failure.reason in reasons.get(kind, ("not a number", "close contact"))


def test_all_may_fail():
    config = SHORT.model_copy(update={"max_drift": 1e-9, "ensemble": "nve"})
    runs = run_batch(toy_potential(), [crystal((1, 1, 1))] * 2, config)
    assert [r.failure.reason for r in runs] == ["energy drift"] * 2


def test_a_drift_ends_no_run_under_a_thermostat():
    """Forces that are no gradient drift where the thermostat takes up what they put in."""
    config = SHORT.model_copy(update={"max_drift": 1e-9})
    run = run_md(crystal((1, 1, 1)), toy_potential(), config)
    assert run.failure is None
    assert np.isfinite(run.drift())
    paper = MDConfig.paper(300.0, max_drift=1e-9, equilibration=0.03, production=0.06)
    assert run_md(crystal(), toy_potential(), paper).failure is None
    nve = run_md(crystal(), toy_potential(), config.model_copy(update={"ensemble": "nve"}))
    assert nve.failure.reason == "energy drift"
    assert nve.failure.time > nve.config.equilibration


def test_a_run_that_a_former_judgement_ended_is_begun_again(tmp_path, monkeypatch):
    config, starts = SHORT.model_copy(update={"max_drift": 1e-9}), [crystal((1, 1, 1))]
    with monkeypatch.context() as former:
        former.setattr(MDConfig, "judges_drift", lambda self, time: True)
        ended = run_batch(toy_potential(), starts, config, tmp_path)
        assert ended[0].failure.reason == "energy drift"
    again = run_batch(toy_potential(), starts, config, tmp_path)
    assert again[0].failure is None
    assert len(read(tmp_path / "run-0.xyz", index=":")) == len(again[0].frames) == 5


def test_calculators_run_one_after_another_with_the_same_records(tmp_path):
    seen, starts = [], [crystal((1, 1, 1)), crystal((2, 1, 1))]
    runs = run_batch(EMT(), starts, SHORT, out=tmp_path, progress=seen.append)
    assert [r.n_atoms for r in runs] == [4, 8]
    assert (seen[-1].done, seen[-1].total) == (120, 120)
    assert "pressure" in runs[0].log
    assert len(read(tmp_path / "run-1.xyz", index=":")) == len(runs[1].frames) == 5
    again = run_batch(EMT(), starts, SHORT, out=tmp_path)
    assert [r.log for r in again] == [r.log for r in runs]


def test_a_log_without_units_is_written_anew_when_its_runs_are_taken_up(tmp_path):
    """Half of a file in other units would be worse than none."""
    run_batch(toy_potential(), [crystal((1, 1, 1))], SHORT, tmp_path)
    path = tmp_path / "run-0.csv"
    whole = path.read_text()
    path.write_text("time,temperature\n0,300\n")
    run_batch(toy_potential(), [crystal((1, 1, 1))], SHORT, tmp_path)
    assert path.read_text() == whole


def test_the_runs_of_one_calculator_are_not_taken_for_those_of_another(tmp_path):
    starts = [crystal((1, 1, 1))]
    run_batch(MorsePotential(epsilon=0.3, r0=2.6), starts, SHORT, out=tmp_path / "morse")
    with pytest.raises(ConfigError, match="holds other runs"):
        run_batch(MorsePotential(epsilon=0.4, r0=2.6), starts, SHORT, out=tmp_path / "morse")
    home = starts[0].positions.copy()  # a spring states no parameters: nobody knows which it was
    run_batch(Spring(home), starts, SHORT, out=tmp_path / "spring")
    with pytest.raises(ConfigError, match="states no parameters"):
        run_batch(Spring(home, stiffness=6.0), starts, SHORT, out=tmp_path / "spring")


def test_the_identity_of_a_calculator_is_its_class_and_parameters():
    assert identity(MorsePotential(r0=2.6, rho0=4)) == identity(MorsePotential(rho0=4, r0=2.6))
    assert identity(MorsePotential(r0=2.6)) != identity(MorsePotential(r0=2.7))
    assert identity(EMT()) == identity(EMT()) != identity(MorsePotential())
    odd = EMT()
    odd.parameters["callback"] = print  # cannot be written down
    assert identity(odd) != identity(odd)
    engines = [PythonEngine(engine="lj", settings={"sigma": s}) for s in (3.0, 3.4, 3.4)]
    small, large, same = (identity(EngineCalculator(engine)) for engine in engines)
    assert small != large == same


def test_an_ensemble_moves_by_its_mean_and_says_where_it_disagrees():
    members = [toy_potential(depth=d) for d in (0.30, 0.38)]
    run = run_batch(members, [crystal((1, 1, 1))], SHORT)[0]
    mean = run_batch(toy_potential(depth=0.34), [crystal((1, 1, 1))], SHORT)[0]
    np.testing.assert_allclose(run.log["potential"], mean.log["potential"], rtol=1e-9)
    assert max(run.log["spread"]) > 0.01
    assert "spread" not in mean.log


def test_pressure_of_the_log_is_that_of_ase():
    run = run_md(crystal(), toy_potential(), SHORT)
    frame = run.frames[-1]
    from siliforce.simulation.calculator import SiliforceCalculator

    frame.calc = SiliforceCalculator(toy_potential(), device="cpu")
    stress = frame.get_stress(voigt=False, include_ideal_gas=True)
    assert run.log["pressure"][-1] == pytest.approx(-np.trace(stress) / 3, abs=1e-9)
    assert run.log["volume"][-1] == pytest.approx(frame.get_volume())


def test_barostat_holds_the_pressure_and_its_accounts_balance():
    config = MDConfig(
        ensemble="npt", pressure=1.0, temperature=80, timestep=5.0, equilibration=0.5,
        production=1.5, tau=50, tau_pressure=200, compressibility=0.01, log_every=5,
        max_heating=10.0,  # four atoms may well have three times the temperature
    )  # fmt: skip
    runs = run_batch(toy_potential(), [crystal((1, 1, 1))] * 12, config)
    assert all(r.failure is None for r in runs)
    pressure = np.concatenate([r.production("pressure") for r in runs]) / ase.units.GPa
    assert pressure.mean() == pytest.approx(1.0, abs=0.6)
    assert pressure.std() > 0.5
    conserved = np.array([r.production("conserved") for r in runs]) / 4
    assert np.abs(conserved - conserved[:, :1]).max() < 5e-3
    volume = np.array([r.production("volume") for r in runs])
    assert 0.002 < volume.std() / volume.mean() < 0.03
    frame = runs[0].frames[-1]
    assert frame.get_volume() == pytest.approx(volume[0][-1], rel=0.02)
    still = run_md(frame, toy_potential(), config.model_copy(update={"ensemble": "nvt"}))
    assert still.log["volume"][0] == still.log["volume"][-1]


SCRIPT = """
import os, signal, sys
import torch
from pathlib import Path
from siliforce.simulation.batched import run_batch
from tests.unit.simulation.test_batched import LONG, crystal, mixture
from tests.toys import toy_potential

def stop(status):
    if status.done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

config = LONG.model_copy(update={"thermostat": sys.argv[3]})
run_batch(toy_potential(), mixture(), config, Path(sys.argv[1]), stop, checkpoint_every=0.0)
"""
LONG = SHORT.model_copy(update={"equilibration": 0.1, "production": 0.2})


def same_runs(one: Path, other: Path, thermostat: str) -> None:
    """What is read from two finished folders agrees to rounding, and the files in length."""
    config = LONG.model_copy(update={"thermostat": thermostat})
    finished = [run_batch(toy_potential(), mixture(), config, out) for out in (one, other)]
    for k, (a, b) in enumerate(zip(*finished, strict=True)):
        assert a.steps == b.steps
        for name, column in a.log.items():
            np.testing.assert_allclose(b.log[name], column, rtol=1e-7, atol=1e-9)
        assert len(a.frames) == len(b.frames) > 3
        for x, y in zip(a.frames, b.frames, strict=True):
            np.testing.assert_allclose(x.positions, y.positions, atol=2e-8)
        for name in (f"run-{k}.xyz", f"run-{k}.csv"):
            assert (one / name).stat().st_size == (other / name).stat().st_size


def test_killed_and_taken_up_again_is_the_same_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "killed"), "70", "bussi"],
        cwd=ROOT, env={"PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
    with (tmp_path / "killed" / "run-0.xyz").open("a") as file:
        file.write("4\nLattice=")  # a frame torn by the kill
    same_runs(tmp_path / "whole", tmp_path / "killed", "bussi")


@pytest.mark.parametrize("thermostat", ["nose-hoover", "langevin"])
def test_interrupted_and_taken_up_again_is_the_same_run(tmp_path, thermostat):
    def stopper(steps: int) -> Progress:
        def stop(status: Status) -> None:
            if status.done == steps:
                raise KeyboardInterrupt

        return stop

    config = LONG.model_copy(update={"thermostat": thermostat})
    out = tmp_path / "stopped"
    for steps in (0, 10, 50, 100):
        with pytest.raises(KeyboardInterrupt):
            run_batch(toy_potential(), mixture(), config, out, stopper(steps), checkpoint_every=0.0)
    same_runs(tmp_path / "whole", out, thermostat)


def test_a_folder_of_other_runs_is_refused(tmp_path):
    run_batch(toy_potential(), [crystal((1, 1, 1))], SHORT, tmp_path)
    done = run_batch(toy_potential(), [crystal((1, 1, 1))], SHORT, tmp_path)
    assert done[0].steps == 60
    other = SHORT.model_copy(update={"temperature": 310.0})
    with pytest.raises(ConfigError, match="holds other runs"):
        run_batch(toy_potential(), [crystal((1, 1, 1))], other, tmp_path)
    (tmp_path / "state.npz").write_bytes(b"half")
    with pytest.raises(DataError, match=r"state\.npz: damaged"):
        run_batch(toy_potential(), [crystal((1, 1, 1))], SHORT, tmp_path)


def test_out_of_memory_halves_the_batch_and_says_so(monkeypatch):
    potential, seen = toy_potential(), []
    forward = type(potential).forward

    def limited(self, graph, **options):
        seen.append(graph.n_systems)
        if graph.n_systems > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, graph, **options)

    starts = [*mixture(), crystal((1, 1, 1)), crystal((1, 1, 1))]
    whole = run_batch(potential, starts, SHORT)
    monkeypatch.setattr(type(potential), "forward", limited)
    with pytest.warns(UserWarning, match="in 4 pieces"):
        pieces = run_batch(potential, starts, SHORT)
    assert max(seen[5:]) <= 2
    for a, b in zip(whole, pieces, strict=True):
        np.testing.assert_allclose(a.log["potential"], b.log["potential"], rtol=1e-9)


def test_bad_input_is_refused_before_anything_runs():
    potential, config = toy_potential(), MDConfig(ensemble="npt")
    with pytest.raises(ConfigError, match="needs the stress"):
        run_batch(toy_potential(model=DirectMorse), [crystal()], config)
    with pytest.raises(ConfigError, match="periodic in three"):
        run_batch(potential, mixture(), config)
    with pytest.raises(ConfigError, match="share timestep"):
        run_batch(potential, mixture()[:2], [SHORT, SHORT.model_copy(update={"timestep": 1.0})])
    with pytest.raises(ConfigError, match="3 configurations for 1"):
        run_batch(potential, mixture()[:1], [SHORT] * 3)
    with pytest.raises(ConfigError, match="no structure"):
        run_batch(potential, [], SHORT)
    close = crystal((1, 1, 1))
    close.positions[1] = close.positions[0] + [0.4, 0, 0]
    with pytest.raises(DataError, match=r"start 1 \(Cu4\) has atoms 0\.40 Å apart"):
        run_batch(potential, [crystal(), close], SHORT)
    with pytest.raises(DataError, match="not Ag"):
        run_batch(potential, [crystal(), bulk("Ag", cubic=True)], SHORT)
    for ensemble in ("nvt", "nve"):
        with pytest.raises(ValueError, match=f"pressure 3.0 is for ensemble npt, not {ensemble}"):
            MDConfig(ensemble=ensemble, pressure=3.0)
    with pytest.raises(ValueError, match="protocol paper is"):
        MDConfig(protocol="paper")


def test_nothing_is_said_where_nothing_is_wrong():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run_batch(toy_potential(), [crystal((1, 1, 1))], SHORT)
