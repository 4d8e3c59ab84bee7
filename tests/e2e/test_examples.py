"""The scripts in `examples/` as a user runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from ase.build import bulk
from ase.io import write

from siliforce.data.catalog import get
from tests.toys import toy_potential

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


@pytest.fixture
def run(tmp_path):
    """Runs an example in an empty folder, where toy models may be loaded."""

    def call(name: str, *words: str) -> str:
        script = (
            "import runpy, sys; from siliforce.models import MODELS; from tests.toys import TOYS\n"
            f"MODELS.update(TOYS); sys.argv = {['x', *words]!r}\n"
            f"runpy.run_path({str(EXAMPLES / name)!r}, run_name='__main__')"
        )
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}/src:{ROOT}", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return call


def test_every_example_is_short_and_numbered():
    names = sorted(p.name for p in EXAMPLES.iterdir())
    assert [int(name[:2]) for name in names] == list(range(1, len(names) + 1))
    for name in names:
        assert len((EXAMPLES / name).read_text().splitlines()) <= 60, name
        assert f'run("{name}"' in Path(__file__).read_text(), f"{name} is run by no test"


def test_rank_architectures(run, tmp_path):
    get("si-substitution", tmp_path / "si.extxyz")
    out = run("01_rank_architectures.py", "si.extxyz", "3s", "schnet", "bpnn")
    rows = re.findall(r"(\w+) +([\d,]+) parameters +forces +([\d.]+) \[.*energy", out)
    assert {row[0] for row in rows} == {"bpnn", "schnet"}, out
    errors = [float(row[2]) for row in rows]
    assert errors == sorted(errors)
    assert (tmp_path / "runs/ranking/bpnn/best.safetensors").is_file()


def test_thermal_expansion(run, tmp_path):
    toy_potential(("Cu",), cutoff=4.5).save(tmp_path / "cu.safetensors")
    write(tmp_path / "cu.vasp", bulk("Cu", a=3.75, cubic=True))
    out = run("02_thermal_expansion.py", "cu.safetensors", "cu.vasp", "0.1", "2")
    rows = re.findall(r"(\d+) K: lengths ([+-][\d.]+) \+- ([\d.]+) %", out)
    assert [row[0] for row in rows] == ["300", "600", "900"], out


def test_alloy_swap(run, tmp_path):
    toy_potential(("Si", "Ge"), cutoff=4.5).save(tmp_path / "sige.safetensors")
    out = run("03_alloy_swap.py", "sige.safetensors", "2")
    # The toy knows no elements: every swap is accepted and no energy changes.
    assert re.findall(r"([+-][\d.]+) meV/atom, (\d+) % accepted", out) == [
        ("+0.0", "100"), ("+0.0", "100"),
    ]  # fmt: skip
