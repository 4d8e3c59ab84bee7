"""One row per architecture: what the contract test must know beyond the model itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import torch
from ase import Atoms

from siliforce.graph import Graph, System, collate
from siliforce.models import get_model
from siliforce.potential import Potential
from siliforce.species import Species
from tests.structures import STRUCTURES, SYMBOLS

ATOMIC_ENERGIES = (-7.25, -3.5)


@dataclass(frozen=True, eq=False)
class Case:
    """An architecture under contract.

    Attributes:
        model: its name.
        no_force_gradient: a parameter's name -> why a loss on forces alone cannot reach it.
        overfit_lr, overfit_steps: how its `tiny` preset learns four structures.
        scale: of the potential, so that random weights give forces of usual size, eV.
        rotation_error: for a model that is equivariant only approximately, the largest error of
            a rotated or inverted prediction over the RMS force; None: rounding alone.
        zero_alone: why the model says exactly zero of an isolated atom, whatever its weights;
            empty if it does not.
        compiled_with: backend of torch.compile; `aot_eager` checks that the whole is one graph of
            any size whose derivative is right, without code for the processor.
        compiled_training: whether the full tests compile a training step too, double backward
            included; minutes for each.
    """

    model: str
    no_force_gradient: Mapping[str, str] = field(default_factory=dict)
    overfit_lr: float = 1e-2
    overfit_steps: int = 200
    scale: float = 1.3
    rotation_error: float | None = None
    zero_alone: str = ""
    compiled_with: str = "inductor"
    compiled_training: bool = False

    @property
    def direct(self) -> bool:
        """Whether forces are predicted and not derived."""
        return get_model(self.model).force_mode == "direct"

    def __str__(self) -> str:
        return self.model


CASES = (
    Case(
        "bpnn",
        {"layers.1.bias.weight": "the last bias adds a constant to the energy"},
        compiled_training=True,
    ),
    Case(
        "bpnn_transfer",
        {"readout_bias.weight": "the last bias adds a constant to the energy"},
    ),
    Case(
        "schnet",
        {"readout.layers.1.bias": "the last bias adds a constant to the energy"},
        compiled_training=True,
    ),
    Case("dimenet_pp"),
    Case(
        "nequip",
        scale=20.0,
        zero_alone="nothing that an atom says of itself has a bias",
        compiled_with="aot_eager",  # after 13 minutes of one core Inductor was not done
    ),
    Case("allegro", scale=20.0, zero_alone="energies are sums over edges"),
    Case("gemnet_t", zero_alone="energies are sums over edges and no layer has a bias"),
    Case(
        "gemnet_dt",
        {
            f"outputs.{k}.{name}.weight": "energies have layers of their own in each output"
            for k in range(3)
            for name in (
                "energy",
                "atom_update.filter",
                "atom_update.enter",
                "atom_update.residuals.0.first",
                "atom_update.residuals.0.second",
            )
        },
        zero_alone="energies are sums over edges and no layer has a bias",
    ),
    Case("mace", scale=20.0, compiled_training=True),
    Case("dpa1", {"readout.bias": "the last bias adds a constant to the energy"}, scale=8.0),
    Case(
        "scn",
        {
            f"readout.energy.{layer}.{kind}": "energies have layers of their own in the readout"
            for layer in ("first", "second", "third")
            for kind in ("weight", "bias")
        },
        scale=500.0,
        rotation_error=0.003,  # of energies; 0.0002 of forces
    ),
)


def graph_of(
    potential: Potential, structures: list[Atoms], dtype: torch.dtype | None = None
) -> Graph:
    """One batch of the structures, as the potential's model needs it."""
    systems = [
        System.build(a.numbers, a.positions, a.cell.array, a.pbc, potential.cutoff)
        for a in structures
    ]
    return collate(systems, potential.model.needs, dtype or potential.dtype)


def build_potential(
    case: Case, dtype: torch.dtype = torch.float64, pin_isolated: bool = True, seed: int = 0
) -> Potential:
    """A potential for O and Si with random weights on the case's `tiny` preset.

    Constants that depend on data are fitted to the test structures.
    """
    torch.manual_seed(seed)
    model_class = get_model(case.model)
    species = Species.from_symbols(SYMBOLS)
    model = model_class(model_class.presets["tiny"], len(species), mean_neighbors=11.5)
    potential = Potential(
        model, species, np.array(ATOMIC_ENERGIES), scale=case.scale, pin_isolated=pin_isolated
    )
    potential.set_dtype(dtype)
    graph = graph_of(potential, [make() for make in STRUCTURES.values()])
    model.fit_constants([potential.with_species(graph)])
    return potential.eval()


@cache
def shared_potential(case: Case, dtype: torch.dtype = torch.float64) -> Potential:
    """`build_potential`, once a process: for tests that do not change it."""
    return build_potential(case, dtype)
