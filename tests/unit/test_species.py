"""The periodic table as transfer reads it."""

import pytest
from ase.data import atomic_numbers

from siliforce.species import group, neighbor_in_table

GROUPS = {
    1: "H Li Na K Rb Cs Fr", 2: "Be Mg Ca Sr Ba Ra", 3: "Sc Y La Gd Lu Ac U", 4: "Ti Zr Hf Rf",
    8: "Fe Ru Os", 11: "Cu Ag Au", 12: "Zn Cd Hg", 13: "B Al Ga In Tl", 14: "C Si Ge Sn Pb",
    15: "N P As Sb Bi", 16: "O S Se Te Po", 17: "F Cl Br I At", 18: "He Ne Ar Kr Xe Rn",
}  # fmt: skip


@pytest.mark.parametrize("number", GROUPS)
def test_groups(number):
    assert {group(atomic_numbers[s]) for s in GROUPS[number].split()} == {number}


@pytest.mark.parametrize(
    ("new", "known", "expected"),
    [
        ("Ge", "Si O", "Si"), ("S", "H O", "O"), ("P", "Si N", "N"), ("Sb", "P As Si", "As"),
        ("B", "Si C", "C"), ("Zr", "Hf O", "Hf"),
    ],
)  # fmt: skip
def test_new_elements_start_from_neighbours(new, known, expected):
    numbers = [atomic_numbers[s] for s in known.split()]
    assert neighbor_in_table(atomic_numbers[new], numbers) == atomic_numbers[expected]
