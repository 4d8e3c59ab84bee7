"""The network for transfer: what stays the same when elements are added, and what L1 does."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from siliforce.models.bpnn_transfer import TransferBPNN
from siliforce.potential import Potential
from siliforce.species import Species
from siliforce.training.policy import Policy, rate_factors
from tests.cases import graph_of
from tests.structures import STRUCTURES, SYMBOLS

FORMS = pytest.mark.parametrize("elements", ["weighted", "channels"])


def make(elements: str, symbols=SYMBOLS) -> Potential:
    torch.manual_seed(0)
    config = TransferBPNN.presets["tiny"].model_copy(update={"elements": elements})
    model = TransferBPNN(config, len(symbols))
    potential = Potential(model, Species.from_symbols(symbols), np.zeros(len(symbols)), scale=0.1)
    potential.set_dtype(torch.float64)
    structures = [m() for m in STRUCTURES.values() if set(m().symbols) <= set(symbols)]
    model.fit_constants([potential.with_species(graph_of(potential, structures))])
    return potential


def descriptors(potential: Potential, atoms) -> torch.Tensor:
    return potential.model.descriptors(potential.with_species(graph_of(potential, [atoms])))


@FORMS
def test_features_stay_as_many_whatever_elements_come(elements: str) -> None:
    potential, atoms = make(elements), STRUCTURES["amorphous"]()
    n = descriptors(potential, atoms).shape[1]
    assert n == {"weighted": 3 + 8, "channels": 3 * 3 + 6 * 8}[elements]
    potential.extend([32]).extend([5, 6])
    atoms.symbols[:3] = ["Ge", "B", "C"]
    assert descriptors(potential, atoms).shape[1] == n == potential.model.n_columns
    again = TransferBPNN(potential.model.config, 5).double()
    again.load_state_dict(potential.model.state_dict())
    graph = potential.with_species(graph_of(potential, [atoms]))
    assert torch.equal(again(graph).atom_energy, potential.model(graph).atom_energy)


@FORMS
def test_a_new_element_is_at_first_taken_for_its_host(elements: str) -> None:
    potential, atoms = make(elements, ("Si",)), STRUCTURES["crystal"]()
    with torch.no_grad():  # as if trained
        for name, parameter in potential.model.named_parameters():
            if name not in ("offset.weight",):
                parameter.mul_(1 + 0.1 * torch.rand_like(parameter))
    before = potential(graph_of(potential, [atoms]))
    potential.extend([32], sources={32: 14})
    unchanged = potential(graph_of(potential, [atoms]))
    torch.testing.assert_close(unchanged.energy, before.energy, rtol=1e-12, atol=0)
    atoms.symbols[:3] = "Ge"
    foreign = potential(graph_of(potential, [atoms]))
    torch.testing.assert_close(foreign.energy, before.energy, rtol=1e-10, atol=0)
    torch.testing.assert_close(foreign.forces, before.forces, rtol=0, atol=1e-10)
    name = "element_weight.weight" if elements == "weighted" else "slope.weight"
    with torch.no_grad():
        dict(potential.model.named_parameters())[name][-1] *= 1.1
    changed = potential(graph_of(potential, [atoms]))
    assert (changed.energy - foreign.energy).abs() > 1e-6


def test_channels_keep_old_energies_and_are_empty_in_the_source() -> None:
    potential = make("channels")
    structures = [m() for m in STRUCTURES.values()]
    columns = torch.cat([descriptors(potential, atoms) for atoms in structures])
    n_host = 2 * 3 + 3 * 8
    assert columns[:, :n_host].abs().max() > 0.1
    assert (columns[:, n_host:] == 0).all()
    before = potential(graph_of(potential, structures))
    potential.extend([7, 32])
    after = potential(graph_of(potential, structures))
    assert (after.atom_energies / before.atom_energies - 1).abs().nan_to_num().max() < 1e-12
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-11)


def test_weighted_functions_are_weighted_sums_of_resolved_ones() -> None:
    potential, atoms = make("weighted"), STRUCTURES["amorphous"]()
    weight = torch.tensor([0.7, -1.3], dtype=torch.float64)
    with torch.no_grad():
        potential.model.element_weight.weight.copy_(weight)
    graph = potential.with_species(graph_of(potential, [atoms]))
    g2, g4 = potential.model.symmetry_functions(graph, 2)
    pairs = torch.stack([weight[0] ** 2, weight[0] * weight[1], weight[1] ** 2])
    expected = torch.cat(
        [torch.einsum("asr,s->ar", g2, weight), torch.einsum("apr,p->ar", g4, pairs)], 1
    )
    torch.testing.assert_close(potential.model.descriptors(graph), expected)


def test_first_layer_starts_as_identity_on_features_in_units_of_the_source() -> None:
    potential = make("weighted", ("Si",))
    model, structures = potential.model, [STRUCTURES[n]() for n in ("crystal", "mixed_pbc")]
    assert (model.slope.weight == 1).all()
    assert (model.offset.weight == 0).all()
    everything = [m() for m in STRUCTURES.values() if set(m().symbols) == {"Si"}]
    x = torch.cat([descriptors(potential, a) for a in everything])
    x = (x - model.mean.weight[0]) / model.deviation.weight[0]
    torch.testing.assert_close(x.mean(0), torch.zeros(11, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(x.square().mean(0), torch.ones(11, dtype=torch.float64))
    # One number for each feature: slope and offset act on it alone, before the layers mix them.
    with torch.no_grad():
        before = potential(graph_of(potential, structures)).energy
        model.slope.weight[0, 4] = 0.0
        model.offset.weight[0, 4] = 0.3
        after = potential(graph_of(potential, structures)).energy
        model.mean.weight[0, 4] = -0.3 * model.deviation.weight[0, 4]
        same = potential(graph_of(potential, structures)).energy
    assert (after - before).abs().min() > 1e-8
    assert torch.equal(after, same)  # with slope zero the feature itself no longer counts


def test_paper_sizes_and_parts() -> None:
    model = TransferBPNN(TransferBPNN.presets["paper"], 1)
    n = 16 + 24
    shapes = [tuple(layer.weight.weight.shape[1:]) for layer in model.layers]
    assert shapes == [(n, 200), (200, 100), (100, 50), (50, 50)]
    assert list(model.parts()) == ["input", "L2", "L3", "L4", "L5", "readout"]
    assert set(model.parts()["input"]) == {"slope.weight", "offset.weight", "element_weight.weight"}
    for parts, trained in (
        ({"input": 1.0}, {"input"}),
        ({"input": 1.0, "L5": 1.0, "readout": 1.0}, {"input", "L5", "readout"}),
        ({"input": 1.0, "L*": 1.0}, {"input", "L2", "L3", "L4", "L5"}),
    ):
        found = rate_factors(model, Policy(parts=parts))
        assert set(found) == {name for part in trained for name in model.parts()[part]}


def test_split_and_merge() -> None:
    model = make("weighted").model
    own = {"slope", "offset", "element_weight", "readout_bias"}
    model.split([0, 1, 1])
    shapes = {n.split(".")[0]: len(p) for n, p in model.named_parameters() if "layers" not in n}
    assert shapes == {**dict.fromkeys(own, 3), "readout": 2}
    assert model.networks.tolist() == [0, 1, 1]
    with torch.no_grad():
        model.slope.weight[1] = 2.0
        model.slope.weight[2] = 4.0
    model.merge([[0], [1, 2]])
    assert (model.slope.weight[1] == 3.0).all()
    assert model.n_species == 2
