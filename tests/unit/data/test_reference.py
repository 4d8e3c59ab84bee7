"""Reference data: folders that round-trip, and SAMD23's published files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from siliforce.data.reference import (
    FILE,
    Curves,
    EnergyCurve,
    EnergyVolume,
    Pressure,
    Reference,
    Start,
    group_name,
)
from siliforce.data.samd23_reference import read_samd23
from siliforce.errors import DataError
from tests.unit.data.samd23_files import samd23_folder


def small() -> Reference:
    silicon, water = bulk("Si"), molecule("H2O")
    water.center(vacuum=4)
    x = np.arange(4) * 0.05
    return Reference(
        name="Si",
        starts=[
            Start("bulk-300K", silicon, 300.0, False, Curves(x, {"Si-Si": x**2}), None),
            Start("hot-900K", silicon, 900.0, True, noise={"rdf_mae": 0.01}),
        ],
        eos=[EnergyVolume("bulk", silicon, np.array([[1.0, 40.0, -10.0]]), ood=True)],
        pec=[EnergyCurve("H2O", "angle", x[:2], -x[:2], [water, water])],
        bulk_modulus_noise=0.5,
        licence="mine",
    )


def test_round_trip(tmp_path: Path) -> None:
    small().save(tmp_path)
    found = Reference.load(tmp_path)
    assert (found.name, found.licence, found.bulk_modulus_noise) == ("Si", "mine", 0.5)
    assert [s.split for s in found.starts] == ["id:bulk-300K", "ood:hot-900K"]
    rdf = found.start("bulk-300K").rdf
    assert rdf is not None
    np.testing.assert_array_equal(rdf.values["Si-Si"], np.square(np.arange(4) * 0.05))
    assert found.start("hot-900K").rdf is None
    assert found.start("hot-900K").noise == {"rdf_mae": 0.01}
    np.testing.assert_allclose(found.starts[0].atoms.cell.array, bulk("Si").cell.array, atol=1e-7)
    assert found.eos[0].split == "ood:bulk"
    assert found.eos[0].points.tolist() == [[1.0, 40.0, -10.0]]
    curve = found.curve("H2O")
    assert curve.unit == "degree"
    assert [len(image) for image in curve.images] == [3, 3]
    assert not curve.images[0].pbc.any()


def test_pressure_and_vibrations_are_optional(tmp_path: Path) -> None:
    """Folders of before have neither, and are written as they were."""
    small().save(tmp_path / "old")
    told = json.loads((tmp_path / "old" / FILE).read_text())
    assert told["starts"][0].keys() == {"name", "temperature", "ood", "noise", "images"}
    old = Reference.load(tmp_path / "old").starts[0]
    assert (old.pressure, old.vdos) == (None, None)
    x = np.arange(3.0)
    more = replace(old, pressure=Pressure(1.5, None, 2.0), vdos=Curves(x, {"Si": x, "all": x}))
    replace(small(), starts=[more]).save(tmp_path / "new")
    new = Reference.load(tmp_path / "new").starts[0]
    assert new.pressure == Pressure(1.5, None, 2.0)
    assert new.vdos.values.keys() == {"Si", "all"}
    np.testing.assert_array_equal(new.vdos.x, x)


def test_a_reference_may_be_empty(tmp_path: Path) -> None:
    Reference("empty").save(tmp_path)
    assert Reference.load(tmp_path) == Reference("empty")


def test_bad_references(tmp_path: Path) -> None:
    small().save(tmp_path / "Si")
    with pytest.raises(DataError, match=r"not a reference .* it holds .*Si; `siliforce data get"):
        Reference.load(tmp_path)
    with pytest.raises(DataError, match="no start in the reference Si is called 'cold'"):
        Reference.load(tmp_path / "Si").start("cold")
    path = tmp_path / "Si" / FILE
    told = json.loads(path.read_text())
    path.write_text(json.dumps(told | {"format_version": 99}))
    with pytest.raises(DataError, match="format 99"):
        Reference.load(tmp_path / "Si")
    path.write_text(json.dumps(told | {"starts": told["starts"][:1]}))
    with pytest.raises(DataError, match="holds 2 structures instead of 1"):
        Reference.load(tmp_path / "Si")
    path.write_text(json.dumps(told))
    (tmp_path / "Si" / "curves.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match="damaged"):
        Reference.load(tmp_path / "Si")


def test_names() -> None:
    assert group_name(["Hf", "O"]) == group_name([8, 72]) == "O-Hf"
    assert group_name(["Hf", "Hf", "O"]) == "O-Hf-Hf"
    assert group_name(["Hf", "O", "Hf"]) == "Hf-O-Hf"


def test_samd23_files(tmp_path: Path) -> None:
    """A start, a scan, a dimer and a cluster in the form of the public repository."""
    samd23_folder(tmp_path)
    found = read_samd23(tmp_path, "HfO", licence="theirs")
    assert [s.split for s in found.starts] == ["ood:cubic1-1200K"]  # HfO, not HfO2
    start = found.starts[0]
    assert start.temperature == 1200
    assert start.rdf is not None
    assert start.adf is not None
    assert start.rdf.values["O-Hf"].tolist() == [0.0, 2.5]
    assert list(start.adf.values) == ["O-Hf-Hf"]
    assert found.eos[0].points.shape == (2, 3)
    dimer, cluster = found.pec
    assert dimer.images[1].get_distance(0, 1) == 0.6
    assert (cluster.coordinate, cluster.x.tolist()) == ("angle", [0, 10])
    (tmp_path / "pec" / "HfO3" / "POSCAR_10").unlink()
    with pytest.raises(DataError, match="no structure for the points 10"):
        read_samd23(tmp_path, "HfO")
