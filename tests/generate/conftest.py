"""Shared pieces of the data-making tests: a cheap engine and a fake pw.x."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

FAKE_PW = Path(__file__).with_name("fake_pw.py")


@pytest.fixture
def lj() -> dict[str, object]:
    """Lennard-Jones with soft, wide wells: any element, any packing."""
    return {"engine": "lj", "settings": {"sigma": 1.6, "epsilon": 0.05, "rc": 4.0, "smooth": True}}


@pytest.fixture
def fake_pw(tmp_path: Path) -> Path:
    """A `pw.x` that obeys `behaviour.txt` beside it: ok, hang, unconverged, unconverged-once."""
    program = tmp_path / "pw.x"
    program.write_text(FAKE_PW.read_text())
    program.chmod(program.stat().st_mode | stat.S_IEXEC)
    (tmp_path / "behaviour.txt").write_text("ok")
    return program
