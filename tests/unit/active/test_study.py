"""Active against random: the same start, resumed after kills, summed up, shown."""

from html import escape

import numpy as np
import pytest

from siliforce.active.rounds import summary
from siliforce.active.study import ActiveStudy, Plan, study
from siliforce.errors import ConfigError, DataError
from siliforce.report import write_report
from tests.cases import CASES, build_potential
from tests.unit.training.target import target

FAST = {"epochs": 2, "batch_size": 4}
SCHNET = next(c for c in CASES if c.model == "schnet")


@pytest.fixture
def inputs(tmp_path):
    build_potential(SCHNET).save(tmp_path / "source.safetensors")
    target(12, tmp_path / "ge")
    return {"source": tmp_path / "source.safetensors", "data": tmp_path / "ge"}


def options(tmp_path, **changes):
    return {
        "frames": (4, 6), "draws": 1, "members": 2, "train": FAST, "policy": "scratch",
        "out": tmp_path / "study", "quiet": True, "below": 0.5,
    } | changes  # fmt: skip


def test_a_kill_costs_one_training_and_the_choice_is_the_same(inputs, tmp_path, monkeypatch):
    import siliforce.active.study as module

    original, begun = module.train_control, []

    def dies(*args, **kwargs):
        begun.append(1)
        if len(begun) == 4:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(module, "train_control", dies)
    with pytest.raises(KeyboardInterrupt):
        study(**inputs, **options(tmp_path))
    result = study(**inputs, **options(tmp_path))
    assert len(begun) == 1 + 2 * 3  # the killed one; a common start, one round of either kind
    rounds = {(r["selection"], r["n"]): r for r in result.tables["all"]}
    assert set(rounds) == {("active", 4), ("random", 4), ("active", 6), ("random", 6)}
    assert rounds["active", 4]["test"] == rounds["random", 4]["test"]
    assert rounds["active", 4]["rows"] == rounds["active", 6]["rows"][:4]
    assert rounds["active", 6]["pool"]["n_frames"] == 8 - 6
    assert result.metric("frames_saved_active") is not None
    again = study(**inputs, **options(tmp_path, below=1e3))
    assert len(begun) == 7  # another stated error trains nothing
    assert all(line["stopped"] == 4 and line["right"] for line in again.tables["stops"])
    page = write_report(tmp_path / "study").read_text()
    assert all(escape(s) in page for s in again.provenance["sentences"])
    assert page.count('<svg class="chart"') == 3


def test_active_takes_what_it_is_least_sure_of(inputs, tmp_path):
    study(**inputs, **options(tmp_path, frames=(4, 5)))
    plan = Plan.model_validate_json((tmp_path / "study" / "active.json").read_text())
    own = ActiveStudy(tmp_path / "study", plan)
    before, after = (own.labelled("active", 0, r) for r in (0, 1))
    train, held = own.divided("active", 0, 1)
    assert set(train) | set(held) == set(after)
    assert not set(train) & set(held)
    rest = np.setdiff1d(np.arange(len(own.pool)), before)
    answers = own.answers("active", 0, 0)["pool"].of(rest)
    worth = np.sqrt([np.mean(answers.of([k]).spread ** 2) for k in range(len(rest))])
    assert worth[list(rest).index(after[-1])] >= np.median(worth)


def test_impossible_plans(inputs, tmp_path):
    with pytest.raises(DataError, match="there are 8 beside 4 for the test"):
        study(**inputs, **options(tmp_path, frames=(4, 20)))
    with pytest.raises(ConfigError, match="two numbers of frames or more, from 4 on"):
        study(**inputs, **options(tmp_path, frames=(2, 6)))
    with pytest.raises(ConfigError, match="2 members at least"):
        study(**inputs, **options(tmp_path, members=1))
    with pytest.raises(ConfigError, match="no policy 'al'"):
        study(**inputs, **options(tmp_path, policy="al"))


def made_rows(gain, counts=(10, 20, 40), draws=4, noise=0.03, seed=0):
    """Rounds whose errors fall with the root of the frames; active is better by `gain`."""
    rng, rows = np.random.default_rng(seed), []
    for k in range(draws):
        for n in counts:
            start = 0.3 * n**-0.5 * np.exp(noise * rng.normal())
            for selection in ("active", "random"):
                true = start / (gain if selection == "active" and n > counts[0] else 1)
                part = {"predicted": 0.9 * true, "true": true, "spearman": 0.6, "within": 0.9,
                        "reliability": [{"predicted": true, "true": true}]}  # fmt: skip
                pool = part | {"upper": 1.2 * true}
                rows.append({"selection": selection, "draw": k, "n": n, "test": part, "pool": pool})
    return rows


FACTS = {"model": "bpnn", "frames": [10, 20, 40], "n_pool": 80, "below": 0.07}


def test_summary_of_a_known_gain():
    found = summary(made_rows(gain=1.4), FACTS)
    assert found.metric("error_ratio_40").value == pytest.approx(1 / 1.4)
    assert found.value("frames_saved_active") > 1.5
    assert found.provenance["alarm"] == ""
    stops = [line for line in found.tables["stops"] if line["selection"] == "active"]
    assert [line["stopped"] for line in stops] == [20] * 4  # 0.067 / 1.4 * 1.2 = 0.058
    assert all(line["right"] for line in stops)
    late = [line for line in found.tables["stops"] if line["selection"] == "random"]
    assert [line["stopped"] for line in late] == [40] * 4  # 0.067 * 1.2 = 0.08 at 20
    assert "right in 4 of 4" in " ".join(found.provenance["sentences"])
    assert found.value("bounds_kept") == 100


def test_summary_says_when_choosing_hurts_and_when_the_rule_errs():
    found = summary(made_rows(gain=0.7), FACTS)
    assert "worse than random ones at 20 frames: 1.43" in found.provenance["alarm"]
    rows = made_rows(gain=1.0)
    for row in rows:
        row["pool"]["upper"] = 0.5 * row["pool"]["true"]
    found = summary(rows, FACTS | {"below": 0.06})
    assert [line["right"] for line in found.tables["stops"]] == [False] * 8
    assert found.value("bounds_kept") == 0
    none = summary(rows, FACTS | {"below": None})
    assert none.tables["stops"] == []
