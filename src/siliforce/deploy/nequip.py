"""Weights of the nequip package -> weights of siliforce's NequIP."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from siliforce.deploy.weights import Weights
from siliforce.errors import ModelFileError
from siliforce.models.nequip import NequIPConfig
from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3 import SCALAR, Irrep, all_irreps, natural_irreps

E3NN_GAINS = {1: 1.6791767923989418, -1: 1.5937334472592695}
"""e3nn 0.6's second-moment factors of silu and tanh (by parity), means of a million samples."""

BUILD = {"_target_", "seed", "model_dtype", "compile_mode", "do_derivatives"}
"""Arguments of the package's models that do not change the function."""

SUPPORTED = {
    "type_embed_num_features": None,
    "per_edge_type_cutoff": None,
    "pair_potential": None,
    "readout_mlp_hidden_layers_depth": 0,
    "readout_mlp_hidden_layers_width": None,
    "readout_mlp_nonlinearity": "silu",
    "categorical_graph_field_embed": None,
}
"""Arguments that are known with one value only."""


class Options:
    """The package's arguments, each of which must be asked for."""

    def __init__(self, config: Mapping[str, Any], supported: Mapping[str, Any]) -> None:
        self.rest = {k: v for k, v in config.items() if k not in BUILD}
        for name, value in supported.items():
            self.require(name, value, self.take(name, value))

    def take(self, name: str, default: Any = None) -> Any:
        return self.rest.pop(name, default)

    def require(self, name: str, expected: Any, found: Any) -> None:
        """Refuse what siliforce's model does not have.

        Raises:
            ModelFileError: another value than expected.
        """
        if found != expected:
            raise ModelFileError(f"{name} is {found!r}; only {expected!r} can be imported")

    def number(self, name: str, default: float | None = None) -> float:
        """An argument that may be several numbers there, and is one here.

        Raises:
            ModelFileError: several, or none at all.
        """
        value = self.take(name, default)
        if not isinstance(value, (int, float)):
            raise ModelFileError(f"{name} is {value!r}; only one number for all can be imported")
        return float(value)

    def tensor(self, name: str) -> Tensor:
        """A number, in float64: a mean is rarely exact in float32."""
        return torch.tensor(self.number(name), dtype=torch.float64)

    def finish(self) -> None:
        """Refuse arguments that nobody asked for.

        Raises:
            ModelFileError: naming them.
        """
        if self.rest:
            raise ModelFileError(f"unknown arguments, nothing is imported: {', '.join(self.rest)}")


