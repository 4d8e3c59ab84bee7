"""`siliforce adapt` as a user types it, from a source to a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cases import CASES, build_potential
from tests.e2e.test_cli import run  # noqa: F401
from tests.unit.training.target import target

SCHNET = next(c for c in CASES if c.model == "schnet")


@pytest.fixture
def ready(run):  # noqa: F811
    """A source and a target in the folder that commands run in."""
    build_potential(SCHNET).save("source.safetensors")
    target(8, Path("ge"))
    return run


def test_adapts_beside_its_control(ready):
    code, out, err = ready(
        "adapt", "source.safetensors", "ge", "--policy", "last", "--epochs", "1", "--out", "r"
    )
    assert code == 0, err
    assert json.loads(Path("r/results/transfer-test.json").read_text())["indicator"] == "transfer"
    assert "from scratch on the same frames" in " ".join(out.split())
    assert "gain \n" not in out
    assert "[]" not in out
    assert Path("r/control/lr-0.3/best.safetensors").exists()
    code, out, _ = ready("report", "r")
    assert code == 0
    assert "from scratch" in Path(out.strip()).read_text()
    code, out, _ = ready("evaluate", "r", "--json")
    assert {result["split"] for result in json.loads(out)} == {"train", "valid", "test"}


def test_the_configuration_of_a_run_repeats_it(ready):
    first = ("adapt", "source.safetensors", "ge", "--no-control", "--epochs", "2")
    assert ready(*first, "--set", "train.lr=1e-3", "--out", "one")[0] == 0
    code, _, err = ready("adapt", "one/config.yaml", "--no-control", "--out", "two")
    assert code == 0, err
    one, two = (Path(name, "best.safetensors").read_bytes() for name in ("one", "two"))
    assert json.loads(Path("one/split.json").read_text()) == json.loads(
        Path("two/split.json").read_text()
    )
    assert one[-4000:] == two[-4000:]  # the tensors stand at the end
    code, _, err = ready("train", "one/config.yaml")
    assert code == 2
    assert "siliforce adapt one/config.yaml" in err


def test_study_and_its_page(ready):
    words = ("adapt", "source.safetensors", "ge", "--study", "--frames", "2,4", "--draws", "2")
    code, out, err = ready(*words, "--epochs", "1", "--out", "s")
    assert code == 0, err
    assert "frames saved" in out
    code, out, _ = ready("report", "s")
    assert code == 0
    assert "<svg" in Path(out.strip()).read_text()


def test_policies_of_your_own_are_studied(ready):
    words = ("adapt", "source.safetensors", "ge", "--study", "--frames", "4", "--draws", "1")
    own = ("--set", "adapt.policies.out={parts: {readout: 1}}")
    named = ("--policy", "out", "--policy", "all")
    code, _, err = ready(*words, *own, *named, "--epochs", "1", "--out", "s")
    assert code == 0, err
    found = json.loads(Path("s/results/transfer_study-test.json").read_text())
    sizes = {r["which"]: r["n_parameters"] for r in found["tables"]["trainings"]}
    assert sizes["out"] < sizes["all"]
    alone = ("--set", "train.policy={parts: {readout: 1}}", "--json")
    code, out, err = ready(*words, *alone, "--epochs", "1", "--out", "t")
    assert code == 0, err
    trained = [r for r in json.loads(out)["tables"]["trainings"] if r["kind"] == "transfer"]
    assert [(r["which"], r["n_parameters"]) for r in trained] == [("custom", sizes["out"])]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("adapt",), "adapt what to what?"),
        (("adapt", "source.safetensors", "ge", "--policy", "lst"), "did you mean 'last'"),
        (("adapt", "source.safetensors", "ge", "--policy", "a", "--policy", "b"), "--study"),
        (("adapt", "source.safetensors", "ge", "--set", "adapt.fold=3"), "did you mean 'folds'"),
        (("adapt", "source.safetensors", "ge", "--study", "--frames", "a"), "5,10,20"),
        (("adapt", "source.safetensors", "ge", "--study", "--no-control"), "--no-control means"),
        (("adapt", "source.safetensors", "ge", "--study", "--restart", "auto"), "--restart means"),
        (("adapt", "source.safetensors", "ge", "--frames", "3"), "--frames means nothing to one"),
        (("adapt", "source.safetensors", "ge", "--draws", "7"), "--draws means nothing to one"),
        (("adapt", "source.safetensors", "ge", "--below", "50meV"), "--below means nothing to one"),
        (("adapt", "source.safetensors", "ge", "--study", "--below", "50meV"), "to --study"),
        (("adapt", "--family", "f.yaml", "--no-control"), "--no-control means nothing to --family"),
        (("adapt", "--family", "f.yaml", "--policy", "last"), "--policy means nothing to --family"),
        (("adapt", "--family", "f.yaml", "--workers", "2"), "--workers means nothing to --family"),
        (("adapt", "--family", "f.yaml", "one", "two"), "FRAMES means nothing to --family"),
        (("adapt", "--family", "f.yaml", "one"), "leave one out"),
        (
            (
                "adapt",
                "source.safetensors",
                "ge",
                "--study",
                "--policy",
                "last",
                "--set",
                "train.policy=all",
            ),
            "are both given",
        ),
        (("adapt", "source.safetensors", "ge", "--test", "ge"), "8 of 8 frames are copies"),
        (("adapt", "--family", "no.yaml"), "not a family file"),
    ],
)
def test_mistakes_are_answered(ready, words, said):
    code, _, err = ready(*words, "--out", "x")
    assert code == 2
    assert said in err
