"""Runs every python and bash block of the README and the docs, page by page, in order."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs.warm import folder_of_commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(python|bash)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, str]]:
    return [(m[1], m[2]) for m in BLOCK.finditer(page.read_text())]


RUNNABLE = [page for page in PAGES if blocks(page)]
SLOW = {"choosing.md", "transfer-paper.md"}
"""Pages whose blocks take long and whose commands have quick tests of their own."""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with folder_of_commands(tmp_path_factory.mktemp("bin")) as folder:
        yield folder


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.full) if p.name in SLOW else p for p in RUNNABLE],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_blocks_run(page: Path, commands: Path, tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "SILIFORCE_CACHE": str(tmp_path / ".cache"),
        "OMP_NUM_THREADS": "1",
    }
    for number, (language, code) in enumerate(blocks(page), start=1):
        command = [commands / "python", "-c"] if language == "python" else ["bash", "-ec"]
        done = subprocess.run(
            [*command, code], cwd=tmp_path, env=environment, capture_output=True, text=True,
            timeout=280,
        )  # fmt: skip
        assert done.returncode == 0, (
            f"{page.name}, block {number} ({language}) failed:\n{code}\n"
            f"{done.stdout}\n{done.stderr}"
        )


def test_there_are_blocks_to_run() -> None:
    assert ROOT / "README.md" in RUNNABLE
