"""A campaign of two tiny models on ten embedded frames, run once for all tests."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from siliforce.benchmark.campaign import Opened, run_campaign
from siliforce.benchmark.config import Campaign, load_campaign
from siliforce.benchmark.plan import Plan
from siliforce.data.catalog import get
from siliforce.generate.frames import read_frames, to_extxyz
from siliforce.training.options import parse

FOLDER = tempfile.TemporaryDirectory(prefix="siliforce-")
MINIATURE = Path(__file__).resolve().parents[3] / "configs" / "reproduce" / "miniature.yaml"


@cache
def ten_frames() -> str:
    """A file of eight ID and two OOD frames; the embedded set grows, tests do not grow with it."""
    folder = Path(FOLDER.name)
    frames = read_frames(get("samd23-mini-hfo", folder / "all.extxyz").path)
    few = [[a for a in frames if a.info["split"] == name] for name in ("id", "ood")]
    path = folder / "ten.extxyz"
    path.write_text(to_extxyz(few[0][:8] + few[1][:2]))
    return str(path)


def miniature(**changes: Any) -> Campaign:
    """The packaged miniature on ten frames with one seed, and with other sections."""
    values = load_campaign(MINIATURE).model_dump(mode="json", exclude_unset=True)
    values["materials"]["HfO2"]["source"] = ten_frames()
    return parse(Campaign, values | {"seeds": [0]} | changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Opened, Plan, list[str]]:
    """Folder, campaign, plan with true costs, and what was said."""
    root, said = tmp_path_factory.mktemp("campaign"), []
    opened, plan = run_campaign(miniature(), root, say=said.append)
    return root, opened, plan, said
