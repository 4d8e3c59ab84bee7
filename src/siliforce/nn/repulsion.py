"""Ziegler-Biersack-Littmark repulsion between nuclei at short distance."""

from __future__ import annotations

import torch
from ase.data import covalent_radii
from torch import Tensor, nn

from siliforce.graph import Graph
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.species_table import SpeciesTable
from siliforce.species import Species

COULOMB = 14.399645
"""e²/(4πε0), eV Å."""

SCREENING = ((0.18175, 3.19980), (0.50986, 0.94229), (0.28022, 0.40290), (0.02817, 0.20162))
"""Coefficients and exponents of the universal screening function."""


class ZBL(nn.Module):
    """Screened Coulomb repulsion, switched off smoothly at the sum of the covalent radii.

    `E_ij = e²/(4πε0) Z_i Z_j / r φ(r/a) u(r / (R_i + R_j))`, half of it on either atom, with
    `a = 0.46850 / (Z_i^0.23 + Z_j^0.23)` Å and the universal screening function φ. It acts below
    bonding distances only, where no training data are, so that hot dynamics cannot fall into
    spurious minima.

    Reference:
        Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985).
    """

    def __init__(self, species: Species) -> None:
        """Build in float64; the potential brings it to the dtype of its model."""
        super().__init__()
        numbers = torch.tensor(species.numbers, dtype=torch.float64)
        radii = torch.tensor([covalent_radii[z] for z in species.numbers], dtype=torch.float64)
        self.number = SpeciesTable(numbers, trainable=False)
        self.radius = SpeciesTable(radii, trainable=False)

    def forward(self, graph: Graph) -> Tensor:
        """Energies of the atoms, eV, (n_atoms,)."""
        lengths = graph.edge_lengths
        z, radius = self.number(graph.species), self.radius(graph.species)
        z_i, z_j = z[graph.center], z[graph.neighbor]
        screening = 0.46850 / (z_i**0.23 + z_j**0.23)
        x = lengths / screening
        phi = sum((c * torch.exp(-k * x) for c, k in SCREENING), torch.zeros_like(x))
        reach = radius[graph.center] + radius[graph.neighbor]
        pair = COULOMB * z_i * z_j / lengths * phi * polynomial_envelope(lengths / reach, 6)
        return pair.new_zeros(graph.n_atoms).index_add(0, graph.center, 0.5 * pair)
