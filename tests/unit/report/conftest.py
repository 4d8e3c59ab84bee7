from __future__ import annotations

from pathlib import Path

import pytest

from tests.run_folders import make_run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two complete run folders that tests only read."""
    root = tmp_path_factory.mktemp("runs")
    return [make_run(root / "close", depth=0.36), make_run(root / "far", depth=0.6, model="other")]
