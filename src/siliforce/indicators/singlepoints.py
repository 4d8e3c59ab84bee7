"""Energies and stresses of many structures at once, from a potential or any ASE calculator."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from siliforce.graph import System, collate
from siliforce.indicators.predictions import EDGE_BUDGET, packed
from siliforce.potential import Potential


def energies_of(
    source: Potential | Calculator, images: Sequence[Atoms], edge_budget: int = EDGE_BUDGET
) -> np.ndarray:
    """Energy of every structure, eV, (n_images,).

    Args:
        source: a potential (batched) or any ASE calculator (one by one).
        images: any structures.
        edge_budget: edges of one batch.

    Raises:
        DataError: elements that the potential does not know.
    """
    return _evaluated(source, images, False, edge_budget)[0]


def energies_and_stresses(
    source: Potential | Calculator, images: Sequence[Atoms], edge_budget: int = EDGE_BUDGET
) -> tuple[np.ndarray, np.ndarray]:
    """Energy (eV) and stress (eV/Å³, tension positive, (n_images, 3, 3)) of every structure.

    Args:
        source, images, edge_budget: as for `energies_of`; images have a volume.

    Raises:
        DataError: elements that the potential does not know.
        ConfigError: a model that predicts forces directly: it has no stress.
    """
    return _evaluated(source, images, True, edge_budget)


def _evaluated(
    source: Potential | Calculator, images: Sequence[Atoms], stress: bool, edge_budget: int
) -> tuple[np.ndarray, np.ndarray]:
    energies, stresses = np.empty(len(images)), np.full((len(images), 3, 3), np.nan)
    if not isinstance(source, Potential):
        for index, image in enumerate(images):
            asked = image.copy()
            asked.calc = source
            energies[index] = asked.get_potential_energy()
            if stress:
                stresses[index] = asked.get_stress(voigt=False)
        return energies, stresses
    source.check_elements(np.concatenate([image.numbers for image in images]))
    systems = [
        System.build(a.numbers, a.positions, a.cell.array, a.pbc, source.cutoff) for a in images
    ]
    for group in packed(np.array([s.edges.n_edges for s in systems]), edge_budget):
        graph = collate([systems[i] for i in group], source.model.needs, source.dtype)
        found = source(graph.to(source.device), forces=False, stress=stress)
        energies[group] = found.energy.detach().cpu().numpy()
        if found.stress is not None:
            stresses[group] = found.stress.detach().double().cpu().numpy()
    return energies, stresses
