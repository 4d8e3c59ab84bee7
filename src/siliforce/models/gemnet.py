"""GemNet-T and GemNet-dT: directional messages between edges, with efficient angles.

The network's features live on directed edges as well as on atoms. Each interaction sends, to
every edge, the features of the other edges at its atom, weighted by functions of the angle
between them and of its length; then it passes features from edges to atoms and back. Energies
are read from the edges at an atom (GemNet-T: forces are derivatives). GemNet-dT predicts a force
along each edge instead of deriving it, which is faster and does not conserve energy.

Gasteiger, Becker, Günnemann, NeurIPS 2021, arXiv:2106.08903.

| paper symbol | name | shape |
|---|---|---|
| h_a | atoms | (n_atoms, atom_width) |
| m_ca | edges | (n_edges, edge_width) |
| e_RBF(x_ca) | Basis.edge | (n_edges, n_radial) |
| e_CBF(x_ca, φ_cab) | Basis.angle and Basis.harmonics | (n_edges, cbf_width, n_spherical), ... |
| sum over b of Y_l0(φ_cab) m_ba | legendre_sums | (n_edges, triplet_width, n_spherical) |
| W_bilinear | Triplets.bilinear | (triplet_width, cbf_width, bilinear_width) |
| scaling factors | ScaleFactor.value | () |
| E_a | atom_energy | (n_atoms,) |
| F_ca | Output.force | (n_edges,) |

Equal, with the same weights, to GemNetT of fairchem-core 1.10.0 (MIT licence) with and without
`direct_forces`, whose settings the `paper` preset follows, for spherical Bessel functions of
length and spherical harmonics of angle. Our own: triplets are never listed. Y_l0 of an angle is a
Legendre polynomial, so that the addition theorem turns the sum over the edges b into sums that
all edges of an atom share (`siliforce.nn.angle_sum`): exactly the same, at a cost linear in the
number of neighbours. Scaling factors are fitted when training begins.

Deviations: the number of neighbours is not capped. Species have rows of their own in the
embedding. An isolated atom has energy zero, since nothing in the network has a bias.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from siliforce.graph import Graph, Topology
from siliforce.models.base import Model, ModelConfig, RawOutput
from siliforce.nn.angle_sum import legendre_sums
from siliforce.nn.cutoff import polynomial_envelope
from siliforce.nn.o3 import EdgeBlocks, SphericalHarmonics
from siliforce.nn.radial import BesselBasis
from siliforce.nn.scale_factor import ScaleFactor, fit_scale_factors
from siliforce.nn.scatter import gather_neighbors, sum_over_neighbors
from siliforce.nn.silu import silu, skip_silu
from siliforce.nn.species_table import SpeciesTable

SQRT_HALF = math.sqrt(0.5)
GAIN = 1 / 0.6
"""Of the activation silu."""


class GemNetConfig(ModelConfig):
    """Hyper-parameters of GemNet-T and GemNet-dT."""

    n_layers: int = Field(4, gt=0, description="interactions")
    atom_width: int = Field(128, gt=0, description="features of an atom")
    edge_width: int = Field(128, gt=0, description="features of a directed edge")
    triplet_width: int = Field(64, gt=0, description="features summed over angles")
    bilinear_width: int = Field(64, gt=0, description="features after the bilinear layer")
    rbf_width: int = Field(16, gt=0, description="projection of the functions of length")
    cbf_width: int = Field(16, gt=0, description="projection of the functions of angle")
    n_radial: int = Field(6, gt=0, description="Bessel functions")
    n_spherical: int = Field(7, gt=0, description="Legendre polynomials, degrees from 0")
    envelope: int = Field(5, gt=1, description="order p of the polynomial cutoff")
    n_before_skip: int = Field(1, ge=0, description="residual layers before the skip connection")
    n_after_skip: int = Field(1, ge=0, description="residual layers after it")
    n_concat: int = Field(1, ge=0, description="residual layers after the atoms' return to edges")
    n_atom: int = Field(2, ge=0, description="residual layers of atoms, and of direct forces")


@dataclass(frozen=True)
class Basis:
    """What the interactions read of the geometry.

    Attributes:
        triplet, atom, output: projected functions of length for the three uses of them,
            (n_edges, rbf_width).
        edge: functions of length, (n_edges, n_radial).
        angle: coefficients of the Legendre sums, (n_edges, cbf_width, n_spherical).
        harmonics: of the edges' directions, (n_edges, n_spherical²).
        blocks: the edges.
    """

    edge: Tensor
    triplet: Tensor
    atom: Tensor
    output: Tensor
    angle: Tensor
    harmonics: Tensor
    blocks: EdgeBlocks


class GemNetT(Model):
    """Directional messages between edges; forces are derivatives."""

    name = "gemnet_t"
    title = "GemNet-T"
    reference = "Gasteiger et al., NeurIPS 2021, arXiv:2106.08903"
    needs = Topology(pairs=True, reverse_edges=True)
    Config = GemNetConfig
    widths = ("atom_width", "edge_width", "triplet_width", "bilinear_width")
    presets: ClassVar[Mapping[str, ModelConfig]] = {
        "tiny": GemNetConfig(
            cutoff=4.0,
            n_layers=2,
            atom_width=8,
            edge_width=10,
            triplet_width=6,
            bilinear_width=7,
            rbf_width=5,
            cbf_width=4,
            n_radial=4,
            n_spherical=4,
            n_atom=1,
        ),
        "small": GemNetConfig(
            cutoff=5.0,
            n_layers=3,
            atom_width=64,
            edge_width=64,
            triplet_width=32,
            bilinear_width=32,
            n_spherical=5,
            n_atom=1,
        ),
        "paper": GemNetConfig(cutoff=6.0),
    }
    training_presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "small": {
            "lr": 1e-3,
            "batch_size": 4,
            "optimizer": "adamw",
            "amsgrad": True,
            "clip": 10.0,
            "ema": 0.99,
        },
        "paper": {
            "lr": 5e-4,
            "batch_size": 8,
            "optimizer": "adamw",
            "amsgrad": True,
            "clip": 10.0,
            "ema": 0.999,
        },
    }

    config: GemNetConfig

    def __init__(self, config: GemNetConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        c, direct = config, self.force_mode == "direct"
        self.bessel = BesselBasis(c.cutoff, c.n_radial, trainable=True)
        self.angle_bessel = BesselBasis(c.cutoff, c.n_radial, trainable=True)
        self.harmonics = SphericalHarmonics(c.n_spherical - 1)
        self.project_triplet = linear(c.n_radial, c.rbf_width)
        self.project_atom = linear(c.n_radial, c.rbf_width)
        self.project_output = linear(c.n_radial, c.rbf_width)
        shape = (c.n_spherical, c.n_radial, c.cbf_width)
        self.project_angle = nn.Parameter(he_orthogonal(torch.empty(shape)))
        bound = math.sqrt(3.0)
        self.embedding = SpeciesTable(torch.empty(n_species, c.atom_width).uniform_(-bound, bound))
        self.edge_embedding = EdgeEmbedding(c.atom_width, c.n_radial, c.edge_width)
        self.interactions = nn.ModuleList(Interaction(c) for _ in range(c.n_layers))
        self.outputs = nn.ModuleList(Output(c, direct) for _ in range(c.n_layers + 1))

    def forward(self, graph: Graph) -> RawOutput:
        """Normalised energies of the atoms, and forces if they are direct."""
        directions = graph.edge_vectors / graph.edge_lengths[:, None]
        basis = self.basis(graph, directions)
        atoms = self.embedding(graph.species)
        edges = self.edge_embedding(atoms, basis.edge, graph)
        energy, force = self.outputs[0](edges, basis, graph)
        for interaction, output in zip(self.interactions, self.outputs[1:], strict=True):
            atoms, edges = interaction(atoms, edges, basis, graph)
            more_energy, more_force = output(edges, basis, graph)
            energy = energy + more_energy
            force = None if force is None else force + more_force
        if force is None:
            return RawOutput(energy)
        return RawOutput(energy, -sum_over_neighbors(force[:, None] * directions, graph))

    def basis(self, graph: Graph, directions: Tensor) -> Basis:
        """Functions of lengths and directions; those of a length once for both edges of a pair."""
        assert graph.pair_edges is not None
        assert graph.edge_pairs is not None
        c = self.config
        lengths = graph.edge_lengths.index_select(0, graph.pair_edges)
        envelope = polynomial_envelope(lengths / c.cutoff, c.envelope)[:, None]
        edge = (envelope * self.bessel(lengths)).index_select(0, graph.edge_pairs)
        angle = (envelope * self.angle_bessel(lengths)).index_select(0, graph.edge_pairs)
        # Y_l0 in terms of the Legendre polynomial P_l.
        degrees = torch.arange(c.n_spherical, dtype=edge.dtype, device=edge.device)
        norms = ((2 * degrees + 1) / (4 * math.pi)).sqrt()
        weight = (self.project_angle * norms[:, None, None]).permute(1, 2, 0).flatten(1)
        return Basis(
            edge=edge,
            triplet=self.project_triplet(edge),
            atom=self.project_atom(edge),
            output=self.project_output(edge),
            angle=(angle @ weight).unflatten(1, (c.cbf_width, c.n_spherical)),
            harmonics=self.harmonics(directions),
            blocks=EdgeBlocks.build(graph),
        )

    def fit_constants(self, graphs: Iterable[Graph]) -> None:
        """Fit the scaling factors."""
        fit_scale_factors(self, graphs)


class GemNetDT(GemNetT):
    """Directional messages between edges; forces are predicted along the edges."""

    name = "gemnet_dt"
    title = "GemNet-dT"
    force_mode = "direct"


class Interaction(nn.Module):
    """Edges hear from the other edges at their atom, atoms from their edges, edges from atoms."""

    def __init__(self, c: GemNetConfig) -> None:
        super().__init__()
        self.keep = linear(c.edge_width, c.edge_width)
        self.triplets = Triplets(c)
        self.before_skip = nn.ModuleList(Residual(c.edge_width) for _ in range(c.n_before_skip))
        self.after_skip = nn.ModuleList(Residual(c.edge_width) for _ in range(c.n_after_skip))
        self.atom_update = AtomUpdate(c)
        self.concat = EdgeEmbedding(c.atom_width, c.edge_width, c.edge_width)
        self.after_concat = nn.ModuleList(Residual(c.edge_width) for _ in range(c.n_concat))

    def forward(
        self, atoms: Tensor, edges: Tensor, basis: Basis, graph: Graph
    ) -> tuple[Tensor, Tensor]:
        """New features of atoms and edges."""
        x = (activate(self.keep(edges)) + self.triplets(edges, basis, graph)) * SQRT_HALF
        for layer in self.before_skip:
            x = layer(x)
        edges = (edges + x) * SQRT_HALF
        for layer in self.after_skip:
            edges = layer(edges)
        atoms = (atoms + self.atom_update(edges, basis.atom, graph)) * SQRT_HALF
        x = self.concat(atoms, edges, graph)
        for layer in self.after_concat:
            x = layer(x)
        return atoms, (edges + x) * SQRT_HALF


class Triplets(nn.Module):
    """Messages to an edge from all other edges at its atom, symmetrised over its directions."""

    def __init__(self, c: GemNetConfig) -> None:
        super().__init__()
        self.enter = linear(c.edge_width, c.edge_width)
        self.filter = linear(c.rbf_width, c.edge_width)
        self.down = linear(c.edge_width, c.triplet_width)
        shape = (c.triplet_width, c.cbf_width, c.bilinear_width)
        self.bilinear = nn.Parameter(he_orthogonal(torch.empty(shape)))
        self.up = linear(c.bilinear_width, c.edge_width)
        self.up_reverse = linear(c.bilinear_width, c.edge_width)
        self.scale_filter = ScaleFactor()
        self.scale_sum = ScaleFactor()

    def forward(self, edges: Tensor, basis: Basis, graph: Graph) -> Tensor:
        """(n_edges, edge_width) -> (n_edges, edge_width)."""
        assert graph.reverse_edges is not None
        x = activate(self.enter(edges))
        x = self.scale_filter(x * self.filter(basis.triplet), x)
        x = activate(self.down(x))
        sums = legendre_sums(x, basis.harmonics, basis.blocks, graph.species.shape[0])
        # Bilinear in the functions of the angle and the features.
        products = sums @ basis.angle.transpose(1, 2)
        out = products.flatten(1) @ self.bilinear.flatten(0, 1)
        degree = graph.edge_ptr.diff().index_select(0, graph.center)
        out = self.scale_sum(out, x, degree - 1)
        reverse = activate(self.up_reverse(out)).index_select(0, graph.reverse_edges)
        return (activate(self.up(out)) + reverse) * SQRT_HALF


class EdgeEmbedding(nn.Module):
    """Features of an edge from those of its two atoms and of itself, `act(W [h_c; h_a; m])`."""

    def __init__(self, atom_width: int, edge_width: int, n_out: int) -> None:
        super().__init__()
        self.atom_width = atom_width
        self.layer = linear(2 * atom_width + edge_width, n_out)

    def forward(self, atoms: Tensor, edges: Tensor, graph: Graph) -> Tensor:
        """(n_atoms, atom_width) and (n_edges, edge_width) -> (n_edges, n_out)."""
        n = self.atom_width
        neighbor, center, edge = self.layer.weight.split([n, n, edges.shape[1]], dim=1)
        # The products with atoms' features are made per atom, not per edge.
        x = gather_neighbors(functional.linear(atoms, neighbor), graph)
        x = x + functional.linear(atoms, center).index_select(0, graph.center)
        return activate(x + functional.linear(edges, edge))


class AtomUpdate(nn.Module):
    """Sum over the edges of an atom, weighted by functions of length; then a network."""

    def __init__(self, c: GemNetConfig) -> None:
        super().__init__()
        self.filter = linear(c.rbf_width, c.edge_width)
        self.scale = ScaleFactor()
        self.enter = linear(c.edge_width, c.atom_width)
        self.residuals = nn.ModuleList(Residual(c.atom_width) for _ in range(c.n_atom))

    def forward(self, edges: Tensor, radial: Tensor, graph: Graph) -> Tensor:
        """(n_edges, edge_width) and (n_edges, rbf_width) -> (n_atoms, atom_width)."""
        x = self.scale(sum_over_neighbors(edges * self.filter(radial), graph), edges)
        x = activate(self.enter(x))
        for layer in self.residuals:
            x = layer(x)
        return x


class Output(nn.Module):
    """Contribution of a layer to the energies of atoms and, if direct, to forces along edges."""

    def __init__(self, c: GemNetConfig, direct: bool) -> None:
        super().__init__()
        self.atom_update = AtomUpdate(c)
        self.energy = linear(c.atom_width, 1)
        self.force = EdgeForce(c) if direct else None

    def forward(self, edges: Tensor, basis: Basis, graph: Graph) -> tuple[Tensor, Tensor | None]:
        """(n_edges, edge_width) -> (n_atoms,) and (n_edges,)."""
        energy = self.energy(self.atom_update(edges, basis.output, graph)).squeeze(1)
        return energy, None if self.force is None else self.force(edges, basis.output)


class EdgeForce(nn.Module):
    """Strength of the force along each edge."""

    def __init__(self, c: GemNetConfig) -> None:
        super().__init__()
        self.enter = linear(c.edge_width, c.edge_width)
        self.residuals = nn.ModuleList(Residual(c.edge_width) for _ in range(c.n_atom))
        self.filter = linear(c.rbf_width, c.edge_width)
        self.scale = ScaleFactor()
        self.leave = linear(c.edge_width, 1)

    def forward(self, edges: Tensor, radial: Tensor) -> Tensor:
        """(n_edges, edge_width) and (n_edges, rbf_width) -> (n_edges,)."""
        x = activate(self.enter(edges))
        for layer in self.residuals:
            x = layer(x)
        return self.leave(self.scale(x * self.filter(radial), x)).squeeze(1)


class Residual(nn.Module):
    """Two layers and a skip connection, `(x + act(W₂ act(W₁ x))) / √2`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = linear(width, width)
        self.second = linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(n, width) -> (n, width)."""
        hidden = self.second(activate(self.first(x)))
        return skip_silu(x, hidden, GAIN * SQRT_HALF, SQRT_HALF)


def activate(x: Tensor) -> Tensor:
    """silu, scaled so that a unit variance stays near one."""
    return silu(x, GAIN)


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A layer without bias."""
    layer = nn.Linear(n_in, n_out, bias=False)
    with torch.no_grad():
        he_orthogonal(layer.weight)
    return layer


@torch.no_grad()
def he_orthogonal(weight: Tensor) -> Tensor:
    """Fill with a random orthogonal matrix whose outputs have the variance of the inputs.

    Matrices are (n_out, n_in); of three axes the last is the output.
    """
    nn.init.orthogonal_(weight)
    inputs = (1,) if weight.ndim == 2 else (0, 1)
    variance, mean = torch.var_mean(weight, dim=inputs, keepdim=True)
    fan_in = math.prod(weight.shape[k] for k in inputs)
    return weight.sub_(mean).div_((variance + 1e-6).sqrt() * math.sqrt(fan_in))
