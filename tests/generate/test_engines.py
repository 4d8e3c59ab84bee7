"""Engines: inputs as the programs want them, outputs as they print them."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from siliforce.errors import ConfigError
from siliforce.generate import converge, load_engine, make_engine
from siliforce.generate.converge import translation_error
from siliforce.generate.engines import base, cp2k, gth, potential, qe, vasp
from siliforce.generate.frames import frame_key, read_frames
from siliforce.generate.stillinger_weber import StillingerWeber
from siliforce.jobs import JobFailed

CONFIGS = Path(__file__).parents[2] / "src" / "siliforce" / "configs" / "generate"
SETS = CONFIGS.parents[1] / "data" / "sets"
RECORDED = Path(__file__).parent / "recorded"
GTH = """#
As GTH-PBE-q5 GTH-PBE
    2    3
     0.52000000    0
    3
     0.45554957    3     5.52067327     0.03512220    -1.06108239
                                       -1.77119320     2.73970295
                                                      -2.17457180
     0.55460557    2     1.02179156     0.62920826
                                       -0.74448925
     0.70368872    1     0.31479504
#
Si GTH-PBE-q4 GTH-PBE
"""


@pytest.mark.parametrize("path", sorted((CONFIGS / "engines").glob("*.yaml")), ids=lambda p: p.stem)
def test_shipped_presets_are_valid(path: Path) -> None:
    engine = load_engine(path)
    elements = list(getattr(engine, "pseudopotentials", {"Si": ""}))
    level = engine.level(Atoms(elements, cell=[5, 5, 5], pbc=True))
    assert all(name in level for name in getattr(engine, "pseudopotentials", {}).values())


def test_gth_entry_becomes_a_pw_file(tmp_path: Path) -> None:
    table = tmp_path / "GTH"
    table.write_text(GTH)
    lines = gth.qe_gth("As", 5, table).splitlines()
    assert lines[1] == "33 5 0"
    assert lines[2].split()[:3] == ["10", "11", "2"]
    assert lines[3] == "0.52000000 0"
    assert [len(line.split()) for line in lines[5:]] == [5, 2, 1, 4, 1, 2, 1, 3, 1]
    with pytest.raises(ConfigError, match="no entry 'Hf GTH-PBE-q12'"):
        gth.table_entry(table, "Hf", 12)


def test_gth_table_missing_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cp2k-data"):
        gth.find_table((tmp_path / "none",))


def test_pw_input_follows_elements_and_the_second_try(fake_pw: Path) -> None:
    engine = make_engine(
        {
            "engine": "qe",
            "command": str(fake_pw),
            "pseudopotentials": {"Si": "a", "C": "b"},
            "ecutwfc": 24,
            "ecutrho": 96,
            "ecutrho_with": {"C": 144},
            "kpts": (2, 2, 1),
            "kshift": True,
            "spin": True,
            "stress": False,
        }
    )
    assert isinstance(engine, qe.QuantumEspresso)
    silicon = engine.input_text(bulk("Si"), safer=False)
    assert "96" in silicon
    assert "144" not in silicon
    carbide = engine.input_text(bulk("SiC", "zincblende", a=4.4), safer=False)
    assert "144" in carbide
    assert "2 2 1  1 1 0" in carbide.replace("  ", " ").replace("1 1 1 0", "1  1 1 0")
    assert "nspin" in silicon
    first, second = silicon, engine.input_text(bulk("Si"), safer=True)
    assert first != second
    assert "mixing_ndim" in second
    assert engine.level(bulk("Si"), "6.7") == (
        "QE-6.7 PBE k2x2x1s ecut24Ry rho96Ry scf1e-08Ry fd0.002Ry nspin2 a"
    )
    assert "rho144Ry" in engine.level(bulk("SiC", "zincblende", a=4.4))


def test_spin_where_the_electrons_are_odd(fake_pw: Path) -> None:
    engine = make_engine(
        {
            "engine": "qe",
            "command": str(fake_pw),
            "pseudopotentials": {"Si": "a", "N": "b"},
            "ecutwfc": 24,
            "ecutrho": 96,
            "spin": "odd",
        }
    )
    even = Atoms("Si3N4", np.eye(7, 3) * 2, cell=[6, 6, 6], pbc=True)
    assert "nspin1" in engine.level(even)
    assert "nspin2" in engine.level(even[:-1])  # a nitrogen missing
    python = make_engine({"engine": "gpaw", "start_moment": 0.2, "spin": "odd"})
    assert "with spin" not in python.level(even)
    assert "with spin" in python.level(even[:-1])


def test_kspacing_gives_gamma_for_large_cells(fake_pw: Path) -> None:
    engine = make_engine(
        {
            "engine": "qe",
            "command": str(fake_pw),
            "pseudopotentials": {"Si": "a"},
            "ecutwfc": 24,
            "ecutrho": 96,
            "kspacing": 0.1,
        }
    )
    assert isinstance(engine, qe.QuantumEspresso)
    assert engine.mesh(bulk("Si", cubic=True)) == (2, 2, 2)
    assert engine.mesh(bulk("Si", cubic=True) * (2, 2, 2)) is None


def test_vasp_inputs_are_written_and_a_recorded_run_is_read(tmp_path: Path) -> None:
    for element in ("Si", "N"):
        folder = tmp_path / "potpaw_PBE" / element
        folder.mkdir(parents=True)
        (folder / "POTCAR").write_text(f"  PAW_PBE {element} 05Jan2001\n   4.0\n")
    engine = vasp.VASP(potcar_path=str(tmp_path), encut=520, kpts=(2, 2, 2))
    atoms = Atoms("NSiN", [[0, 0, 0], [1.6, 0, 0], [3.2, 0, 0.1]], cell=[8, 8, 8], pbc=True)
    work = tmp_path / "work"
    work.mkdir()
    order = engine.write_inputs(atoms, work, safer=False)
    incar = (work / "INCAR").read_text()
    assert "ENCUT = 520" in incar
    assert "NSW = 0" in incar
    assert "2 2 2" in (work / "KPOINTS").read_text()
    poscar = (work / "POSCAR").read_text().splitlines()
    assert poscar[5].split() == ["N", "Si"]
    assert (work / "POTCAR").read_text().split().count("PAW_PBE") == 2
    for name in ("OUTCAR", "vasprun.xml"):
        (work / name).write_text((RECORDED / name).read_text())
    labels = vasp.read_run(work, order)
    assert labels.energy == pytest.approx(-12.5)  # free energy, not sigma -> 0
    np.testing.assert_allclose(labels.forces, [[0.1, 0, 0], [0.3, 0, 0], [-0.4, 0, 0.2]])
    kbar = 0.1 / 160.21766
    np.testing.assert_allclose(
        labels.stress, np.array([-10, -20, -30, -5, -6, -4]) * kbar, rtol=1e-5
    )
    assert labels.version == "6.3.0"


def test_vasp_says_what_is_missing(tmp_path: Path) -> None:
    engine = vasp.VASP(potcar_path=str(tmp_path), command="true")
    with pytest.raises(ConfigError, match="no POTCAR for Hf"):
        engine.check({"Hf"})
    with pytest.raises(JobFailed, match="did not converge"):
        vasp.read_run(tmp_path, np.arange(1))


def test_cp2k_recorded_output_is_read() -> None:
    labels = cp2k.read_output((RECORDED / "cp2k.out").read_text(), 2)  # N2, stretched along z
    assert labels.energy == pytest.approx(-19.873193869347183 * 27.211386, rel=1e-6)
    assert labels.forces[0, 2] == pytest.approx(-0.19674521 * 27.211386 / 0.52917721, rel=1e-6)
    in_gpa = np.asarray(labels.stress) * 160.21766
    np.testing.assert_allclose(in_gpa[[0, 2, 3]], [-0.0511319, 15.0251835, -0.8637678], rtol=1e-5)
    assert labels.version == "2023.1"


def test_python_engine_matches_its_calculator_and_reports_errors(tmp_path: Path) -> None:
    atoms = bulk("Si", cubic=True)
    atoms.rattle(0.1, seed=1)
    labels = make_engine({"engine": "stillinger-weber"}).label(atoms, tmp_path, safer=False)
    atoms.calc = StillingerWeber()
    assert labels.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(labels.forces, atoms.get_forces())
    np.testing.assert_array_equal(labels.stress, atoms.get_stress())
    with pytest.raises(JobFailed, match="silicon only"):
        make_engine({"engine": "stillinger-weber"}).label(bulk("Ge"), tmp_path, safer=False)


def test_pulay_stress_is_taken_off_per_atom(tmp_path: Path) -> None:
    atoms = bulk("Si", cubic=True)
    plain = make_engine({"engine": "stillinger-weber"}).label(atoms, tmp_path, safer=False)
    engine = make_engine({"engine": "stillinger-weber", "pulay_stress": {"Si": 0.5}})
    corrected = engine.label(atoms, tmp_path, safer=False)
    off = np.array([1, 1, 1, 0, 0, 0]) * 8 * 0.5 / atoms.get_volume()
    np.testing.assert_allclose(plain.stress - corrected.stress, off, atol=1e-12)
    assert engine.identity() != make_engine({"engine": "stillinger-weber"}).identity()
    assert "Pulay" in engine.level(atoms)
    with pytest.raises(ConfigError, match="pulay_stress: nothing for N"):
        engine.check({"Si", "N"})


def test_missing_package_or_interpreter_is_said_before_anything_runs() -> None:
    with pytest.raises(ConfigError, match="no Python interpreter"):
        make_engine({"engine": "lj", "python": "/no/such/python"}).check({"Si"})
    with pytest.raises(ConfigError, match="does not start"):
        make_engine({"engine": "nep", "settings": {"model": "none.txt"}}).check({"Si"})
    for program in ("/bin/false", "/bin/echo"):
        with pytest.raises(ConfigError, match=f"'lj' does not start with {program}"):
            make_engine({"engine": "lj", "python": program}).check({"Si"})


def test_stillinger_weber_is_matscipys() -> None:
    forms = pytest.importorskip("matscipy.calculators.manybody.explicit_forms.stillinger_weber")
    from matscipy.calculators.manybody import Manybody

    atoms = bulk("Si", a=5.4, cubic=True) * (2, 2, 2)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 9), True)
    atoms.rattle(0.2, seed=0)
    other = atoms.copy()
    atoms.calc = StillingerWeber()
    other.calc = Manybody(**forms.StillingerWeber(forms.Stillinger_Weber_PRB_31_5262_Si))
    assert atoms.get_potential_energy() == pytest.approx(other.get_potential_energy(), abs=1e-8)
    np.testing.assert_allclose(atoms.get_forces(), other.get_forces(), atol=1e-8)
    np.testing.assert_allclose(atoms.get_stress(), other.get_stress(), atol=1e-10)


def test_pyscf_water_forces_are_the_energys_gradient(tmp_path: Path) -> None:
    pytest.importorskip("pyscf")
    engine = make_engine({"engine": "pyscf", "settings": {"basis": "sto-3g"}})
    water = molecule("H2O")
    labels = engine.label(water, tmp_path, safer=False)
    step, energies = 0.01, []
    for sign in (1, -1):
        moved = water.copy()
        moved.positions[1, 1] += sign * step
        energies.append(engine.label(moved, tmp_path, safer=False).energy)
    assert labels.forces[1, 1] == pytest.approx(-(energies[0] - energies[1]) / (2 * step), abs=5e-3)


def test_converge_measures_a_known_difference(lj: dict) -> None:
    frames = [bulk("Si", cubic=True)]
    frames[0].rattle(0.1, seed=0)
    deep = {"settings": {**lj["settings"], "epsilon": 0.1}}
    same, double = converge(frames, make_engine(lj), {"same": {}, "deep": deep})
    assert same.force_rms == 0.0
    labels = make_engine(lj).label(frames[0], Path.cwd(), safer=False)
    assert double.force_rms == pytest.approx(np.sqrt((labels.forces**2).mean()))
    assert "meV/Å" in double.line()
    assert translation_error(frames[0], make_engine(lj), (0.1, 0.2, 0.3)) < 1e-7
    assert same.energy_spread is None  # a spread needs two frames


def test_converge_changes_one_setting_and_goes_on_in_its_folder(lj: dict, tmp_path: Path) -> None:
    frames = [bulk("Si", cubic=True), bulk("Si", cubic=True)]
    for seed, atoms in enumerate(frames):
        atoms.rattle(0.1, seed=seed)
    ways = {"dots": {"settings.epsilon": 0.1}, "section": {"settings": {"epsilon": 0.1}}}
    dots, section = converge(frames, make_engine(lj), ways, tmp_path)
    assert dots.force_rms == section.force_rms
    labels = [make_engine(lj).label(atoms, tmp_path, safer=False) for atoms in frames]
    forces = np.concatenate([one.forces for one in labels])
    assert dots.force_rms == pytest.approx(np.sqrt((forces**2).mean()), rel=1e-6)  # twice as deep
    assert dots.energy_spread == pytest.approx(np.std([one.energy / 8 for one in labels]))
    log = (tmp_path / "log.jsonl").read_text()
    assert log.count("done") == 4  # both ways are one level of theory
    converge(frames, make_engine(lj), ways, tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == log
    with pytest.raises(ConfigError, match="no section 'mesh'"):
        converge(frames, make_engine(lj), {"x": {"mesh.k": 1}})


def test_gate_refuses_what_cannot_be_right() -> None:
    def labels(energy: float, forces: np.ndarray) -> base.Labels:
        return base.Labels(energy, forces, None, "1", {})

    atoms = bulk("Si")
    base.gate(labels(1.0, np.zeros((2, 3))), atoms)
    with pytest.raises(JobFailed, match="not finite"):
        base.gate(labels(float("nan"), np.zeros((2, 3))), atoms)
    with pytest.raises(JobFailed, match="largest force"):
        base.gate(labels(1.0, np.full((2, 3), 99.0)), atoms)
    pulled = labels(1.0, np.array([[0.02, 0, 0], [0.003, 0, 0.0]]))
    base.gate(pulled, atoms)
    base.gate(pulled, atoms, max_net_force=0.024)
    with pytest.raises(JobFailed, match=r"net force 0\.0230 eV/Å is above 0\.02 eV/Å"):
        base.gate(pulled, atoms, max_net_force=0.02)
    with pytest.raises(JobFailed, match="1 forces for 2 atoms"):
        base.gate(labels(1.0, np.zeros((1, 3))), atoms)


@pytest.mark.full
def test_the_cpu_limit_is_for_one_frame_not_for_the_life_of_a_server(tmp_path: Path) -> None:
    engine = make_engine({"engine": "emt", "max_cpu_hours": 4 / 3600})
    server = potential.Server(engine, {}, tmp_path)
    content = bulk("Cu", cubic=True) * (5, 5, 5)
    request = {"numbers": content.numbers.tolist(), "positions": content.positions.tolist()}
    request |= {"cell": content.cell.array.tolist(), "pbc": [True] * 3, "stress": False}
    used = 0.0
    while used < 6:  # more in all than one frame may take
        server.ask(request)
        used = base.cpu_ticks(server.process.pid) / os.sysconf("SC_CLK_TCK")
    server.close()


def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> potential.Server:
    """A server that greets and then does something else."""
    program = tmp_path / "server.py"
    program.write_text(f"import os, sys, time\nprint('{{}}', flush=True)\ninput()\n{code}\n")
    monkeypatch.setattr(potential, "SERVER", program)
    engine = make_engine({"engine": "emt", "max_cpu_hours": 1 / 3600})
    return potential.Server(engine, {}, tmp_path)


def test_a_server_that_dies_says_why_in_words(tmp_path: Path, monkeypatch) -> None:
    end = "print('its last words', file=sys.stderr, flush=True); os.kill(os.getpid(), 24)"
    with pytest.raises(JobFailed, match=r"more than 0\.000277778 CPU hours") as caught:
        served(tmp_path, monkeypatch, end).ask({})
    assert caught.value.log == "its last words\n"
    with pytest.raises(JobFailed, match="was killed by SIGKILL"):
        served(tmp_path, monkeypatch, "os.kill(os.getpid(), 9)").ask({})


def test_what_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "IDLE_SECONDS", 0.3)
    with pytest.raises(JobFailed, match="hung"):
        served(tmp_path, monkeypatch, "time.sleep(600)").ask({})
    with pytest.raises(JobFailed, match="hung"):
        base.run_program(["sleep", "600"], tmp_path, "out.txt", 1.0)
    busy = ["sh", "-c", "for i in 1 2 3 4 5 6; do sleep 0.2; echo $i; done"]
    assert base.run_program(busy, tmp_path, "out.txt", 1.0) == ("1\n2\n3\n4\n5\n6\n", 0)


def test_the_limit_on_the_net_force_is_no_part_of_the_key() -> None:
    engine = load_engine(CONFIGS / "engines" / "gpaw-sin.yaml")
    assert engine.max_net_force == 0.02
    assert engine.safer_settings["h"] == 0.14
    assert engine.identity() == engine.model_copy(update={"max_net_force": None}).identity()


@pytest.mark.parametrize("name", ["hfo", "sin"])
def test_embedded_frames_keep_the_limit_their_readme_states(name: str) -> None:
    folder = SETS / f"samd23-mini-{name}"
    preset = {"hfo": "gpaw-hfo2", "sin": "gpaw-sin"}[name]
    limit = load_engine(CONFIGS / "engines" / f"{preset}.yaml").max_net_force
    readme = (folder / "README.md").read_text()
    stated, n_first = re.search(r"at most (\d\.\d+) eV/Å in\s+the first (\d+)", readme).groups()
    frames = read_frames(folder / f"{name}.extxyz.xz")
    assert len(frames) == json.loads((folder / "set.json").read_text())["n_frames"]
    net = [np.linalg.norm(atoms.get_forces().sum(axis=0)) for atoms in frames]
    assert max(net) <= limit
    assert max(net[: int(n_first)]) == pytest.approx(float(stated), abs=5e-5)


def test_a_check_leaves_the_users_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho started > gpaw.txt\necho \'{"ready": "1"}\'\ncat\n')
    python.chmod(0o755)
    mine = [tmp_path / "gpaw.txt", tmp_path / "engine.log"]
    for path in mine:
        path.write_text("mine")
    make_engine({"engine": "gpaw", "python": str(python)}).check({"Si"})
    assert [path.read_text() for path in mine] == ["mine", "mine"]


def test_the_level_names_version_functional_and_everything_that_changes_the_numbers() -> None:
    cell = bulk("Si")

    def level(version: str, **settings: object) -> str:
        return make_engine(settings).level(cell, version)

    sin = load_engine(CONFIGS / "engines" / "gpaw-sin.yaml")
    assert sin.level(cell, "22.8.0").startswith("gpaw-22.8.0 PBE convergence=")
    plain = {"engine": "vasp", "potcar_path": "x"}
    assert (
        level("6.3.0", **plain) == "VASP-6.3.0 PBE 520 eV ediff1e-06 k1x1x1 gauss0.05eV nspin1 Si"
    )
    assert level("6", **plain, incar={"ivdw": 12}).endswith("Si ivdw=12")
    assert level("6", **plain, ediff=1e-4) != level("6", **plain)
    basis = {"engine": "cp2k", "basis": {"Si": "b"}, "potential": {"Si": "p"}}
    assert level("2023.1", **basis).startswith("CP2K-2023.1 PBE Gamma cut600Ry rel60Ry scf1e-07 OT")
    assert level("1", **basis, eps_scf=1e-5) != level("1", **basis)
    assert level("3.23", engine="lj", settings={"rc": 4.0}) == "lj-3.23 rc=4.0"


def test_a_model_counts_by_its_content_and_folders_do_not(tmp_path: Path, fake_pw: Path) -> None:
    def key(settings: dict[str, object]) -> str:
        return frame_key(bulk("Si"), make_engine(settings).identity())

    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.txt").write_text("first")
    here, there = (
        {"engine": "nep", "settings": {"model": str(tmp_path / folder / "model.txt")}}
        for folder in ("here", "there")
    )
    first = key(here)
    assert first == key(there)
    (tmp_path / "here" / "model.txt").write_text("second, in its place")
    assert first != key(here)
    pw = {
        "engine": "qe",
        "command": str(fake_pw),
        "pseudopotentials": {"Si": "Si.UPF"},
        "ecutwfc": 20,
        "ecutrho": 80,
    }
    assert key(pw) == key(pw | {"pseudo_dirs": ["/elsewhere"]})
    assert key(pw) != key(pw | {"pseudopotentials": {"Si": "other.UPF"}})


@pytest.mark.parametrize("name", ["samd23-mini-hfo", "samd23-mini-sin", "si-substitution"])
def test_embedded_sets_state_their_levels_and_errors(name: str) -> None:
    stated = json.loads((SETS / name / "set.json").read_text())
    frames = [a for file in (SETS / name).glob("*.xz") for a in read_frames(file)]
    assert stated["levels"] == Counter(a.info["level"] for a in frames)
    assert stated["n_frames"] == len(frames)
    assert all(0 < error < 0.05 for error in stated["force_errors"].values())
