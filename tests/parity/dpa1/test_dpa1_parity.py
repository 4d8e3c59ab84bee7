"""DPA-1 equals deepmd-kit's, given the same weights."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from siliforce.models.dpa1 import DPA1, DPA1Config
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.parity.dpa1 import make_reference
from tests.parity.stored import structure

REFERENCE = np.load(make_reference.PATH)
STRUCTURES = sorted({k.split("/")[0] for k in REFERENCE.files} - {"weight"})
ATTENTION = r"descriptor\.se_atten\.dpa1_attention\.attention_layers\.(\d)"
NAMES = {
    r"descriptor\.type_embedding\.embedding\.embedding_net\.layers\.0\.matrix": "types.weight",
    r"descriptor\.se_atten\.filter_layers\.networks\.0\.layers\.(\d)\.(matrix|bias)": (
        r"embedding.\1.linear.\2"
    ),
    ATTENTION + r"\.attention_layer\.in_proj\.(matrix|bias)": r"attention.\1.enter.\2",
    ATTENTION + r"\.attention_layer\.out_proj\.(matrix|bias)": r"attention.\1.leave.\2",
    ATTENTION + r"\.attn_layer_norm\.(matrix|bias)": r"attention.\1.norm.\2",
    r"fitting\.filter_layers\.networks\.0\.layers\.3\.(matrix|bias)": r"readout.\1",
    r"fitting\.filter_layers\.networks\.0\.layers\.(\d)\.(matrix|bias)": r"fitting.\1.linear.\2",
    r"fitting\.filter_layers\.networks\.0\.layers\.(\d)\.idt": r"fitting.\1.step",
    r"descriptor\.se_atten\.stddev": "deviation.weight",
}
"""Weight in deepmd-kit -> here, the first that fits; `matrix` becomes `weight`, transposed."""
ZERO = r"descriptor\.se_atten\.mean|fitting\.bias_atom_e"
"""The mean of the environment matrix, not subtracted, and reference energies."""
UNUSED = r".*\._networks\..*|.*\.(compress_info|compress_data)\.0|.*\.type_embd_data"
"""The same weights a second time, and tables of compressed models."""


def mapped(name: str, array: np.ndarray) -> dict[str, Tensor]:
    """Our names and values of one of the package's weights; empty for what has no part in ours.

    Raises:
        KeyError: a weight that is not known.
    """
    if re.fullmatch(UNUSED, name):
        return {}
    if re.fullmatch(ZERO, name):
        assert not array.any(), name
        return {}
    pattern = next((p for p in NAMES if re.fullmatch(p, name)), None)
    if pattern is None:
        raise KeyError(f"no weight of ours for {name}")
    target, value = re.sub(pattern, NAMES[pattern], name), torch.from_numpy(array)
    if target == "deviation.weight":
        # The same for all slots and for the three directions.
        assert (array == array[:, :1]).all()
        assert (array[:, :, 1:] == array[:, :, 1:2]).all()
        return {target: value[:, 0, :2]}
    if target.endswith("matrix"):
        target, value = target.replace("matrix", "weight"), value.t() if value.ndim == 2 else value
    if "enter" in target:
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {target.replace("enter", part): rows for part, rows in parts}
    return {target: value}


def reference_potential() -> Potential:
    species = Species(make_reference.NUMBERS)
    model = DPA1(DPA1Config(**make_reference.CONFIG), len(species), make_reference.SEL).double()
    weights: dict[str, Tensor] = {"mean_neighbors": model.mean_neighbors}
    for key in REFERENCE.files:
        kind, name = key.split("/")
        if kind == "weight":
            ours = mapped(name, REFERENCE[key])
            assert not ours.keys() & weights.keys()
            weights |= ours
    model.load_state_dict(weights)
    return Potential(model, species, np.zeros(len(species)), pin_isolated=False)


def stored(name: str) -> Atoms:
    return structure(REFERENCE, name)


@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_and_forces_are_equal(name: str) -> None:
    potential = reference_potential()
    answer = potential(graph_of(potential, [stored(name)]))
    energies, forces = REFERENCE[f"{name}/atom_energies"], REFERENCE[f"{name}/forces"]
    assert np.abs(answer.atom_energies.numpy() - energies).max() < 1e-8
    assert np.abs(answer.forces.numpy() - forces).max() < 1e-7
    assert name == "isolated" or np.abs(forces).max() > 0.1


def test_every_weight_counts() -> None:
    potential = reference_potential()
    graph = graph_of(potential, [stored("amorphous")])
    before = potential(graph).atom_energies
    torch.manual_seed(0)
    weights = dict(potential.model.named_parameters())
    weights["deviation"] = potential.model.deviation.weight
    weights["mean_neighbors"] = potential.model.mean_neighbors
    for name, weight in weights.items():
        original = weight.detach().clone()
        with torch.no_grad():
            # Not a factor: queries and keys are normalised. Their products lie between -1 and 1,
            # so that attention is nearly even, whatever they are.
            weight.add_(0.5 * original.square().mean().sqrt() * torch.randn_like(original))
            change = (potential(graph).atom_energies - before).abs().max()
            weight.copy_(original)
        assert change > 1e-6, f"{name} has no effect: parity would not notice a wrong one"


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(KeyError, match="no weight of ours"):
        mapped("descriptor.another.matrix", np.zeros((2, 2)))


def test_reference_is_what_the_package_says() -> None:
    pytest.importorskip("deepmd", reason="deepmd-kit is not installed")
    model = make_reference.build()
    for name in STRUCTURES:
        energies, forces = make_reference.evaluate(model, stored(name))
        np.testing.assert_allclose(energies, REFERENCE[f"{name}/atom_energies"], atol=1e-10)
        np.testing.assert_allclose(forces, REFERENCE[f"{name}/forces"], atol=1e-10)
