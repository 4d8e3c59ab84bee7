"""SCN equals fairchem's, given the same weights and frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from siliforce.models.scn import SCN, SCNConfig
from siliforce.potential import Potential
from siliforce.species import Species
from tests.cases import graph_of
from tests.parity.scn import make_reference
from tests.parity.stored import structure

REFERENCE = np.load(make_reference.PATH)
STRUCTURES = sorted({k.split("/")[0] for k in REFERENCE.files} - {"weight"})
SIZES = make_reference.SIZES
CONFIG = SCNConfig(
    cutoff=make_reference.CUTOFF,
    n_channels=SIZES["sphere_channels"],
    n_layers=SIZES["num_interactions"],
    l_max=SIZES["lmax"],
    hidden=SIZES["hidden_channels"],
    far_l_max=max(4, SIZES["lmax"] - 2),
    far_hidden=SIZES["hidden_channels"] // 4,
    smooth=False,
    n_taps=4,  # what any number but 1 means in the package
    n_bands=SIZES["num_bands"],
    n_samples=SIZES["num_sphere_samples"],
    n_radial=round(make_reference.CUTOFF / SIZES["distance_resolution"]),
    radial_width=SIZES["basis_width_scalar"],
    n_basis=SIZES["num_basis_functions"],
)
DEGREES = {"0": CONFIG.l_max, "1": CONFIG.far_l_max}
NAMES = {
    "sphere_embedding.weight": "embedding.weight",
    "dist_block.fc1_dist": "edges.distance",
    "dist_block.source_embedding": "edges.source",
    "dist_block.target_embedding": "edges.target",
    "dist_block.fc1_edge_attr": "edges.mix",
    "message_blocks.0": "near",
    "message_blocks.1": "far",
    "fc1_dist": "radial",
    "fc1_edge": "hidden",
    "fc2_edge": "leave",
    "fc1_sphere": "sphere.first",
    "fc2_sphere": "sphere.second",
    "fc3_sphere": "sphere.third",
}
for _head in ("energy", "force"):
    for _number, _layer in enumerate(("first", "second", "third"), start=1):
        NAMES[f"{_head}_fc{_number}"] = f"readout.{_head}.{_layer}"
"""Part of a name in the package -> here."""


def renamed(name: str, weight: Tensor) -> tuple[str, Tensor]:
    """Our name and shape of one of the package's weights; KeyError for one that is unknown."""
    if name in NAMES:
        return NAMES[name], weight
    if not name.startswith("edge_blocks."):
        module, kind = name.split(".")
        return f"{NAMES[module]}.{kind}", weight
    _, layer, rest = name.split(".", 2)
    module, kind = rest.rsplit(".", 1)
    if not module.startswith("message_blocks."):
        return f"layers.{layer}.{NAMES[module]}.{kind}", weight
    _, resolution, module = module.split(".")
    target = f"layers.{layer}.{NAMES[f'message_blocks.{resolution}']}"
    order = row_order(DEGREES[resolution])
    if module == "fc1_edge_proj":
        if kind == "bias":
            return f"{target}.enter_bias", weight
        rows = weight.view(len(weight), 2, len(order), -1)[:, :, order]
        return f"{target}.enter", rows.permute(1, 2, 3, 0).contiguous()
    if module == "fc2_edge":
        weight = weight.view(len(order), CONFIG.n_channels, -1)[order].reshape(weight.shape)
    return f"{target}.{NAMES[module]}.{kind}", weight


def row_order(l_max: int) -> list[int]:
    """The package has rows by degree and then order, we by order (0, -1, +1) and then degree."""
    zero = [0] + [3 * degree - 1 for degree in range(1, l_max + 1)]
    minus = [3 * degree - 2 for degree in range(1, l_max + 1)]
    return [*zero, *minus, *(3 * degree for degree in range(1, l_max + 1))]


def reference_potential() -> Potential:
    species = Species(make_reference.NUMBERS)
    model = SCN(CONFIG, len(species)).double()
    weights: dict[str, Tensor] = {"mean_neighbors": model.mean_neighbors}
    for key in REFERENCE.files:
        kind, name = key.split("/")
        if kind == "weight":
            target, weight = renamed(name, torch.from_numpy(REFERENCE[key]))
            assert target not in weights
            weights[target] = weight
    model.load_state_dict(weights)
    return Potential(model, species, np.zeros(len(species)), pin_isolated=False)


def stored(name: str) -> Atoms:
    return structure(REFERENCE, name)


def with_stored_frames(potential: Potential, name: str) -> Potential:
    """Frames as the package drew them in place of our own."""
    frames = torch.from_numpy(REFERENCE[f"{name}/frames"])

    def replay(unit_vectors: Tensor) -> Tensor:
        torch.testing.assert_close(frames[:, 1], unit_vectors, rtol=0, atol=1e-12)
        return frames

    potential.model.frames = replay
    return potential


@pytest.mark.parametrize("name", STRUCTURES)
def test_energies_and_forces_are_equal(name: str) -> None:
    potential = with_stored_frames(reference_potential(), name)
    answer = potential(graph_of(potential, [stored(name)]))
    energies, forces = REFERENCE[f"{name}/atom_energies"], REFERENCE[f"{name}/forces"]
    assert np.abs(answer.atom_energies.detach().numpy() - energies).max() < 1e-8
    assert np.abs(answer.forces.detach().numpy() - forces).max() < 1e-7
    assert np.abs(forces).max() > 0.1


def test_frames_matter_little_but_they_do() -> None:
    """The stored frames are really used; with other ones forces keep their size and direction."""
    potential = reference_potential()
    graph = graph_of(potential, [stored("amorphous")])
    ours = potential(graph).forces
    theirs = with_stored_frames(potential, "amorphous")(graph).forces
    change = (ours - theirs).square().mean().sqrt() / theirs.square().mean().sqrt()
    assert 1e-4 < change < 0.4


def test_every_weight_counts() -> None:
    potential = with_stored_frames(reference_potential(), "amorphous")
    graph = graph_of(potential, [stored("amorphous")])
    before = potential(graph)
    for name, parameter in potential.model.named_parameters():
        original = parameter.detach().clone()
        with torch.no_grad():
            parameter.mul_(1.01)
            after = potential(graph)
            parameter.copy_(original)
        change = max(
            (after.atom_energies - before.atom_energies).abs().max(),
            (after.forces - before.forces).abs().max(),
        )
        assert change > 1e-6, f"{name} has no effect: parity would not notice a wrong one"


def test_an_unknown_weight_is_refused() -> None:
    with pytest.raises(KeyError, match="fc9"):
        renamed("edge_blocks.0.fc9.weight", torch.zeros(1))


def test_reference_is_what_the_package_says() -> None:
    try:
        model = make_reference.build()
    except ImportError as error:
        pytest.skip(f"the authors' package is not installed: {error}")
    for name in STRUCTURES:
        frames = REFERENCE[f"{name}/frames"]
        energies, forces, _ = make_reference.evaluate(model, stored(name), frames)
        np.testing.assert_allclose(energies, REFERENCE[f"{name}/atom_energies"], atol=1e-10)
        np.testing.assert_allclose(forces, REFERENCE[f"{name}/forces"], atol=1e-10)
