"""Order in an alloy: Monte Carlo that swaps unlike atoms, 300 K against 3000 K.

    python examples/03_alloy_swap.py MODEL [SWEEPS]

Takes any potential that knows two elements on one diamond lattice, a silicon-germanium one by
default, and prints how many nearest neighbours are unlike: 1 is a random alloy, above 1 ordered,
below 1 on its way to demixing.
"""

import sys

import ase.units
import numpy as np
from ase.build import bulk

from siliforce import SiliforceCalculator
from siliforce.graph import neighbor_list


def unlike_neighbors(atoms, reach=2.6):
    """Unlike nearest neighbours, over what a random alloy has."""
    pairs = neighbor_list(atoms.positions, atoms.cell.array, atoms.pbc, reach)
    unlike = (atoms.numbers[pairs.center] != atoms.numbers[pairs.neighbor]).mean()
    share = (atoms.numbers == atoms.numbers[0]).mean()
    return unlike / (2 * share * (1 - share))


def swap_monte_carlo(atoms, temperature, sweeps, rng):
    """Metropolis in the occupation of the sites; returns energies and accepted fraction."""
    energy, energies, accepted = atoms.get_potential_energy(), [], 0
    trials = sweeps * len(atoms)
    for _ in range(trials):
        first, second = (rng.choice(np.flatnonzero(atoms.numbers == z)) for z in PAIR)
        atoms.numbers[[first, second]] = atoms.numbers[[second, first]]
        trial = atoms.get_potential_energy()
        if rng.random() < np.exp(min(0.0, (energy - trial) / (ase.units.kB * temperature))):
            energy, accepted = trial, accepted + 1
        else:
            atoms.numbers[[first, second]] = atoms.numbers[[second, first]]
        energies.append(energy)
    return np.array(energies), accepted / trials


model, sweeps = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10
calculator = SiliforceCalculator(model, device="cpu", warn=False)
PAIR = calculator.potentials[0].species.numbers[-2:]
for temperature in (300.0, 3000.0):
    rng = np.random.default_rng(0)
    crystal = bulk("Si", "diamond", a=5.54, cubic=True)
    crystal.numbers[:] = rng.permutation(np.repeat(PAIR, len(crystal) // 2))
    crystal.calc = calculator
    found, rate = swap_monte_carlo(crystal, temperature, sweeps, rng)
    print(
        f"{temperature:.0f} K: {1e3 * (found[-1] - found[0]) / len(crystal):+.1f} meV/atom, "
        f"{100 * rate:.0f} % accepted, unlike neighbours {unlike_neighbors(crystal):.2f}"
    )
