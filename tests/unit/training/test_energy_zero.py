"""Reference energies of new elements, and targets with another energy zero."""

import pytest

from siliforce.potential import Card
from siliforce.training.energy_zero import find_energy_zero
from tests.unit.training.target import E0, exact, target

GE, SN, SI = 32, 50, 14


def extended(*new):
    return exact(("Si",)).extend(new)


def test_one_composition_gives_the_new_element_alone(tmp_path):
    zero = find_energy_zero(extended(GE), target(4, tmp_path / "s"), (GE,), {})
    assert zero.shifts == {GE: pytest.approx(E0["Ge"], abs=1e-9)}
    assert zero.offset == 0
    assert not zero.warnings
    assert "cannot tell an energy zero of Si" in " ".join(zero.notes)


def test_one_composition_hides_another_zero_in_the_new_element(tmp_path):
    """The sum is right, its parts are not, and it says so."""
    data = target(4, tmp_path / "s", zero=0.5)
    zero = find_energy_zero(extended(GE), data, (GE,), {})
    assert zero.shifts == {GE: pytest.approx(E0["Ge"] + 7 * 0.5, abs=1e-9)}
    assert "takes it up" in " ".join(zero.notes)


def test_a_target_of_new_elements_alone_has_no_zero_to_compare(tmp_path):
    data = target(3, tmp_path / "s", counts=(8,))
    assert list(data.counts[0]) == [GE]
    assert len(find_energy_zero(extended(GE), data, (GE,), {}).notes) == 1  # E0 of Ge


def test_varying_compositions_separate_them(tmp_path):
    data = target(6, tmp_path / "s", counts=(1, 2, 3), zero=0.5)
    zero = find_energy_zero(extended(GE), data, (GE,), {})
    assert zero.shifts == {
        GE: pytest.approx(E0["Ge"], abs=1e-8),
        SI: pytest.approx(0.5, abs=1e-8),
    }
    assert "another zero" in zero.warnings[0]


def test_varying_compositions_with_the_same_zero_leave_the_source_alone(tmp_path):
    data = target(6, tmp_path / "s", counts=(0, 1))
    zero = find_energy_zero(extended(GE), data, (GE,), {})
    assert zero.shifts == {GE: pytest.approx(E0["Ge"], abs=1e-8)}
    assert not zero.warnings


def test_other_zero_without_new_elements(tmp_path):
    data = target(3, tmp_path / "s", new=(), zero=-0.25)
    potential = extended()
    zero = find_energy_zero(potential, data, (), {})
    assert zero.offset == pytest.approx(-0.25, abs=1e-9)
    zero.apply(potential)
    assert float(potential.atomic_energies.weight[0]) == pytest.approx(-0.25, abs=1e-9)


def test_the_error_of_the_source_is_not_taken_for_another_zero(tmp_path):
    data = target(3, tmp_path / "s", new=(), zero=-0.25)
    potential = extended()
    potential.card = Card(errors={"valid_energy_rmse_mev": 100.0})
    assert find_energy_zero(potential, data, (), {}).shifts == {}


def test_elements_that_come_together_cannot_be_separated(tmp_path):
    data = target(4, tmp_path / "s", new=("Ge", "Sn"))
    zero = find_energy_zero(extended(GE, SN), data, (GE, SN), {})
    assert zero.shifts[GE] + zero.shifts[SN] == pytest.approx(E0["Ge"] + E0["Sn"], abs=1e-9)
    assert "only sums of E0 of Ge, Sn" in " ".join(zero.notes)
    zero = find_energy_zero(extended(GE, SN), data, (GE, SN), {GE: E0["Ge"]})
    assert zero.shifts[SN] == pytest.approx(E0["Sn"], abs=1e-9)
