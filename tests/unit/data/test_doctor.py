"""The doctor finds what is wrong, and finds nothing where nothing is."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from siliforce.data import Dataset, Frame, catalog, load_dataset
from siliforce.data.doctor import Finding, doctor
from siliforce.data.info import summarise
from siliforce.data.tables import findings_table, info_table
from siliforce.errors import DataError
from siliforce.units import KBAR_IN_EV_PER_A3
from tests.shared_data import shared_data
from tests.unit.data.frames import some_frames, stored


@pytest.fixture(scope="module")
def healthy() -> list[Frame]:
    return some_frames(40)


def examined(path: Path, frames: list[Frame], **others: list[Frame]) -> dict[str, Finding]:
    """Findings by check."""
    datasets = {name: stored(path / name, part) for name, part in others.items()}
    return {f.check: f for f in doctor(stored(path / "set", frames), datasets)}


def test_healthy_frames_pass(tmp_path: Path, healthy: list[Frame]) -> None:
    found = examined(tmp_path, healthy)
    assert {f.severity for f in found.values()} == {"ok"}
    checks = {"distances", "net-force", "force-units", "stress-units", "energy-zero", "copies"}
    assert checks <= found.keys()
    assert (
        "slope 1" in found["force-units"].evidence or "slope 0.9" in found["force-units"].evidence
    )


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (1 / 27.2114, "the energies are in Hartree"),
        (23.0605, "the energies are in kcal/mol"),
        (1 / 8, "the energies are per atom"),
        (51.4221, "the forces are in Hartree/Bohr"),
        (25.711, "the forces are in Rydberg/Bohr"),
    ],
)
def test_units_of_energy_and_forces(
    tmp_path: Path, healthy: list[Frame], factor: float, cause: str
) -> None:
    if "forces" in cause:
        wrong = [f.replace(forces=np.asarray(f.forces) / factor) for f in healthy]
    else:
        wrong = [f.replace(energy=f.energy * factor) for f in healthy]
    finding = examined(tmp_path, wrong)["force-units"]
    assert finding.severity == "error"
    assert f"as if {cause}" in finding.evidence


def test_sign_of_forces(tmp_path: Path, healthy: list[Frame]) -> None:
    wrong = [f.replace(forces=-np.asarray(f.forces)) for f in healthy]
    assert examined(tmp_path, wrong)["force-units"].title == "the forces have the wrong sign"


@pytest.mark.parametrize(
    ("factor", "title", "cause"),
    [
        (-1.0, "sign", "only the sign differed"),
        (160.2177, "unit", "the stress is in GPa"),
        (-1 / KBAR_IN_EV_PER_A3, "sign", "the stress is in kbar"),
    ],
)
def test_unit_and_sign_of_stress(
    tmp_path: Path, healthy: list[Frame], factor: float, title: str, cause: str
) -> None:
    wrong = [f.replace(stress=np.asarray(f.stress) * factor) for f in healthy]
    finding = examined(tmp_path, wrong)["stress-units"]
    assert finding.severity == "error"
    assert finding.title == f"the stress has the wrong {title}"
    assert f"as if {cause}" in finding.evidence


def test_virial_taken_for_stress(tmp_path: Path, healthy: list[Frame]) -> None:
    wrong = [
        f.replace(stress=np.asarray(f.stress) * np.linalg.det(f.cell), forces=f.forces)
        for f in healthy
    ]
    assert "not divided by the volume" in examined(tmp_path, wrong)["stress-units"].evidence


def test_two_energy_zeros(tmp_path: Path, healthy: list[Frame]) -> None:
    mixed = [f.replace(energy=f.energy + 8 * 0.05 * (k % 2)) for k, f in enumerate(healthy)]
    finding = examined(tmp_path, mixed)["energy-zero"]
    assert finding.severity == "error"
    assert float(finding.evidence.split("differ by ")[1].split()[0]) == pytest.approx(50, abs=1)
    assert len(finding.frames) >= 18
    assert len({int(name.split(":")[1]) % 2 for name in finding.frames}) == 1


def test_single_frames_that_do_not_fit(tmp_path: Path, healthy: list[Frame]) -> None:
    wrong = list(healthy)
    wrong[7] = wrong[7].replace(energy=wrong[7].energy + 8 * 0.1)
    finding = examined(tmp_path, wrong)["misfit"]
    assert finding.severity == "warning"
    assert finding.frames == ["frame:7"]


def test_duplicates_and_unequal_copies(tmp_path: Path, healthy: list[Frame]) -> None:
    found = examined(tmp_path, [*healthy, healthy[3]])
    assert found["duplicates"].evidence.startswith("1 of 41")
    relabelled = healthy[3].replace(energy=healthy[3].energy + 8 * 0.02, source="again")
    found = examined(tmp_path / "b", [*healthy, relabelled])
    assert "duplicates" not in found
    assert found["copies"].frames == ["frame:3", "again"]
    assert "20 meV/atom" in found["unequal-copies"].evidence


def test_copies_across_a_split(tmp_path: Path, healthy: list[Frame]) -> None:
    turned = healthy[5].replace(
        positions=healthy[5].positions[::-1] @ np.diag([1, -1, 1.0]),
        cell=healthy[5].cell @ np.diag([1, -1, 1.0]),
        source="turned",
    )
    test = [f.replace(source=f"test:{k}") for k, f in enumerate(some_frames(44)[40:])]
    found = examined(tmp_path, healthy, test=[*test, turned])
    assert found["leak"].severity == "error"
    assert found["leak"].frames == ["turned = frame:5"]
    assert examined(tmp_path / "b", healthy, test=test)["leak"].severity == "ok"


def test_groups(tmp_path: Path, healthy: list[Frame]) -> None:
    singles = [
        f.replace(group=f.source, config_type=f"run {k // 5}") for k, f in enumerate(healthy)
    ]
    finding = examined(tmp_path / "a", singles)["groups"]
    assert finding.title == "every frame is a group of its own"
    assert "--group-key config_type: 8 runs of 5 to 5" in finding.advice
    unnamed = [f.replace(group="") for f in singles]
    assert "--group-key config_type" in examined(tmp_path / "b", unnamed)["groups"].advice
    named = [f.replace(group=f.config_type) for f in singles]
    assert examined(tmp_path / "c", named)["groups"].severity == "ok"
    shared = examined(tmp_path / "d", named[:20], test=named[18:])
    assert shared["shared-groups"].evidence.startswith("1 groups in both, e.g. run 3")


def test_labels(tmp_path: Path, healthy: list[Frame]) -> None:
    wrong = list(healthy)
    wrong[0] = wrong[0].replace(forces=None)
    wrong[1] = wrong[1].replace(forces=np.asarray(wrong[1].forces) + 0.02)
    pushed = np.array(wrong[2].forces)
    pushed[0], pushed[1] = pushed[0] + 30, pushed[1] - 30
    wrong[2] = wrong[2].replace(forces=pushed)
    wrong[3] = wrong[3].replace(stress=np.zeros((3, 3)))
    wrong[4] = wrong[4].replace(tags={"converged": 0.0})
    found = examined(tmp_path, wrong)
    assert found["missing"].frames == ["frame:0"]
    assert found["net-force"].frames == ["frame:1"]
    assert found["large-forces"].frames == ["frame:2"]
    assert found["zero-stress"].frames == ["frame:3"]
    assert (found["unconverged"].severity, found["unconverged"].frames) == ("error", ["frame:4"])


@pytest.mark.parametrize(
    ("levels", "severity"),
    [(("VASP PBE", "VASP LDA"), "error"), (("PBE 400 eV", "PBE 520 eV"), "warning")],
)
def test_levels_of_theory(
    tmp_path: Path, healthy: list[Frame], levels: tuple[str, str], severity: str
) -> None:
    mixed = [f.replace(tags={"level": levels[k % 2]}) for k, f in enumerate(healthy)]
    assert examined(tmp_path, mixed)["levels"].severity == severity


def test_lengths_and_overlaps(tmp_path: Path, healthy: list[Frame]) -> None:
    bohr = [f.replace(positions=f.positions * 1.8897, cell=f.cell * 1.8897) for f in healthy]
    finding = examined(tmp_path / "a", bohr)["distances"]
    assert finding.title == "lengths look wrong"
    doubled = healthy[2].positions.copy()
    doubled[5] = doubled[6]
    found = examined(tmp_path / "b", [*healthy[:2], healthy[2].replace(positions=doubled)])
    assert found["broken"].frames == ["frame:2"]


def test_empty_sets_are_refused(tmp_path: Path, healthy: list[Frame]) -> None:
    empty = Dataset(stored(tmp_path / "s", healthy[:1]).stores, np.array([], dtype=int))
    for examine in (doctor, summarise):
        with pytest.raises(DataError, match="no frames"):
            examine(empty)


def test_answers_for_people_and_scripts(tmp_path: Path, healthy: list[Frame]) -> None:
    dataset = stored(tmp_path / "s", [healthy[0].replace(forces=None), *healthy[1:]])
    findings, summary = doctor(dataset), summarise(dataset)
    order = ["error", "warning", "note", "ok"]
    ranks = [order.index(f.severity) for f in findings]
    assert ranks == sorted(ranks)
    json.dumps([f.to_json() for f in findings])
    json.dumps(summary.to_json())
    assert (summary.n_frames, summary.compositions, summary.labels["force"].frames) == (
        40,
        {"Cu": 40},
        39,
    )
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(findings_table(findings), info_table(summary))
    text = console.export_text()
    assert "forces missing" in text
    assert "40 of 8 atoms, 40 fully periodic" in text


@pytest.mark.usefixtures("real")
def test_embedded_silicon_raises_no_alarm(tmp_path: Path) -> None:
    """Its config_types are compositions, not runs; its pseudopotentials differ by composition."""
    dataset = load_dataset(catalog.get("si-substitution", tmp_path / "si.extxyz").path)
    found = {f.check: f.severity for f in doctor(dataset)}
    assert not {"error", "warning"} & set(found.values())
    assert found["levels"] == "note"


# -- real data ------------------------------------------------------------------------------------


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SILIFORCE_CACHE", str(tmp_path / "cache"))


@pytest.mark.usefixtures("real")
def test_published_silicon_split() -> None:
    """Three test frames are symmetry copies of training frames; the labels are right."""
    train, test = (load_dataset(shared_data(f"mlearn_si/{n}.extxyz.xz")) for n in ("train", "test"))
    found = {f.check: f for f in doctor(train, {"test": test})}
    copied = [int(name.split(" = ")[0].split(":")[1]) for name in found["leak"].frames]
    names = [test[row].tags["desc"] for row in copied]
    assert names == [f"Si 2x2x2 cell, mode {m}, strain -0.06" for m in (3, 4, 5)]
    assert all(found[c].severity == "ok" for c in ("force-units", "stress-units", "energy-zero"))


@pytest.mark.usefixtures("real")
def test_two_functionals_on_one_displacement_list() -> None:
    files = [shared_data(f"si_phonon/si_{name}.extxyz.xz") for name in ("lda", "pbe")]
    mixed = load_dataset(files)
    finding = next(f for f in doctor(mixed) if f.check == "energy-zero")
    assert finding.severity == "error"
    assert "534.2 meV/atom" in finding.evidence
    for file in files:
        assert not [f for f in doctor(load_dataset(file)) if f.severity in ("error", "warning")]
