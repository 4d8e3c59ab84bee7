"""The potential around a model: elements, constants, derivatives, files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from ase import Atoms
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from siliforce.errors import ConfigError, DataError, ModelFileError
from siliforce.graph import Graph
from siliforce.models import Model, ModelConfig, RawOutput
from siliforce.nn.repulsion import ZBL
from siliforce.nn.scatter import sum_over_neighbors
from siliforce.potential import Card, Potential, read_header
from siliforce.species import Species
from tests.cases import ATOMIC_ENERGIES, CASES, Case, build_potential, graph_of
from tests.structures import STRUCTURES, SYMBOLS

SCHNET = next(case for case in CASES if case.model == "schnet")
each_case = pytest.mark.parametrize("case", CASES, ids=str)


class Direct(Model):
    """A model that predicts forces without an energy behind them."""

    name = "direct"
    title = "Direct"
    reference = "none"
    force_mode = "direct"
    Config = ModelConfig
    presets: ClassVar[dict[str, ModelConfig]] = {"tiny": ModelConfig(cutoff=4.0)}

    def __init__(self, config: ModelConfig, n_species: int, mean_neighbors: float = 1.0) -> None:
        super().__init__(config, n_species, mean_neighbors)
        self.weight = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, graph: Graph) -> RawOutput:
        energy = sum_over_neighbors((-graph.edge_lengths).exp(), graph)
        return RawOutput(energy, self.weight * sum_over_neighbors(graph.edge_vectors, graph))


def direct_potential(repulsion: bool) -> Potential:
    species = Species.from_symbols(SYMBOLS)
    model = Direct(Direct.presets["tiny"], 2)
    zbl = ZBL(species) if repulsion else None
    return Potential(model, species, ATOMIC_ENERGIES, scale=2.0, repulsion=zbl).set_dtype(
        torch.float64
    )


def test_energy_is_scaled_and_shifted_per_element() -> None:
    plain = build_potential(SCHNET, pin_isolated=False)
    raw = plain.model(plain.with_species(graph_of(plain, [STRUCTURES["amorphous"]()])))
    shift = np.array([0.5, -0.25])
    shifted = Potential(
        plain.model, plain.species, ATOMIC_ENERGIES, shift=shift, scale=1.7, pin_isolated=False
    )
    graph = graph_of(shifted, [STRUCTURES["amorphous"]()])
    silicon = (graph.numbers == 14).long()
    constant = (torch.from_numpy(shift) + torch.tensor(ATOMIC_ENERGIES, dtype=torch.float64))[
        silicon
    ]
    answer = shifted(graph)
    torch.testing.assert_close(answer.atom_energies, 1.7 * raw.atom_energy + constant)
    torch.testing.assert_close(answer.energy, answer.atom_energies.sum()[None])
    assert answer.energy.dtype == torch.float64


def test_unknown_elements_are_refused_by_name() -> None:
    potential = build_potential(SCHNET)
    atoms = Atoms("SiGeC", positions=np.eye(3) * 2)
    with pytest.raises(DataError, match="knows O, Si but not C, Ge"):
        potential(graph_of(potential, [atoms]))
    with pytest.raises(DataError, match="not C, Ge"):
        potential.check_elements(atoms.numbers)
    potential.check_elements(np.array([8, 14]))


@pytest.mark.parametrize(
    ("scale", "message"), [(0.0, "scale is 0"), (float("nan"), "scale is nan")]
)
def test_scale_must_be_positive(scale: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Potential(Direct(Direct.presets["tiny"], 1), Species((14,)), [0.0], scale=scale)


def test_species_must_match_the_model() -> None:
    with pytest.raises(ConfigError, match="model has 1 species, potential 2"):
        Potential(Direct(Direct.presets["tiny"], 1), Species((8, 14)), [0.0, 0.0])


def test_stress_without_volume_is_nan() -> None:
    potential = build_potential(SCHNET)
    structures = [STRUCTURES[n]() for n in ("crystal", "mixed_pbc", "cluster")]
    stress = potential(graph_of(potential, structures), stress=True).stress
    assert torch.isfinite(stress[0]).all()
    assert torch.isnan(stress[1:]).all()


def test_only_what_is_asked_for_is_computed() -> None:
    potential = build_potential(SCHNET)
    graph = graph_of(potential, [STRUCTURES["crystal"]()])
    energy_only = potential(graph, forces=False)
    assert energy_only.forces is None
    assert energy_only.stress is None
    stress_only = potential(graph, forces=False, stress=True)
    assert stress_only.forces is None
    assert stress_only.stress is not None
    with torch.no_grad():
        answer = potential(graph, stress=True)
    torch.testing.assert_close(answer.stress, stress_only.stress)
    assert not answer.forces.requires_grad
    assert not answer.energy.requires_grad
    assert not answer.stress.requires_grad


def test_inference_mode_is_an_error_not_zero_forces() -> None:
    potential = build_potential(SCHNET)
    graph = graph_of(potential, [STRUCTURES["crystal"]()])
    with torch.inference_mode(), pytest.raises(ConfigError, match=r"use torch\.no_grad"):
        potential(graph)


def test_direct_models_have_forces_but_no_stress() -> None:
    potential = direct_potential(repulsion=False)
    graph = graph_of(potential, [STRUCTURES["crystal"]()])
    with pytest.raises(ConfigError, match="Direct predicts forces directly and has no stress"):
        potential(graph, stress=True)
    raw = potential.model(potential.with_species(graph))
    torch.testing.assert_close(potential(graph).forces, 2.0 * raw.atom_force)


def test_repulsion_adds_its_forces_to_direct_ones() -> None:
    atoms = Atoms("SiO", positions=[[0, 0, 0], [0, 0, 0.9]])
    bare, repulsive = direct_potential(repulsion=False), direct_potential(repulsion=True)
    graph = graph_of(bare, [atoms])
    added = repulsive(graph).forces - bare(graph).forces
    step, energies = 1e-4, []
    for sign in (1, -1):
        moved = graph.moved(graph.positions + torch.tensor([[0, 0, 0], [0, 0, sign * step]]))
        energies.append(repulsive(moved).energy - bare(moved).energy)
    assert added[1, 2].item() == pytest.approx(
        -(energies[0] - energies[1]).item() / 2 / step, rel=1e-6
    )
    assert added[1, 2] > 1.0


@each_case
def test_repulsion_works_with_any_model(case: Case, tmp_path: Path) -> None:
    bare = build_potential(case)
    repulsive = build_potential(case)
    repulsive.repulsion = ZBL(repulsive.species).to(repulsive.dtype)
    ordinary = STRUCTURES["crystal"]()
    ordinary.set_cell(ordinary.cell * 1.15, scale_atoms=True)
    same = [p(graph_of(p, [ordinary])).energy for p in (bare, repulsive)]
    torch.testing.assert_close(*same, rtol=0, atol=1e-12)
    close = Atoms("SiOSi", positions=[[0, 0, 0], [0, 0, 0.7], [0.9, 0.4, 0.2]])
    graph = graph_of(bare, [close])
    rise = repulsive(graph).energy - bare(graph).energy
    assert rise > 50
    loaded = Potential.load(repulsive.save(tmp_path / "m.safetensors"))
    assert torch.equal(loaded(graph).forces, repulsive(graph).forces)


def test_repulsion_of_new_species_is_their_own() -> None:
    potential = build_potential(SCHNET)
    potential.repulsion = ZBL(potential.species).double()
    potential.extend([32])
    assert potential.repulsion.number.weight.tolist() == [8, 14, 32]


def test_extending_takes_the_nearest_element_and_refuses_strangers() -> None:
    potential = build_potential(SCHNET)
    potential.extend([8, 32, 7], atomic_energies={32: -4.0})
    assert potential.species.symbols == ("O", "Si", "N", "Ge")
    oxygen, silicon = ATOMIC_ENERGIES
    assert potential.atomic_energies.weight.tolist() == [oxygen, silicon, oxygen, -4.0]
    rows = potential.model.get_submodule("embedding").weight
    assert torch.equal(rows[2:], rows[[0, 1]])
    with pytest.raises(ConfigError, match="element 79 cannot be a source"):
        potential.extend([6], sources={6: 79})
    assert len(potential.species) == 4


def test_header_and_card_travel_in_the_file(tmp_path: Path) -> None:
    potential = build_potential(SCHNET)
    potential.card = Card(data_hash="abc", licence="CC0", temperature=(300.0, 900.0))
    path = potential.save(tmp_path / "m.safetensors")
    header = read_header(path)
    assert header == potential.header() | {"card": json.loads(potential.card.model_dump_json())}
    assert header["species"] == list(SYMBOLS)
    assert Potential.load(path).card == potential.card


def test_loading_in_another_precision(tmp_path: Path) -> None:
    potential = build_potential(SCHNET)
    path = potential.save(tmp_path / "m.safetensors")
    single = Potential.load(path, dtype=torch.float32)
    assert single.dtype == torch.float32
    assert single.atomic_energies.weight.dtype == torch.float64
    graph = graph_of(potential, [STRUCTURES["crystal"]()])
    coarse = single(graph.replace(edge_vectors=graph.edge_vectors.float()))
    torch.testing.assert_close(coarse.energy, potential(graph).energy, rtol=1e-5, atol=0)


def test_a_folder_means_its_best_model(tmp_path: Path) -> None:
    potential = build_potential(SCHNET)
    potential.save(tmp_path / "best.safetensors")
    assert Potential.load(tmp_path).species == potential.species


def rewrite(path: Path, **changes: object) -> Path:
    """The model file with entries of its header replaced."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["siliforce"]) | changes
        tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
    target = path.with_name("changed.safetensors")
    save_file(tensors, target, {"siliforce": json.dumps(header)})
    return target


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 99}, "format version 99, this siliforce reads 1"),
        ({"model": "schnett"}, "unknown model"),
        ({"dtype": "int8"}, "header cannot be used"),
        ({"config": {"hiden": 3}}, "header cannot be used"),
        ({"species": ["Si", "Qq"]}, "not chemical symbols: Qq"),
        ({"species": ["Si"]}, "tensors do not match the model"),
    ],
)
def test_headers_that_do_not_fit_are_refused(
    changes: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = build_potential(SCHNET).save(tmp_path / "m.safetensors")
    with pytest.raises(ModelFileError, match=message):
        Potential.load(rewrite(path, **changes))


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    path = build_potential(SCHNET).save(tmp_path / "m.safetensors")
    content = path.read_bytes()
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelFileError, match="damaged or not a model file"):
        Potential.load(truncated)
    with pytest.raises(ModelFileError, match="no such model file"):
        Potential.load(tmp_path / "absent.safetensors")
    (tmp_path / "lr-1").mkdir()
    build_potential(SCHNET).save(tmp_path / "lr-1" / "best.safetensors")
    with pytest.raises(ModelFileError, match=r"there is one in .*lr-1"):
        Potential.load(tmp_path)
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(ModelFileError, match="not written by siliforce"):
        Potential.load(foreign)
    save_file({"a": torch.zeros(1)}, foreign, {"siliforce": "{"})
    with pytest.raises(ModelFileError, match="header is damaged"):
        Potential.load(foreign)
