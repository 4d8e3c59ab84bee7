"""`siliforce choose` as a user types it, and active studies, to their pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.test_adapt_cli import ready  # noqa: F401
from tests.e2e.test_cli import run  # noqa: F401
from tests.unit.training.target import target

TRAIN = ("train", "si", "--model", "schnet", "--preset", "tiny", "--epochs", "2", "--out", "r")


def test_from_a_run_to_frames_and_its_page(run):  # noqa: F811
    target(10, Path("si"), new=())
    target(6, Path("pool"), new=(), seed=3)
    assert run(*TRAIN, "--set", "data.split.test=0.3", "--set", "train.batch_size=4")[0] == 0
    code, out, err = run("choose", "pool", "--model", "r", "--n", "3", "-o", "next.extxyz")
    assert code == 0, err
    assert "predicted force error" in out
    assert "siliforce generate label next.extxyz" in out
    code, out, _ = run("report", "r")
    assert code == 0
    page = Path(out.strip()).read_text()
    assert "Frames to label next" in page
    assert "Reliability of predicted errors" in page
    words = ("choose", "pool", "--model", "r", "--below", "900eV", "-o", "none.extxyz", "--json")
    code, out, err = run(*words)
    assert code == 0, err
    assert json.loads(out)["provenance"]["sentences"][-1] == "No frame is chosen."
    assert not Path("none.extxyz").exists()


def test_an_active_study(ready):  # noqa: F811
    words = ("adapt", "source.safetensors", "ge", "--study", "--active", "--frames", "4,5")
    words += ("--draws", "1", "--members", "2", "--policy", "scratch", "--epochs", "1")
    target(9, Path("more"), seed=4)
    code, out, err = ready(*words, "--test", "more", "--below", "50meV", "--out", "s")
    assert code == 0, err
    assert "frames chosen by uncertainty against random ones" in out
    code, out, _ = ready("report", "s")
    assert code == 0
    assert "choosing frames by uncertainty" in Path(out.strip()).read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("choose", "ge", "--model", "source.safetensors"), "several models"),
        (("choose", "ge", "--model", "no"), "no such model file"),
        (("choose", "ge", "--model", "source.safetensors", "--below", "50"), "write 50meV"),
        (("choose", "ge", "--model", "source.safetensors", "--method", "x"), "last-layer"),
        (("adapt", "source.safetensors", "ge", "--active"), "a kind of --study"),
        (
            ("adapt", "source.safetensors", "ge", "--study", "--active", "--replay", "ge"),
            "--replay means nothing to --active",
        ),
        (
            ("adapt", "source.safetensors", "ge", "--study", "--active", "--method", "x"),
            "allowed are ensemble, last-layer",
        ),
    ],
)
def test_mistakes_are_answered(ready, words, said):  # noqa: F811
    code, _, err = ready(*words, "--out", "x")
    assert code == 2
    assert said in err