def from_nequip(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[NequIPConfig, dict[str, Tensor]]:
    """Configuration and weights of the same function.

    Args:
        config: arguments of `NequIPGNNModel`, defaults left out or not.
        state: its state dict.

    Returns:
        Our configuration, and the state dict of a `Potential` around our model, `species` in the
        order of the package's `type_names`.

    Raises:
        ModelFileError: something unknown or unsupported, by name.
    """
    options = Options(config, SUPPORTED)
    weights = Weights(state, "model.func.")
    ours = NequIPConfig(
        cutoff=options.take("r_max"),
        n_channels=int(options.number("num_features", 32)),
        l_max=options.take("l_max", 1),
        parity=options.take("parity", True),
        n_layers=options.take("num_layers", 4),
        n_radial=options.take("num_bessels", 8),
        trainable_radial=options.take("bessel_trainable", False),
        envelope=options.take("polynomial_cutoff_p", 6),
        radial_hidden=(options.take("radial_mlp_width", 128),)
        * options.take("radial_mlp_depth", 1),
    )
    n_species = len(options.take("type_names"))
    out = {"model.mean_neighbors": options.tensor("avg_num_neighbors")}
    out |= energy_scale(options, weights, n_species)
    options.finish()
    out["model.types.weight"] = weights.take("type_embed.embed_module.weight")
    out |= bessel_functions(weights, "bessel_encode", ours.trainable_radial, ours.n_radial)
    for k in range(ours.n_layers):
        out |= layer(weights, ours, k)
    out["model.readout.weights.0"] = weights.take(
        "per_atom_energy_readout.mlp_module.mlp.0.weight"
    ) * gain_ratio(SCALAR)
    weights.finish(is_constant)
    return ours, {k: v.double() for k, v in out.items()}


def is_constant(name: str) -> bool:
    """Tables that follow from the configuration."""
    return name.endswith(("output_mask", "_rmax_recip")) or "._w3j_" in name


def energy_scale(options: Options, weights: Weights, n_species: int) -> dict[str, Tensor]:
    """What belongs to the potential: one scale, a shift per species."""
    for name in ("per_type_energy_scales", "per_type_energy_shifts"):
        options.take(name)
        options.take(f"{name}_trainable")
    scales = weights.take("per_type_energy_scale_shift.scales").double().flatten()
    shifts = weights.take("per_type_energy_scale_shift.shifts").double().flatten()
    if len(scales.unique()) > 1:
        raise ModelFileError(f"energy scales {scales.tolist()} differ between types; one is needed")
    return {
        "scale": scales[0] if len(scales) else torch.ones((), dtype=torch.float64),
        "shift.weight": shifts.expand(n_species) if len(shifts) else torch.zeros(n_species),
        "atomic_energies.weight": torch.zeros(n_species),
    }


def bessel_functions(
    weights: Weights, name: str, trainable: bool, n_radial: int
) -> dict[str, Tensor]:
    """Frequencies, in the package without their factor of pi."""
    frequencies = weights.take(f"{name}.bessel_weights").flatten()
    if trainable:
        return {"model.bessel.frequencies": frequencies.double() * math.pi}
    if not torch.equal(frequencies.double(), torch.arange(1.0, n_radial + 1).double()):
        raise ModelFileError(f"Bessel functions are fixed, but not at 1 .. {n_radial}")
    return {}


def gain_ratio(irrep: Irrep) -> float:
    """The package's normalisation of a layer's output over ours, which is exact."""
    sign = irrep.parity if irrep.degree == 0 else 1  # tensors have even gates
    return E3NN_GAINS[sign] / unit_gain("silu" if sign == 1 else "tanh")


def layer(weights: Weights, config: NequIPConfig, k: int) -> dict[str, Tensor]:
    """One interaction. The package also has features that never reach the energy; they go."""
    n, name, new = config.n_channels, f"layer{k}_convnet.conv", f"model.layers.{k}"
    theirs = reachable_irreps(config)
    inputs, outputs = theirs[k], theirs[k + 1]
    kept, wanted = config.irreps()[k : k + 2]
    ratio = {i: gain_ratio(i) if k else 1.0 for i in inputs}
    gated = [i for i in outputs if i.degree > 0]
    gates = [i for i in wanted if i.degree > 0]
    columns = [c for i in gates for c in range(n * gated.index(i), n * gated.index(i) + n)]
    out = {}

    enter = blocks(weights.take(f"{name}.linear_1.weight"), [(i, (n, n)) for i in inputs])
    for j, irrep in enumerate(kept):
        out[f"{new}.enter.weights.{j}"] = enter[irrep] * ratio[irrep]

    for j in range(len(config.radial_hidden)):
        out[f"{new}.radial.weights.{j}"] = weights.take(f"{name}.edge_mlp.mlp.{2 * j}.weight")
    j = len(config.radial_hidden)
    last = weights.take(f"{name}.edge_mlp.mlp.{2 * j}.weight")
    paths = [
        (a, l2, Irrep(l3, a.parity * (-1) ** l2))
        for a in inputs
        for l2 in range(config.l_max + 1)
        for l3 in range(abs(a.degree - l2), a.degree + l2 + 1)
        if Irrep(l3, a.parity * (-1) ** l2) in outputs
    ]
    by_path = dict(zip(paths, last.split(n, dim=1), strict=True))
    out[f"{new}.radial.weights.{j}"] = torch.cat(
        [by_path[p] for b in wanted for p in paths if p[2] == b and p[0] in kept], dim=1
    )

    # e3nn sorts irreps by degree, the odd one first.
    shapes: list[tuple[Irrep, tuple[int, ...]]] = []
    for b in sorted(outputs):
        width = n * (1 + len(gated)) if b == SCALAR else n
        shapes.append((b, (n * sum(p[2] == b for p in paths), width)))
    leave = blocks(weights.take(f"{name}.linear_2.weight"), shapes)
    for j, irrep in enumerate(wanted):
        out[f"{new}.leave.weights.{j}"] = leave[irrep][:, :n]
    if columns:
        out[f"{new}.leave_gates.weights.0"] = leave[SCALAR][:, n:][:, columns]

    if k:
        shapes = [
            (i, (n, n, n * (1 + len(gated)) if i == SCALAR else n)) for i in inputs if i in outputs
        ]
        skip = blocks(weights.take(f"{name}.sc.weight"), shapes)
        for j, irrep in enumerate([i for i in kept if i in wanted]):
            out[f"{new}.skip.weights.{j}"] = skip[irrep][..., :n] * ratio[irrep]
        if columns:
            out[f"{new}.skip_gates.weights.0"] = skip[SCALAR][..., n:][..., columns] * ratio[SCALAR]
    return out


def reachable_irreps(config: NequIPConfig) -> list[tuple[Irrep, ...]]:
    """What the package keeps between its layers: all that can be made."""
    allowed = all_irreps(config.l_max) if config.parity else natural_irreps(config.l_max)
    sets: list[tuple[Irrep, ...]] = [(SCALAR,)]
    for _ in range(config.n_layers - 1):
        sets.append(
            tuple(b for b in allowed if any(a.harmonics_to(b, config.l_max) for a in sets[-1]))
        )
    return [*sets, (SCALAR,)]


def blocks(flat: Tensor, shapes: Sequence[tuple[Irrep, tuple[int, ...]]]) -> dict[Irrep, Tensor]:
    """Matrices that are stored one after the other.

    Raises:
        ModelFileError: they are not that many numbers.
    """
    sizes = [math.prod(shape) for _, shape in shapes]
    if sum(sizes) != flat.numel():
        raise ModelFileError(f"{flat.numel()} weights where {sum(sizes)} were expected")
    parts = flat.flatten().split(sizes)
    return {i: part.view(shape) for (i, shape), part in zip(shapes, parts, strict=True)}
