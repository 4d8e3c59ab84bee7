"""The verbs as a user types them, on real frames of the package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from siliforce.cli import main
from siliforce.cli.architectures import BENCHMARK
from siliforce.potential import Potential

STRUCTURE = Path(__file__).resolve().parents[2] / "configs" / "structures" / "si-diamond.vasp"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Runs one command line in a fresh folder; returns exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SILIFORCE_CACHE", str(tmp_path / "cache"))

    def call(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["siliforce", *words])
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return int(end.value.code or 0), captured.out, captured.err

    return call


def test_from_frames_to_report(run) -> None:
    assert run("data", "get", "si-substitution", "--out", "si.extxyz")[0] == 0
    code, out, _ = run("data", "info", "si.extxyz", "--json")
    assert code == 0
    assert json.loads(out)["n_frames"] >= 140
    assert run("data", "import", "si.extxyz", "-o", "store")[0] == 0
    code, out, err = run(
        "train", "store", "--model", "bpnn", "--preset", "tiny", "--epochs", "1", "--out", "r",
        "--set", "data.split.test=0.1",
    )  # fmt: skip
    assert code == 0, err
    code, out, _ = run("evaluate", "r", "--json")
    sets = {result["split"]: result for result in json.loads(out)}
    assert code == 0
    assert set(sets) == {"train", "valid", "test"}
    assert all(m["unit"] for m in sets["test"]["metrics"])
    code, out, _ = run("evaluate", "r", "si.extxyz", "--by", "temperature,config_type")
    assert code == 0
    assert "by temperature and config_type" in out
    code, _, err = run("evaluate", "r", "si.extxyz", "--by", "phase")
    assert (code, "no frame has the tag 'phase'" in err) == (2, True)
    assert run("simulate", "eos", "r", str(STRUCTURE))[0] == 0
    code, out, _ = run("info", "r")
    assert code == 0
    assert "Apache-2.0" in out
    code, out, _ = run("report", "r")
    assert code == 0
    page = Path(out.strip()).read_text()
    assert "Equation of state" in page
    Path("store").rename("elsewhere")
    code, _, err = run("evaluate", "r")
    assert (code, "no such file or store" in err) == (2, True)
    with pytest.warns(UserWarning, match="whether these frames were trained on is not known"):
        assert run("evaluate", "r", "si.extxyz")[0] == 0
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "missing.xyz"), "missing.xyz: no such file"),
        (("train", "x.xyz", "--model", "mase"), "did you mean 'mace'"),
        (("train", "x.xyz", "--set", "train.learning_rate=1"), "unknown key 'train.learning_rate'"),
        (("evaluate", "nowhere"), "nowhere"),
        (("report", "nowhere"), "no such run folder"),
        (("data", "get", "samd"), "samd"),
        (("data", "info", "empty.xyz"), "holds no frames"),
    ],
)
def test_bad_input_is_one_line(run, words, expected) -> None:
    Path("empty.xyz").write_text("")
    code, _, err = run(*words)
    assert code == 2
    assert expected in err
    assert "Traceback" not in err


def test_a_capped_graph_is_named_in_every_result(run) -> None:
    run("data", "get", "si-substitution", "--out", "si.extxyz")
    common = ("train", "si.extxyz", "--model", "schnet", "--preset", "tiny", "--epochs", "1")
    assert run(*common, "--paper-graph", "--out", "paper")[0] == 0
    assert run(*common, "--set", "model.max_neighbors=8", "--out", "capped")[0] == 0
    for folder, cap in (("paper", 50), ("capped", 8)):
        results = json.loads(run("evaluate", folder, "--json")[1])
        assert {r["model"] for r in results} == {f"schnet, {cap} neighbours"}
        assert Potential.load(folder).model.needs.max_neighbors == cap
    # About 14 neighbours within 4 Å: a cap of 50 changes nothing, one of 8 the mean.
    assert Potential.load("paper").model.mean_neighbors > 12
    assert Potential.load("capped").model.mean_neighbors == 8


def test_models_lists_the_ten_of_the_benchmark_first(run) -> None:
    code, out, _ = run("models", "--json")
    rows = json.loads(out)
    assert code == 0
    assert [r["name"] for r in rows] == [*BENCHMARK, "bpnn_transfer"]
    assert all(r["works"] for r in rows)


def test_quickstart_runs_every_step_and_ends_with_a_report(run, tmp_path) -> None:
    config = tmp_path / "quickstart.yaml"
    steps = (STRUCTURE.parents[1] / "quickstart.yaml").read_text()
    config.write_text(
        steps.replace("{configs}", str(STRUCTURE.parents[1]))
        .replace("train ", "train --preset tiny --epochs 1 ")
        .replace("--time 0.3", "--time 0.005")
        .replace("--equilibration 0.1", "--equilibration 0")
    )
    code, out, err = run("quickstart", str(config), "--out", "q")
    assert code == 0, err
    assert out.count("$ siliforce") == steps.count("run:")
    page = Path("q/report.html").read_text()
    assert "MACE" in page or "mace" in page
    code, _, err = run("quickstart", str(config), "--out", str(tmp_path))
    assert code == 2
    assert "not empty" in err
