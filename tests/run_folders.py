"""Run folders for tests of the report: small, but every number in them is measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk

from siliforce.data import Dataset, Frame, Store
from siliforce.indicators.dynamics import dynamics
from siliforce.indicators.eos import equation_of_state
from siliforce.indicators.errors import evaluate_sets
from siliforce.indicators.speed import speed
from siliforce.potential import Card
from siliforce.simulation.calculator import SiliforceCalculator
from siliforce.simulation.md import MDConfig
from tests.toys import toy_potential

ELEMENTS = ("Cu", "Ag")


def copper() -> Atoms:
    return bulk("Cu", "fcc", a=3.75, cubic=True)


def labelled_frames(n: int, seed: int = 0, amplitude: float = 0.06) -> list[Frame]:
    """Frames of copper, every third with one silver, labelled by the toy potential."""
    calculator = SiliforceCalculator(toy_potential(ELEMENTS), device="cpu")
    rng, frames = np.random.default_rng(seed), []
    for k in range(n):
        atoms = bulk("Cu", "fcc", a=3.6 + 0.2 * rng.random(), cubic=True).repeat((2, 1, 1))
        atoms.rattle(amplitude, rng=rng)
        if k % 3 == 0:
            atoms.symbols[0] = "Ag"
        atoms.calc = calculator
        frames.append(
            Frame(
                numbers=atoms.numbers,
                positions=atoms.positions,
                cell=atoms.cell.array,
                pbc=atoms.pbc,
                energy=atoms.get_potential_energy(),
                forces=atoms.get_forces(),
                stress=atoms.get_stress(voigt=False),
                group=f"run{k}",
                config_type="doped" if k % 3 == 0 else "pure",
                tags={"temperature": 300.0 if k % 2 else 900.0},
            )
        )
    return frames


def store_of(frames: list[Frame], path: Path) -> Dataset:
    """A dataset on disk."""
    store = Store.create(path)
    store.append(frames)
    return Dataset([store])


def make_run(
    folder: Path,
    depth: float = 0.36,
    model: str = "morse-toy",
    simulations: bool = True,
    ood: bool = True,
    frames: int = 18,
) -> Path:
    """A folder as a training leaves it, with results; `depth` sets how wrong the potential is."""
    card = Card(
        data_hash="0123456789abcdef",
        data_source="copper.extxyz",
        level_of_theory="PBE <test> & more",
        licence="CC0",
        elements=list(ELEMENTS),
        atoms_per_volume=(0.073, 0.087),
        temperature=(300.0, 900.0),
        min_distance={"Cu-Cu": 2.2, "Cu-Ag": 2.3},
    )
    potential = toy_potential(ELEMENTS, depth=depth, card=card, dtype=torch.float32)
    folder.mkdir(parents=True)
    potential.save(folder / "best.safetensors")
    _write_papers(folder, model)
    test = store_of(labelled_frames(frames, seed=1), folder / "test.store")
    sets = {"test": test}
    if ood:
        sets["ood:hot"] = store_of(labelled_frames(9, seed=2, amplitude=0.3), folder / "hot.store")
    results = evaluate_sets(potential, sets)
    if simulations:
        results += [
            equation_of_state(potential, copper(), name="Cu fcc"),
            speed(potential, copper(), repeats=2, warmup=1),
            dynamics(potential, copper().repeat(2), MDConfig(equilibration=0.05, production=0.1)),
        ]
    for result in results:
        result.model = model
        result.save(folder / "results")
    return folder


def _write_papers(folder: Path, model: str) -> None:
    config = f"model: {{name: {model}}}\ndata: {{source: '<script>alert(1)</script>.xyz'}}\n"
    (folder / "config.yaml").write_text(config)
    record = {"model": model, "n_parameters": 3, "epochs": 12, "wall_s": 75.0, "n_train": 40}
    hardware = {"cpu": "Test CPU", "n_cores": 2, "threads": 1}
    versions = {"torch": torch.__version__}
    record |= {"hardware": hardware, "versions": versions, "data_hash": "0123456789abcdef"}
    (folder / "run.json").write_text(json.dumps(record))
    split = {"hash": "feed", "method": "by group", "rows": {"test": [1], "train": [0], "valid": []}}
    (folder / "split.json").write_text(json.dumps(split))
    rows = [
        {"epoch": k, "step": 10 * k, "time_s": 6.0 * k, "valid_forces_mae_mev": 300 * 0.7**k}
        | {"train_forces_mae_mev": 280 * 0.7**k, "valid_energy_mae_mev": 30 * 0.8**k}
        for k in range(1, 13)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
