"""Models of mace-torch 0.3.16 -> siliforce's MACE.

What a model is follows from the shapes of its tensors and the plain settings beside them. Only
layers that are listed here are taken, so that what siliforce does not have is named, not ignored.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import product
from typing import Any

import torch
from torch import Tensor

from siliforce.deploy.pickles import Layer, StandIn, path_of
from siliforce.deploy.weights import Weights
from siliforce.errors import ModelFileError
from siliforce.models.mace import MACE, MACEConfig
from siliforce.nn.mlp import unit_gain
from siliforce.nn.o3.symmetric import monomials, multiplicity, symmetric_basis
from siliforce.potential import Potential
from siliforce.species import Species

RESIDUAL = "RealAgnosticResidualInteractionBlock"
CONTRACTIONS = "products.*.symmetric_contractions.contractions"
KINDS = {
    "": {"MACE", "ScaleShiftMACE"},
    "node_embedding": {"LinearNodeEmbeddingBlock"},
    "node_embedding.linear": {"Linear"},
    "radial_embedding": {"RadialEmbeddingBlock"},
    "radial_embedding.bessel_fn": {"BesselBasis"},
    "radial_embedding.cutoff_fn": {"PolynomialCutoff"},
    "spherical_harmonics": {"SphericalHarmonics"},
    "atomic_energies_fn": {"AtomicEnergiesBlock"},
    "interactions": {"ModuleList"},
    "interactions.*": {RESIDUAL},
    "interactions.*.linear_up": {"Linear"},
    "interactions.*.conv_tp": {"TensorProduct"},
    "interactions.*.conv_tp_weights": {"FullyConnectedNet"},
    "interactions.*.conv_tp_weights.layer*": {"_Layer"},
    "interactions.*.conv_tp_weights.layer*.act": {"normalize2mom"},
    "interactions.*.linear": {"Linear"},
    "interactions.*.skip_tp": {"FullyConnectedTensorProduct"},
    "interactions.*.reshape": {"reshape_irreps"},
    "products": {"ModuleList"},
    "products.*": {"EquivariantProductBasisBlock"},
    "products.*.symmetric_contractions": {"SymmetricContraction"},
    CONTRACTIONS: {"ModuleList"},
    f"{CONTRACTIONS}.*": {"Contraction"},
    f"{CONTRACTIONS}.*.contractions_weighting": {"ModuleList"},
    f"{CONTRACTIONS}.*.contractions_features": {"ModuleList"},
    f"{CONTRACTIONS}.*.weights": {"ParameterList"},
    "products.*.linear": {"Linear"},
    "readouts": {"ModuleList"},
    "readouts.*": {"LinearReadoutBlock", "NonLinearReadoutBlock"},
    "readouts.*.linear": {"Linear"},
    "readouts.*.linear_*": {"Linear"},
    "readouts.*.non_linearity": {"Activation"},
    "readouts.*.non_linearity.acts": {"ModuleList"},
    "readouts.*.non_linearity.acts.*": {"normalize2mom"},
    "scale_shift": {"ScaleShiftBlock"},
}
"""Class of every module by its place; numbers in places are stars."""

SETTINGS: dict[str, Any] = {
    "lammps_mliap": False,
    "apply_cutoff": True,
    "edge_irreps": None,
    "use_agnostic_product": False,
    "use_so3": False,
    "use_last_readout_only": False,
}
"""Of the whole model, known with one value only."""

NO_EFFECT = {"heads", "use_reduced_cg", "use_edge_irreps_first"}
"""Settings that say nothing more once there is one head, no `edge_irreps`, and couplings are
read from the file."""


def mace_potential(model: Layer) -> Potential:
    """The same energies, forces and stress.

    Raises:
        ModelFileError: layers, settings or weights that siliforce's MACE does not have, by name.
    """
    check_layers(model)
    tensors = Weights(model.tensors(lambda layer: layer.buffers))
    parameters = model.tensors(lambda layer: layer.parameters)
    species = Species(tuple(tensors.take("atomic_numbers").tolist()))
    config = read_config(model, len(species))
    check_radial(tensors, config)
    mean_neighbors = {float_of(p, "avg_num_neighbors") for p in each(model, "interactions")}
    if len(mean_neighbors) > 1:
        raise ModelFileError(f"avg_num_neighbors differs between layers: {mean_neighbors}")
    network = MACE(config, len(species)).double()
    try:
        state = from_mace_torch(parameters, tensors.rest, config, len(species), silu_gain(model))
        state["mean_neighbors"] = torch.tensor(mean_neighbors.pop(), dtype=torch.float64)
        network.load_state_dict(state)
    except RuntimeError as error:
        raise ModelFileError(f"weights of unexpected shapes: {error}") from error
    scaled = "scale_shift" in model.parts
    energies = tensors.take("atomic_energies_fn.atomic_energies").double().flatten()
    if len(energies) != len(species):
        raise ModelFileError(f"{len(energies)} atomic energies for {len(species)} elements")
    potential = Potential(
        network,
        species,
        energies.numpy(),
        shift=tensors.take("scale_shift.shift").item() if scaled else 0.0,
        scale=tensors.take("scale_shift.scale").item() if scaled else 1.0,
        pin_isolated=False,
    )
    return potential.set_dtype(parameters["node_embedding.linear.weight"].dtype).eval()


def check_layers(model: Layer) -> None:
    """Refuse what is not siliforce's MACE.

    Raises:
        ModelFileError: naming every layer of another class, or the first setting of another value.
    """
    strange: list[str] = []
    for layer in model.walk():
        allowed = KINDS.get(re.sub(r"\d+", "*", layer.name), set())
        if layer.kind not in allowed and not any(layer.name.startswith(f"{s}.") for s in strange):
            strange.append(layer.name)
    if strange:
        kinds = {layer.name: layer.kind for layer in model.walk()}
        listed = ", ".join(f"{name or 'the model'} ({kinds[name]})" for name in strange)
        raise ModelFileError(f"siliforce's MACE does not have: {listed}")
    for name, value in model.attributes.items():
        if name not in SETTINGS and name not in NO_EFFECT:
            raise ModelFileError(f"unknown setting {name} = {_shown(value)}")
        if name in SETTINGS and value != SETTINGS[name]:
            raise ModelFileError(
                f"{name} is {_shown(value)}; siliforce's MACE knows only {SETTINGS[name]!r}"
            )
    heads = model.attributes.get("heads", ["Default"])
    if len(heads) != 1:
        raise ModelFileError(f"a model of {len(heads)} heads ({', '.join(heads)}); only one works")
    readouts = [layer.kind for layer in each(model, "readouts")]
    before = len(each(model, "interactions")) - 1
    if readouts != ["LinearReadoutBlock"] * before + ["NonLinearReadoutBlock"]:
        raise ModelFileError(
            f"readouts are {', '.join(readouts)}; siliforce's MACE has one for each layer, "
            "the last of them nonlinear"
        )


def read_config(model: Layer, n_species: int) -> MACEConfig:
    """Hyper-parameters, from shapes and irreps.

    Raises:
        ModelFileError: features of other degrees, parities or numbers of channels.
    """
    layers, products = each(model, "interactions"), each(model, "products")
    contractions = each(products[0].parts["symmetric_contractions"], "contractions")
    n = model.parts["node_embedding"].parts["linear"].parameters["weight"].numel() // n_species
    hidden = len(contractions) - 1
    orders = {
        len(part.parts["weights"].parameters) + 1
        for product in products
        for part in each(product.parts["symmetric_contractions"], "contractions")
    }
    if len(orders) > 1:
        raise ModelFileError(f"products of several orders ({sorted(orders)}); only one works")
    natural = written((n, d, (-1) ** d) for d in range(hidden + 1))
    if irreps(layers[0], "hidden_irreps") != natural:
        raise ModelFileError(
            f"{layers[0].name}.hidden_irreps is {irreps(layers[0], 'hidden_irreps')}; siliforce's "
            f"MACE would have {natural}"
        )
    radial = model.parts["radial_embedding"].parts
    last = each(model, "readouts")[-1]
    config = MACEConfig(
        cutoff=decimal(model.buffers["r_max"]),
        n_channels=n,
        hidden_l_max=hidden,
        l_max=irreps(layers[0], "edge_attrs_irreps").count("+"),
        correlation=orders.pop(),
        n_layers=len(layers),
        n_radial=radial["bessel_fn"].buffers["bessel_weights"].numel(),
        envelope=int(radial["cutoff_fn"].buffers["p"]),
        radial_hidden=tuple(
            part.parameters["weight"].shape[1]
            for part in list(layers[0].parts["conv_tp_weights"].parts.values())[:-1]
        ),
        readout_hidden=last.parts["linear_2"].parameters["weight"].numel(),
    )
    for k, layer in enumerate(layers):
        l_in = hidden if k else 0
        l_out = hidden if k < len(layers) - 1 else 0
        for name, degrees, channels in (
            ("node_feats_irreps", l_in, n),
            ("edge_irreps", l_in, n),
            ("edge_attrs_irreps", config.l_max, 1),
            ("target_irreps", config.l_max, n),
            ("hidden_irreps", l_out, n),
        ):
            expected = written((channels, d, (-1) ** d) for d in range(degrees + 1))
            if name in layer.attributes and irreps(layer, name) != expected:
                raise ModelFileError(
                    f"{layer.name}.{name} is {irreps(layer, name)}; "
                    f"siliforce's MACE would have {expected}"
                )
    return config


def check_radial(tensors: Weights, config: MACEConfig) -> None:
    """Refuse Bessel functions that are not the usual ones.

    Raises:
        ModelFileError: other frequencies, or another cutoff than the model's.
    """
    found = tensors.take("radial_embedding.bessel_fn.bessel_weights").double()
    usual = torch.arange(1, config.n_radial + 1) * (math.pi / config.cutoff)
    if not torch.allclose(found, usual.double(), rtol=1e-6):
        raise ModelFileError(f"Bessel functions have unusual frequencies: {found.tolist()}")
    for name in ("bessel_fn", "cutoff_fn"):
        cutoff = decimal(tensors.take(f"radial_embedding.{name}.r_max"))
        if cutoff != config.cutoff:
            raise ModelFileError(f"{name}.r_max is {cutoff} Å, the model's {config.cutoff} Å")


def silu_gain(model: Layer) -> float:
    """The normalisation constant of silu, estimated by sampling when the model was built.

    Raises:
        ModelFileError: another activation, or several constants.
    """
    found = [layer.attributes for layer in model.walk() if layer.kind == "normalize2mom"]
    gate = each(model, "readouts")[-1].parts["non_linearity"]
    if all(layer.kind != "normalize2mom" for layer in gate.walk()):
        raise ModelFileError(
            f"{gate.name} has no activation (gate: None); only silu can be imported"
        )
    names = {path_of(a["f"]) for a in found}
    if names != {"torch.nn.functional.silu"}:
        raise ModelFileError(f"activations {', '.join(sorted(names))}; only silu can be imported")
    gains = {float(a["cst"]) for a in found}
    if len(gains) != 1:
        raise ModelFileError(f"several normalisation constants of silu: {sorted(gains)}")
    return gains.pop()


def from_mace_torch(
    weights: Mapping[str, Tensor],
    couplings: Mapping[str, Tensor],
    config: MACEConfig,
    n_species: int,
    silu_gain: float,
) -> dict[str, Tensor]:
    """State dict of `MACE`, but for its mean number of neighbours, in float64.

    Args:
        weights: named parameters of ScaleShiftMACE.
        couplings: its buffers, of which those named `U_matrix` are read.
        config: with the same sizes.
        n_species: elements of both.
        silu_gain: the authors' normalisation constant of silu, estimated there by sampling.

    Raises:
        ModelFileError: missing or unknown weights, by name.
    """
    n, last = config.n_channels, config.n_layers - 1
    ratio = silu_gain / unit_gain("silu")
    theirs = Weights({k: v.double() for k, v in weights.items()})
    tables = Weights(couplings)
    embedding = theirs.take("node_embedding.linear.weight").reshape(n_species, n)
    out = {"embedding.weight": embedding / n_species**0.5}
    for k in range(config.n_layers):
        mine, old = f"layers.{k}", f"interactions.{k}"
        out |= _matrices(f"{mine}.enter", theirs.take(f"{old}.linear_up.weight"), n, [n] * 99)
        for i in range(len(config.radial_hidden) + 1):
            matrix = theirs.take(f"{old}.conv_tp_weights.layer{i}.weight")
            out[f"{mine}.radial.weights.{i}"] = matrix * (ratio if i else 1.0)
        fan_in = _fan_in(config, k)
        out |= _matrices(f"{mine}.leave", theirs.take(f"{old}.linear.weight"), n, fan_in)
        skip = theirs.take(f"{old}.skip_tp.weight").reshape(-1, n, n_species, n)
        out[f"{mine}.skip.weight"] = skip.permute(2, 0, 1, 3) / (n * n_species) ** 0.5
        out |= _products(theirs, tables, config, k)
        out |= _matrices(f"{mine}.mix", theirs.take(f"products.{k}.linear.weight"), n, [n] * 99)
    for k in range(last):
        readout = theirs.take(f"readouts.{k}.linear.weight")
        out[f"readouts.{k}.weights.0"] = readout.reshape(n, 1)
    head = f"readouts.{last}"
    out[f"{head}.weights.0"] = theirs.take(f"{head}.linear_1.weight").reshape(n, -1)
    out[f"{head}.weights.1"] = theirs.take(f"{head}.linear_2.weight").reshape(-1, 1) * ratio
    theirs.finish()
    return out


def _products(
    weights: Weights, tables: Weights, config: MACEConfig, layer: int
) -> dict[str, Tensor]:
    """Weights of the symmetric products of one layer."""
    l_out = config.hidden_l_max if layer < config.n_layers - 1 else 0
    out = {}
    for degree, order in product(range(l_out + 1), range(1, config.correlation + 1)):
        prefix = f"products.{layer}.symmetric_contractions.contractions.{degree}"
        lower = config.correlation - 1 - order
        key = f"{prefix}.weights.{lower}" if lower >= 0 else f"{prefix}.weights_max"
        projection = _projection(tables.take(f"{prefix}.U_matrix_{order}"), degree, order)
        values = weights.take(key)
        if len(projection):
            name = f"layers.{layer}.products.weights.{degree}_{order}.weight"
            out[name] = torch.einsum("bp,spc->sbc", projection, values)
    return out


def _fan_in(config: MACEConfig, layer: int) -> list[int]:
    """Channels of every degree after the convolution."""
    l_in = config.hidden_l_max if layer else 0
    counts = []
    for l3 in range(config.l_max + 1):
        pairs = [(l1, l2) for l1 in range(l_in + 1) for l2 in range(config.l_max + 1)]
        counts.append(sum(abs(a - b) <= l3 <= a + b and (a + b + l3) % 2 == 0 for a, b in pairs))
    return [c * config.n_channels for c in counts]


def _matrices(name: str, flat: Tensor, n_out: int, fan_in: list[int]) -> dict[str, Tensor]:
    """One matrix per degree out of one flat vector."""
    out, start = {}, 0
    for degree, n_in in enumerate(fan_in):
        if start == flat.numel():
            break
        out[f"{name}.weights.{degree}"] = flat[start : start + n_in * n_out].view(n_in, n_out)
        start += n_in * n_out
    return out


def _projection(couplings: Tensor, degree: int, order: int) -> Tensor:
    """The authors' couplings in terms of the orthonormal symmetric ones, (n_basis, n_couplings).

    Args:
        couplings: ([2 L + 1,] dim, .. dim, n_couplings), without the first axis where L = 0.

    Raises:
        ModelFileError: they are not all in the span of ours.
    """
    dim = couplings.shape[-2]
    ours = symmetric_basis(math.isqrt(dim) - 1, degree, order)
    norm = multiplicity(dim, order)
    flat = couplings.double().reshape(2 * degree + 1, dim**order, -1)
    theirs = flat.new_zeros(2 * degree + 1, len(norm), flat.shape[2])
    theirs = theirs.index_add(1, _rows(dim, order), flat) / norm[:, None]
    ours = ours / norm
    found = torch.einsum("bmq,mqp->bp", ours, theirs) / (2 * degree + 1)
    left = theirs - torch.einsum("bmq,bp->mqp", ours, found)
    if left.abs().max() > 1e-5 * flat.abs().max():
        raise ModelFileError(
            f"products of {order} features to degree {degree} have couplings that are not "
            "symmetric ones of natural parity"
        )
    return found


@cache
def _rows(dim: int, order: int) -> Tensor:
    """Monomial of every component of a tensor with `order` axes of length `dim`."""
    rows = {m: k for k, m in enumerate(monomials(dim, order))}
    return torch.tensor([rows[tuple(sorted(c))] for c in product(range(dim), repeat=order)])


def each(layer: Layer, name: str) -> list[Layer]:
    """Members of a list of modules."""
    return list(layer.parts[name].parts.values())


def irreps(layer: Layer, name: str) -> str:
    """An attribute that describes features, as `4x0e+4x1o`; it is kept as such or taken apart."""
    value = layer.attributes[name]
    if isinstance(value, str):
        return value.replace(" ", "")
    parts = [part.args[0] for part in value.args[0]]
    return written((channels, *irrep.args[0]) for channels, irrep in parts)


def written(features: Iterable[tuple[int, int, int]]) -> str:
    """Channels, degree and parity of one part of the features after the other."""
    return "+".join(f"{n}x{degree}{'e' if parity > 0 else 'o'}" for n, degree, parity in features)


def decimal(value: Tensor) -> float:
    """The shortest decimal number that a float32 or float64 stands for."""
    return float(str(value.numpy()[()]))


def float_of(layer: Layer, name: str) -> float:
    """A plain number beside the weights.

    Raises:
        ModelFileError: it is none.
    """
    value = layer.attributes[name]
    if isinstance(value, Tensor) and value.numel() == 1:
        return value.item()
    if not isinstance(value, (int, float)):
        raise ModelFileError(f"{layer.name}.{name} is {_shown(value)}, not a number")
    return float(value)


def _shown(value: Any) -> str:
    return path_of(value) if isinstance(value, (StandIn, type)) else repr(value)
