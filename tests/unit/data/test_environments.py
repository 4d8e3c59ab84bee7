"""Distance to the training environments: inside below 1, far outside far above."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from ase.build import bulk

from siliforce.data.environments import BINS, Environments, _features, farthest, of_card
from siliforce.graph import System, Topology, collate
from siliforce.potential import Card
from siliforce.simulation.batched import run_batch
from siliforce.simulation.domain import OutsideRangeWarning, alarm_text
from siliforce.simulation.md import MDConfig
from tests.run_folders import labelled_frames, store_of
from tests.toys import toy_potential

CUTOFF = 5.0


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Environments:
    folder = tmp_path_factory.mktemp("environments")
    return Environments.of_dataset(store_of(labelled_frames(24), folder / "s"), CUTOFF)


def graph_of(*structures):
    systems = [
        System.build(a.numbers, a.positions, a.cell.array, a.pbc, CUTOFF) for a in structures
    ]
    return collate(systems, Topology(), torch.float64)


def copper(a: float = 3.7, rattle: float = 0.06, seed: int = 3):
    atoms = bulk("Cu", "fcc", a=a, cubic=True).repeat((2, 1, 1))
    atoms.rattle(rattle, seed=seed)
    return atoms


def test_bins_count_every_neighbour_once():
    lengths = torch.tensor([0.5, 1.3, 2.9, 4.2, 4.9, 6.0], dtype=torch.float64)
    center = torch.zeros(6, dtype=torch.int64)
    species = torch.tensor([0, 1])
    neighbor = torch.tensor([0, 1, 1, 0, 1, 1])
    found = _features(species, center, neighbor, lengths, CUTOFF, 2)
    assert found.shape == (2, 2 * BINS)
    np.testing.assert_allclose(found[0, :BINS].sum(), 2.0)
    fading = np.cos(0.5 * np.pi * (0.9 - 0.5) / 0.5) ** 2  # 4.9 Å, the last bin ends at 5
    np.testing.assert_allclose(found[0, BINS:].sum(), 2 + fading)
    assert found[1].abs().max() == 0


def test_training_like_is_inside_and_others_are_not(known):
    silver = copper()
    silver.symbols[2] = "Au"
    squeezed, melted = copper(3.2), copper(3.7, 0.8)
    inside, close, mixed, unknown = farthest([known], graph_of(copper(), squeezed, melted, silver))
    assert inside < 1.5
    assert close > 2
    assert mixed > 2
    assert unknown == np.inf


def test_the_training_set_itself_is_inside(known):
    frames = labelled_frames(24)
    graph = graph_of(*(f.to_atoms() for f in frames))
    assert known.novelty(graph).max() == pytest.approx(1.0, abs=1e-3)


def test_travels_through_the_card(known):
    card = Card(environments=[known.to_json()])
    again = of_card(Card.model_validate_json(card.model_dump_json()))
    structure = graph_of(copper())
    np.testing.assert_array_equal(farthest(again, structure), farthest([known], structure))
    assert len(json.dumps(known.to_json())) < 20_000
    assert of_card(Card()) == []


def test_of_two_sets_the_nearer_counts(known, tmp_path):
    other = Environments.of_dataset(store_of(labelled_frames(9, 2, 0.3), tmp_path / "o"), CUTOFF)
    structure = graph_of(copper(3.7, 0.3), copper())
    alone = [farthest([one], structure) for one in (known, other)]
    both = farthest([known, other], structure)
    assert (both <= np.minimum(*alone)).all()
    assert both[0] < alone[0][0]


def test_the_alarm_is_live_and_in_the_log(known):
    potential = toy_potential(("Cu", "Ag"), card=Card(environments=[known.to_json()]))
    config = MDConfig(equilibration=0.0, production=0.02, max_heating=50)
    seen = []
    with pytest.warns(OutsideRangeWarning, match="times as far from"):
        runs = run_batch(potential, [copper(), copper(3.2)], config, progress=seen.append)
    assert runs[0].log["novelty"][0] < 1.5
    assert min(runs[1].log["novelty"]) > 1.5
    assert seen[0].alarm.startswith("run 1: an environment")


def test_alarm_of_an_ensemble_names_the_worst():
    columns = {"spread": np.array([0.1, 0.9]), "novelty": np.array([0.5, 0.4])}
    assert alarm_text(0.5, [3, 7], columns) == "run 7: the members disagree by 0.90 eV/Å on a force"
    assert alarm_text(1.0, [3, 7], columns) == ""
