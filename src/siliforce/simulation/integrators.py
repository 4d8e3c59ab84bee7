"""Integrators for a batch of systems: velocity Verlet with thermostats and a barostat.

Every step is

    thermostat (half) - kick (half) - [barostat] - drift - forces - kick (half) - thermostat (half)

with one evaluation of the forces. All quantities of a system stay its own, and each system draws
from its own generator, so that a trajectory does not depend on what else is in the batch.

Inside, time is in ASE's unit (Å sqrt(amu/eV)) and momenta in sqrt(amu eV).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import ase.units
import numpy as np
import torch
from torch import Tensor

from siliforce.simulation.md import MDConfig


@dataclass
class State:
    """Systems in motion; n atoms in all, b systems. All float64.

    Attributes:
        numbers, masses, system_index: of the atoms, (n,).
        sizes: atoms of each system, (b,).
        positions, momenta, forces: (n, 3), Å, sqrt(amu eV), eV/Å.
        cell, pbc: (b, 3, 3) in Å and (b, 3).
        temperature, pressure: targets, (b,), K and eV/Å³.
        energy: (b,), eV.
        stress: of the potential, (b, 3, 3), eV/Å³, or None where it was not asked for.
        spread: disagreement of an ensemble, (b,), eV/Å, or None.
        own: further variables of each system, first dimension b: those of the thermostat.
        rng: one generator per system.
    """

    numbers: Tensor
    masses: Tensor
    sizes: Tensor
    positions: Tensor
    momenta: Tensor
    forces: Tensor
    cell: Tensor
    pbc: Tensor
    temperature: Tensor
    pressure: Tensor
    energy: Tensor
    rng: list[np.random.Generator]
    stress: Tensor | None = None
    spread: Tensor | None = None
    own: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        systems = torch.arange(len(self.sizes), device=self.sizes.device)
        self.system_index = torch.repeat_interleave(systems, self.sizes)

    @property
    def n_systems(self) -> int:
        return len(self.sizes)

    @property
    def volume(self) -> Tensor:
        """(b,), Å³."""
        return torch.linalg.det(self.cell).abs()

    def total(self, values: Tensor) -> Tensor:
        """Sum of what belongs to atoms over each system."""
        zeros = values.new_zeros((self.n_systems, *values.shape[1:]))
        return zeros.index_add(0, self.system_index, values)

    def kinetic(self) -> Tensor:
        """(b,), eV."""
        return self.total(0.5 * self.momenta.square().sum(dim=1) / self.masses)

    def scale_momenta(self, factor: np.ndarray) -> None:
        """Multiply the momenta of each system by its factor, (b,)."""
        factors = torch.from_numpy(factor).to(self.momenta.device)
        self.momenta = self.momenta * factors[self.system_index, None]

    def select(self, chosen: Sequence[int]) -> State:
        """The state of some of the systems, in this order."""
        rows = torch.as_tensor(list(chosen), dtype=torch.int64, device=self.sizes.device)
        of_atoms = torch.cat([torch.nonzero(self.system_index == r)[:, 0] for r in rows])
        changes: dict[str, Any] = {"rng": [self.rng[i] for i in chosen]}
        for f in fields(self):
            value = getattr(self, f.name)
            if f.name == "own":
                changes["own"] = {name: v[list(chosen)] for name, v in value.items()}
            elif isinstance(value, Tensor):
                atomic = f.name in ("numbers", "masses", "positions", "momenta", "forces")
                changes[f.name] = value[of_atoms if atomic else rows]
        return replace(self, **changes)


Evaluate = Callable[[State], None]
"""Fills energy, forces and stress for the positions and the cell."""


class Thermostat:
    """None at all: the microcanonical ensemble.

    The variables of thermostats are few numbers per system, kept in NumPy on the processor.
    """

    def __init__(self, config: MDConfig, state: State) -> None:
        self.kT = ase.units.kB * state.temperature.cpu().numpy()
        self.tau = config.tau * ase.units.fs
        self.freedom = 3.0 * state.sizes.cpu().numpy() - 3

    def before(self, state: State, step: float) -> None:
        """First part of the thermostat's step."""

    def after(self, state: State, step: float) -> None:
        """Second part."""

    def energy(self, state: State) -> np.ndarray:
        """What it adds to the conserved energy, (b,), eV."""
        return np.zeros_like(self.kT)

    def select(self, chosen: Sequence[int]) -> None:
        """Keep some of the systems."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[list(chosen)])


class Rescaling(Thermostat):
    """Stochastic velocity rescaling: canonical, and hardly disturbs the motion.

    Reference:
        Bussi, Donadio and Parrinello, J. Chem. Phys. 126, 014101 (2007), eq. A7.
    """

    def __init__(self, config: MDConfig, state: State) -> None:
        super().__init__(config, state)
        state.own.setdefault("heat", np.zeros_like(self.kT))

    def before(self, state: State, step: float) -> None:
        """Scale the velocities of every system by its own random factor."""
        noise = [
            (rng.standard_normal(), 2 * rng.standard_gamma(0.5 * (freedom - 1)))
            for rng, freedom in zip(state.rng, self.freedom, strict=True)
        ]
        first, others = np.array(noise).T
        kinetic = state.kinetic().cpu().numpy()
        keep = np.exp(-step / self.tau)
        share = (1 - keep) * 0.5 * self.kT / kinetic
        squared = keep + share * (others + first**2) + 2 * first * np.sqrt(keep * share)
        state.scale_momenta(np.sqrt(squared))
        state.own["heat"] = state.own["heat"] + (squared - 1) * kinetic

    def energy(self, state: State) -> np.ndarray:
        """Minus the heat that came in."""
        return -state.own["heat"]


class Langevin(Thermostat):
    """Friction 1/tau and noise on every atom, the centre of mass held at rest.

    The exact Ornstein-Uhlenbeck step of half the length on either side of velocity Verlet.

    Reference:
        Bussi and Parrinello, Phys. Rev. E 75, 056707 (2007).
    """

    def __init__(self, config: MDConfig, state: State) -> None:
        super().__init__(config, state)
        state.own.setdefault("heat", np.zeros_like(self.kT))

    def before(self, state: State, step: float) -> None:
        """Half a step of friction and noise."""
        self._rub(state, 0.5 * step)

    def after(self, state: State, step: float) -> None:
        """The other half."""
        self._rub(state, 0.5 * step)

    def _rub(self, state: State, step: float) -> None:
        sizes = state.sizes.tolist()
        drawn = [r.standard_normal((n, 3)) for r, n in zip(state.rng, sizes, strict=True)]
        noise = np.concatenate(drawn) * np.repeat(np.sqrt(self.kT), sizes)[:, None]
        keep = np.exp(-step / self.tau)
        before = state.kinetic()
        width = (state.masses * (1 - keep**2)).sqrt()[:, None]
        momenta = keep * state.momenta + width * torch.from_numpy(noise).to(width.device)
        drift = state.total(momenta) / state.total(state.masses)[:, None]
        state.momenta = momenta - state.masses[:, None] * drift[state.system_index]
        state.own["heat"] = state.own["heat"] + (state.kinetic() - before).cpu().numpy()

    def energy(self, state: State) -> np.ndarray:
        """Minus the heat that came in."""
        return -state.own["heat"]


class NoseHooverChain(Thermostat):
    """A chain of Nosé-Hoover thermostats: deterministic, with a conserved energy.

    With the protocol `paper` a single one, of twice the mass and for 3N+1 degrees of freedom
    although 3N-3 move, as in the 2023 benchmark: it holds (3N+1)/(3N-3) of the temperature.

    Reference:
        Martyna, Tuckerman, Tobias and Klein, Mol. Phys. 87, 1117 (1996).
    """

    PARTS = (1 / (2 - 2 ** (1 / 3)), -(2 ** (1 / 3)) / (2 - 2 ** (1 / 3)), 1 / (2 - 2 ** (1 / 3)))
    """Fourth-order composition."""

    def __init__(self, config: MDConfig, state: State) -> None:
        super().__init__(config, state)
        paper = config.protocol == "paper"
        length = 1 if paper else config.chain
        first = self.freedom
        if paper:
            self.freedom = self.freedom + 4
            first = 2 * (self.freedom - 1)
        self.mass = np.repeat((self.kT * self.tau**2)[:, None], length, axis=1)
        self.mass[:, 0] *= first
        state.own.setdefault("chain_position", np.zeros_like(self.mass))
        state.own.setdefault("chain_momentum", np.zeros_like(self.mass))

    def before(self, state: State, step: float) -> None:
        """Half a step of the chain."""
        self._advance(state, 0.5 * step)

    def after(self, state: State, step: float) -> None:
        """The other half."""
        self._advance(state, 0.5 * step)

    def _advance(self, state: State, step: float) -> None:
        position, momentum = state.own["chain_position"].copy(), state.own["chain_momentum"].copy()
        twice = 2 * state.kinetic().cpu().numpy()
        scale = np.ones_like(twice)
        members = range(momentum.shape[1])
        with np.errstate(all="ignore"):  # a runaway is judged where it shows
            for part in self.PARTS:
                h = part * step
                for j in reversed(members):
                    self._push(momentum, j, h, twice)
                position += h * momentum / self.mass
                factor = np.exp(-h * momentum[:, 0] / self.mass[:, 0])
                scale, twice = scale * factor, twice * factor**2
                for j in members:
                    self._push(momentum, j, h, twice)
        state.scale_momenta(scale)
        state.own["chain_position"], state.own["chain_momentum"] = position, momentum

    def _push(self, momentum: np.ndarray, j: int, h: float, twice: np.ndarray) -> None:
        """Half a step of one member: friction by the next, force by the previous."""
        if j == 0:
            force = twice - self.freedom * self.kT
        else:
            force = momentum[:, j - 1] ** 2 / self.mass[:, j - 1] - self.kT
        if j == momentum.shape[1] - 1:
            momentum[:, j] += 0.5 * h * force
            return
        friction = np.exp(-0.25 * h * momentum[:, j + 1] / self.mass[:, j + 1])
        momentum[:, j] = (momentum[:, j] * friction + 0.5 * h * force) * friction

    def energy(self, state: State) -> np.ndarray:
        """Of the chain."""
        position, momentum = state.own["chain_position"], state.own["chain_momentum"]
        potential = self.kT * (self.freedom * position[:, 0] + position[:, 1:].sum(axis=1))
        return potential + 0.5 * (momentum**2 / self.mass).sum(axis=1)


class CellRescaling:
    """Stochastic cell rescaling, with the right fluctuations of the cell.

    First order in time: in every step cell and atoms are strained by `exp(E)`, where

        E = c (P - P0) dt + sqrt(2 c kT / V) dW,    c = compressibility / (3 tau_pressure),

    projected on the strains that `coupling` allows; P is the pressure as a tensor. Compressibility
    and `tau_pressure` set only the speed. As the noise shrinks with growing volume, the drift has
    no term in kT, and the cell is distributed as `exp(-(H + P0 V) / kT)` over the lengths that may
    change. The centre of mass, which rests, enters the kinetic pressure with its mean.

    Reference:
        Bernetti and Bussi, J. Chem. Phys. 153, 114107 (2020), which this is where isotropic; with
        a tensor Del Tatto, Raiteri, Bernetti and Bussi, Appl. Sci. 12, 1139 (2022).
    """

    def __init__(self, config: MDConfig, state: State) -> None:
        speed = config.compressibility / ase.units.GPa / (config.tau_pressure * ase.units.fs)
        self.rate, self.allowed = speed / 3, COUPLINGS[config.coupling]
        state.own.setdefault("work", np.zeros(state.n_systems))

    def rescale(self, state: State, step: float) -> tuple[Tensor, Tensor]:
        """Strain cell, positions and momenta.

        Returns:
            The strain, and volume times stress before it, both (b, 3, 3).
        """
        assert state.stress is not None
        kT, volume, before = ase.units.kB * state.temperature, state.volume, state.kinetic()
        pairs = state.momenta[:, :, None] * state.momenta[:, None] / state.masses[:, None, None]
        resting = torch.diag_embed(kT[:, None].expand(-1, 3))
        pressure = (state.total(pairs) + resting) / volume[:, None, None] - state.stress
        target = torch.diag_embed(state.pressure[:, None].expand(-1, 3))
        drawn = np.stack([rng.standard_normal((3, 3)) for rng in state.rng])
        width = (2 * self.rate * step * kT / volume).sqrt()[:, None, None]
        strain = self.rate * step * (pressure - target) + width * torch.from_numpy(drawn).to(width)
        # A larger strain in one step is a runaway, and is left to the judge.
        strain = self.allowed(strain).clamp(-0.2, 0.2)
        virial = state.stress * volume[:, None, None]
        stretch = torch.linalg.matrix_exp(strain)
        shrink = torch.linalg.matrix_exp(-strain)
        state.cell = state.cell @ stretch
        state.positions = _each(state.positions, stretch[state.system_index])
        state.momenta = _each(state.momenta, shrink[state.system_index])
        work = state.kinetic() - before + state.pressure * (state.volume - volume)
        state.own["work"] = state.own["work"] + work.cpu().numpy()
        return strain, virial

    def account(self, state: State, strain: Tensor, virial: Tensor) -> None:
        """Add the work on the potential energy, known once the new stress is."""
        assert state.stress is not None
        mean = 0.5 * (virial + state.stress * state.volume[:, None, None])
        state.own["work"] = state.own["work"] + (mean * strain).sum((1, 2)).cpu().numpy()

    def energy(self, state: State) -> np.ndarray:
        """What it adds to the conserved energy, (b,), eV."""
        return (state.pressure * state.volume).cpu().numpy() - state.own["work"]


def _each(vectors: Tensor, matrices: Tensor) -> Tensor:
    """Rows times their matrices: (n, 3), (n, 3, 3) -> (n, 3)."""
    return (vectors[:, None] @ matrices)[:, 0]


def _isotropic(strain: Tensor) -> Tensor:
    mean = torch.diagonal(strain, dim1=1, dim2=2).mean(dim=1)
    return torch.diag_embed(mean[:, None].expand(-1, 3))


def _axes(strain: Tensor) -> Tensor:
    return torch.diag_embed(torch.diagonal(strain, dim1=1, dim2=2))


def _z(strain: Tensor) -> Tensor:
    only = torch.zeros_like(strain)
    only[:, 2, 2] = strain[:, 2, 2]
    return only


def _free(strain: Tensor) -> Tensor:
    return 0.5 * (strain + strain.mT)


COUPLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "isotropic": _isotropic,
    "axes": _axes,
    "z": _z,
    "free": _free,
}
"""Projections (b, 3, 3) on the strains that the barostat may make, by `MDConfig.coupling`."""


def virial_pressure(state: State) -> Tensor:
    """Pressure of the potential alone, (b,), eV/Å³."""
    assert state.stress is not None
    return -torch.diagonal(state.stress, dim1=1, dim2=2).mean(dim=1)


THERMOSTATS: dict[str, type[Thermostat]] = {
    "bussi": Rescaling,
    "langevin": Langevin,
    "nose-hoover": NoseHooverChain,
}


class Integrator:
    """Takes a state forward, one step at a time.

    Attributes:
        needs_stress: whether every evaluation must give the stress.
    """

    def __init__(self, config: MDConfig, state: State, production: bool) -> None:
        self.step_length = config.timestep * ase.units.fs
        free = production and config.ensemble == "nve"
        self.thermostat = (Thermostat if free else THERMOSTATS[config.thermostat])(config, state)
        self.barostat = CellRescaling(config, state) if config.ensemble == "npt" else None
        self.needs_stress = self.barostat is not None

    def step(self, state: State, evaluate: Evaluate) -> None:
        """One step; `evaluate` is called once."""
        h = self.step_length
        self.thermostat.before(state, h)
        state.momenta = state.momenta + 0.5 * h * state.forces
        strained = None if self.barostat is None else self.barostat.rescale(state, h)
        state.positions = state.positions + h * state.momenta / state.masses[:, None]
        evaluate(state)
        state.momenta = state.momenta + 0.5 * h * state.forces
        if self.barostat is not None and strained is not None:
            self.barostat.account(state, *strained)
        self.thermostat.after(state, h)

    def conserved(self, state: State) -> np.ndarray:
        """What exact integration would keep, (b,), eV."""
        energy = (state.energy + state.kinetic()).cpu().numpy() + self.thermostat.energy(state)
        return energy if self.barostat is None else energy + self.barostat.energy(state)

    def select(self, chosen: Sequence[int]) -> None:
        """Keep some of the systems."""
        self.thermostat.select(chosen)
