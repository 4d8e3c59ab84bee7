"""`siliforce simulate` as a user runs it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from siliforce.cli import main
from siliforce.models import MODELS
from tests.toys import TOYS, toy_potential

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Runs `siliforce simulate ...` in a folder with a model and structures of copper."""
    monkeypatch.chdir(tmp_path)
    for name, target in TOYS.items():
        monkeypatch.setitem(MODELS, name, target)
    toy_potential(("Cu",), cutoff=4.5).save("cu.safetensors")
    crystal = bulk("Cu", a=3.75, cubic=True)
    write("cu.vasp", crystal)
    write("cu.cif", crystal)
    start = crystal.repeat((2, 2, 1))
    end = start.copy()
    end.positions[1] = start.positions[0]
    del start[0], end[0]
    write("start.xyz", start)
    write("end.xyz", end)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["siliforce", "simulate", *words])
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return run


def test_dynamics_of_replicas(call):
    words = ("md", "cu.safetensors", "cu.cif", "--replicas", "3", "--supercell", "2x1x1",
             "--ensemble", "npt", "--pressure", "2", "--time", "0.04", "--equilibration", "0.02",
             "--timestep", "2", "--out", "md", "--json")  # fmt: skip
    code, out, err = call(*words)
    assert code == 0, err
    results = json.loads(out)
    assert [r["split"] for r in results] == [f"Cu8-300K-{k}" for k in range(3)]
    values = {m["name"]: m["value"] for m in results[0]["metrics"]}
    assert values["survived"] == pytest.approx(0.06)
    assert {"pressure_mean", "volume_mean", "md_speed"} <= values.keys()
    assert len(read("md/Cu8-300K-2.xyz", index=":")) == 2
    assert Path("md/Cu8-300K-1.csv").read_text().startswith("time (ps),temperature (K)")
    page = Path("md/plot.html").read_text()
    assert page.count('<svg class="chart"') >= 6
    assert "Cu8-300K-2" in page
    assert call(*words)[0] == 0  # read back
    code, _, err = call(*words[:-1], "--timestep", "1")
    assert code == 2
    assert "holds other runs" in err


def test_lengths_of_the_cell_are_kept_where_they_differ(call):
    words = ("md", "cu.safetensors", "cu.cif", "--time", "0.1", "--timestep", "2", "--out", "film")
    code, out, err = call(*words, "--ensemble", "npt", "--coupling", "z", "--json")
    assert code == 0, err
    values = {m["name"]: m["value"] for m in json.loads(out)["metrics"]}
    assert values["a_mean"] == values["b_mean"] == pytest.approx(read("cu.cif").cell.lengths()[0])
    assert values["c_mean"] != values["a_mean"]
    assert "Length c of the cell" in Path("film/plot.html").read_text()
    code, _, err = call(*words, "--coupling", "z")
    assert code == 2
    assert "coupling z is for ensemble npt, not nvt" in err


def test_paper_protocol_takes_no_option_that_it_fixes(call):
    code, _, error = call("md", "cu.safetensors", "cu.vasp", "--paper", "--timestep", "1")
    assert code == 2
    assert "--paper fixes --timestep" in error


def test_relaxation_writes_its_way(call):
    code, out, err = call("relax", "cu.safetensors", "cu.vasp", "--cell", "--out", "relaxed")
    assert code == 0, err
    assert "converged after" in out
    assert abs(read("relaxed/relaxed.vasp").get_volume() - 3.75**3) > 1
    log = np.genfromtxt("relaxed/log.csv", delimiter=",", names=True)
    assert len(log) == len(read("relaxed/path.xyz", index=":")) > 2
    assert log["energy"][-1] < log["energy"][0]
    assert "Volume" in Path("relaxed/plot.html").read_text()


def test_path_of_a_vacancy(call):
    code, out, err = call("neb", "cu.safetensors", "start.xyz", "end.xyz", "--images", "3",
                          "--out", "path", "--json")  # fmt: skip
    assert code == 0, err
    found = json.loads(out)
    assert found["converged"]
    assert found["saddle"] == 2
    assert found["barrier"] == pytest.approx(found["reverse_barrier"], abs=0.01)
    assert 0.3 < found["barrier"] < 3
    assert len(read("path/path.xyz", index=":")) == 5
    assert "Energy along the path" in Path("path/plot.html").read_text()
    code, _, err = call("neb", "cu.safetensors", "start.xyz", "cu.vasp")
    assert code == 2
    assert "same atoms in the same order" in err


def test_equation_of_state_is_plotted_and_kept(call):
    assert call("eos", "cu.safetensors", "cu.vasp", "--out", "eos")[0] == 0
    assert len(Path("eos/eos.csv").read_text().splitlines()) == 18
    assert "fit" in Path("eos/plot.html").read_text()
    code, _, err = call("eos", "cu.safetensors", "cu.vasp", "--supercell", "2y2")
    assert code == 2
    assert "write 2, or 2x2x1" in err
