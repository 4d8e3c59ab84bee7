"""Thermal expansion: NPT at several temperatures, all replicas as one batch.

    python examples/02_thermal_expansion.py MODEL STRUCTURE [PICOSECONDS] [REPLICAS]

A run that is stopped goes on when the same command is given again. The intervals are those of
Student's t over the replicas; watch also how long the volume takes to settle (`md/*.csv`).
"""

import sys

from ase.io import read

from siliforce import Potential
from siliforce.benchmark.estimate import over_seeds
from siliforce.simulation.batched import run_batch
from siliforce.simulation.md import MDConfig

model, structure, *rest = sys.argv[1:]
picoseconds = float(rest[0]) if rest else 10.0
replicas = int(rest[1]) if len(rest) > 1 else 4

crystal = read(structure)
base = MDConfig(
    ensemble="npt", timestep=2, equilibration=picoseconds / 4, production=picoseconds, tau=50
)
temperatures = (300, 600, 900)
configs = [
    base.model_copy(update={"temperature": t, "seed": seed})
    for t in temperatures
    for seed in range(replicas)
]
runs = run_batch(Potential.load(model), [crystal] * len(configs), configs, out="md")

for t in temperatures:
    mine = [run for run in runs if run.config.temperature == t]
    stretch = [
        (run.production("volume").mean() / crystal.get_volume()) ** (1 / 3) - 1
        for run in mine
        if run.failure is None
    ]
    for run in mine:
        if run.failure is not None:
            print(f"{t} K, seed {run.config.seed}: {run.failure}")
    if len(stretch) > 1:
        found = over_seeds(stretch)
        half = found.high - found.mean
        print(f"{t} K: lengths {100 * found.mean:+.3f} +- {100 * half:.3f} %")
