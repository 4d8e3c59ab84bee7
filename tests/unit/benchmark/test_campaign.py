"""Campaigns: only what is missing is done, a kill costs nothing, bad input is said before."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.io import write

from siliforce.benchmark import campaign as module
from siliforce.benchmark.batches import halving
from siliforce.benchmark.campaign import open_campaign, plan_campaign, run_campaign
from siliforce.benchmark.config import Campaign, Simulation, load_campaign
from siliforce.benchmark.findings import findings
from siliforce.benchmark.graph import variants
from siliforce.benchmark.plan import REPEATS, Plan, measure, steps
from siliforce.benchmark.tasks import Workshop, load_finished
from siliforce.config import load_config
from siliforce.data.catalog import entries
from siliforce.data.lock import locked
from siliforce.data.reference import Reference, Start
from siliforce.errors import ConfigError, DataError
from siliforce.jobs import Job, Progress, work
from siliforce.potential import Potential
from siliforce.report.campaign_observables import drifts
from siliforce.simulation.md import MDConfig
from siliforce.training.runlog import read_metrics
from siliforce.workers import Cluster
from tests.unit.benchmark.conftest import MINIATURE, miniature

ROOT = Path(__file__).resolve().parents[3]


def logged(root: Path) -> list[str]:
    return [json.loads(line)["key"] for line in (root / "log.jsonl").read_text().splitlines()]


def test_every_job_is_done_once_and_a_second_run_does_nothing(finished) -> None:
    root, opened, _, said = finished
    keys = logged(root)
    assert sorted(keys) == sorted(job.key for job in opened.jobs)
    assert not opened.missing
    assert "expected" in said[0]
    kinds = {job.payload.kind for job in opened.jobs}
    assert kinds == {"train", "errors", "eos", "speed", "md", "structure"}
    # Two baselines; of the studied one, width 1 and all the data are the baseline itself.
    assert sum(job.payload.kind == "train" for job in opened.jobs) == 4
    run_campaign(miniature(), root)
    assert logged(root) == keys


def test_nve_is_done_where_it_is_named_and_moves_nothing_else(finished, tmp_path) -> None:
    root, opened, _, _ = finished
    shutil.copytree(root, tmp_path / "copy")
    wanted = miniature().indicators
    assert "nve" not in wanted
    more = miniature(indicators=[*wanted, "nve"])
    new = open_campaign(more, tmp_path / "copy")
    assert {job.key for job in opened.jobs} < {job.key for job in new.jobs}
    assert [job.payload.kind for job in new.missing] == ["nve", "nve"]
    assert drifts(findings(new), "HfO2").columns[-1][0] == "id:cubic-300K"
    run_campaign(more, tmp_path / "copy")
    found = findings(new)
    (result,) = found.of("schnet")[0].of("nve")
    config = result.provenance["config"]
    assert (config["ensemble"], config["production"]) == ("nve", 0.04)
    table = drifts(found, "HfO2")
    row = next(row for row in table.rows if row[0].value == "schnet")
    assert table.columns[-1][0].startswith("NVE")
    assert row[-1].value == pytest.approx(abs(result.value("energy_drift")))
    assert [s.score for s in found.scores] == [s.score for s in findings(opened).scores]


def test_the_nve_runs_of_a_campaign_are_short_and_free() -> None:
    paper = Simulation(**MDConfig.paper(1200.0).model_dump(), replicas=3)
    free = paper.conserving()
    assert (free.ensemble, free.protocol, free.timestep) == ("nve", "siliforce", 3.0)
    assert (free.equilibration, free.production, free.replicas) == (0.5, 1.0, 1)


def test_another_model_is_added_without_moving_anybody(finished) -> None:
    root, _, _, _ = finished
    before = findings(open_campaign(miniature(), root))
    keys = set(logged(root))
    third = {"name": "schnet", "label": "wide", "preset": "tiny", "cutoff": 4.0, "width": 2}
    models = [
        {"name": "schnet", "label": "renamed", "preset": "tiny", "cutoff": 4.0},
        {"name": "bpnn", "preset": "tiny", "cutoff": 4.0},
        third,
    ]
    more = miniature(models=models, studies={"models": ["renamed"], "seeds": [0]})
    opened = open_campaign(more, root)
    new = [job for job in opened.missing if job.payload.kind == "train"]
    assert new == []  # the study of widths has trained it, under another name
    run_campaign(more, root)
    assert set(logged(root)) > keys
    after = findings(opened)
    names = {"schnet": "renamed", "bpnn": "bpnn"}

    def table(found, label: str) -> list:
        return [(s.quantity, s.split, s.error, s.score) for s in found.scores if s.label == label]

    for old, new_name in names.items():
        assert table(before, old) == table(after, new_name)
        assert table(before, old)
    assert len(after.standings) == 3


def test_the_plan_counts_the_work_that_is_done(finished) -> None:
    _, opened, plan, _ = finished
    shop = opened.shop
    for job in opened.jobs:
        done = load_finished(shop.folder, job.key)
        material = shop.material("HfO2")
        if job.payload.kind == "train":
            variant = job.payload.variant
            frames = done.facts["n_train"]
            assert done.facts["steps"] == variant.train.epochs * -(-frames // 2)
        if job.payload.kind == "md":
            for result, start in zip(done.results, material.starts, strict=True):
                done_steps, planned = result.provenance["steps"], steps(shop.campaign.md)
                assert done_steps < planned if result.failure else done_steps == planned
                assert result.provenance["n_atoms"] == len(start.atoms)
        assert plan.true[job.key] > 0
        assert plan.expected[job.key] >= 0
    md = [job for job in opened.jobs if job.payload.kind == "md"]
    rate = plan.rates["bpnn"].inference
    expected = next(plan.expected[j.key] for j in md if j.payload.variant.label == "bpnn")
    assert expected == pytest.approx(1e-6 * rate * 12 * 30)
    assert plan.total() == pytest.approx(sum(plan.expected[j.key] for j in opened.jobs))


def test_the_plan_times_inference_as_dynamics_asks_for_it(finished, monkeypatch) -> None:
    _, opened, _, _ = finished
    seen, forward = [], Potential.forward

    def watched(self, graph, **options):
        seen.append(torch.is_grad_enabled())
        return forward(self, graph, **options)

    monkeypatch.setattr(Potential, "forward", watched)
    variant = next(j.payload.variant for j in opened.jobs if j.payload.variant.label == "bpnn")
    rate = measure(opened.shop.material("HfO2"), variant, torch.device("cpu"))
    assert seen == [False] * (REPEATS + 1) + [True] * (REPEATS + 1)
    assert rate.inference > 0


def test_dynamics_that_a_former_judgement_ended_is_made_again(finished, tmp_path: Path) -> None:
    """A drift in NVT was once a failure; such a run, and what was made of it, is done again."""
    root, opened, _, _ = finished
    shutil.copytree(root, tmp_path / "old")
    jobs = {j.payload.variant.label: j for j in opened.jobs if j.payload.kind == "md"}
    stale, sound = jobs.values()
    path = tmp_path / "old" / "done" / f"{stale.key}.json"
    record = json.loads(path.read_text())
    record["results"][0]["failure"] = "energy drift after 0.010 ps: the conserved energy moved"
    path.write_text(json.dumps(record))
    before = logged(root)
    run_campaign(miniature(), tmp_path / "old")
    again = logged(tmp_path / "old")[len(before) :]
    follows = [job.key for job in opened.jobs if stale.key in job.after]
    assert again == [stale.key, *follows]
    assert sound.key not in again
    found = load_finished(Workshop(tmp_path / "old", miniature()).folder, stale.key)
    assert not any(r.failure.startswith("energy drift") for r in found.results)


def test_the_time_left_follows_what_was_expected_of_the_jobs_that_are_left() -> None:
    phases = {"a": "training", "b": "training", "c": "dynamics"}
    plan = Plan(
        "here",
        expected={"a": 100.0, "b": 50.0, "c": 7.0},
        true={"a": 300.0},
        names={key: ("mace", phase) for key, phase in phases.items()},
    )
    assert plan.remaining(set()) == 157.0
    assert plan.remaining({"a"}) == 157.0  # b costs three times what was expected, c as expected
    assert plan.remaining({"a", "b"}) == 7.0
    assert plan.remaining({"a", "b", "c"}) == 0.0


def test_two_campaigns_on_one_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path / module.LOCK),
        pytest.raises(DataError, match="at work here already"),
    ):
        run_campaign(miniature(), tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from siliforce.benchmark.campaign import run_campaign
from tests.unit.benchmark.test_campaign import killed_one
run_campaign(killed_one(), Path(sys.argv[1]))
"""


def killed_one() -> Campaign:
    """One training of a few seconds with a checkpoint after every step."""
    return miniature(
        models=[{"name": "schnet", "preset": "tiny", "cutoff": 4.0}],
        studies={},
        train={"epochs": 40, "batch_size": 2, "checkpoint_every": 0.1},
        indicators=["errors"],
    )


@pytest.mark.full
def test_a_kill_in_the_middle_of_a_training_costs_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], env=environment)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        log = next(iter(tmp_path.glob("runs/*/metrics.jsonl")), None)
        if log is not None and len(log.read_text().splitlines()) >= 2:
            break
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "done").exists()
    before = [row["epoch"] for row in read_metrics(log.parent)]
    assert 2 <= len(before) < 40
    opened, _ = run_campaign(killed_one(), tmp_path)
    assert not opened.missing
    epochs = [row["epoch"] for row in read_metrics(log.parent)]
    assert epochs == sorted(epochs)
    # It went on: the second process said what it does after the first had started, not anew.
    keys = [job.key for job in opened.jobs if job.payload.kind == "train"]
    facts = load_finished(opened.shop.folder, keys[0]).facts
    assert facts["epochs"] == 40
    times = [row["time_s"] for row in read_metrics(log.parent)]
    assert times == sorted(times)


@pytest.mark.full
@pytest.mark.parametrize("cluster", [None, Cluster(provider="local", workers_per_block=2)])
def test_a_worker_that_dies_in_a_job_is_replaced(
    cluster: Cluster | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cluster is not None:
        pytest.importorskip("parsl")
        monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'src'}{os.pathsep}{ROOT}")
    monkeypatch.setattr(module, "_work", deadly)
    opened, _ = run_campaign(miniature(), tmp_path, workers=2, cluster=cluster)
    assert (tmp_path / "killed").exists()
    assert not opened.missing
    assert opened.shop.folder.failed_keys() == set()
    assert sorted(logged(tmp_path)) == sorted(job.key for job in opened.jobs)


def deadly(root: Path, campaign: Campaign, jobs: list[Job], on_progress: object = None) -> Progress:
    """A worker that is killed within the first training anybody does."""
    shop = Workshop(root, campaign)

    def perform(job: Job, scratch: Path, attempt: int) -> bytes:
        if job.payload.kind == "train" and not (root / "killed").exists():
            (root / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return shop.perform(job, scratch, attempt)

    return work(shop.folder, lambda: jobs, perform, attempts=1)


def test_a_failed_training_fails_what_needs_it_and_scores_nothing(
    finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siliforce.benchmark import tasks

    def diverge(shop: Workshop, task: tasks.Task, key: str) -> tasks.Finished:
        raise DataError("the loss diverged")

    monkeypatch.setitem(tasks.KINDS, "train", diverge)
    one = {"name": "schnet", "preset": "tiny", "cutoff": 4.0}
    config = miniature(models=[one], studies={})
    opened, _ = run_campaign(config, tmp_path)
    assert opened.shop.folder.failed_keys() == {job.key for job in opened.jobs}
    found = findings(opened)
    assert {s.score for s in found.scores} == {0.0}
    assert all("the loss diverged" in s.note for s in found.scores)
    assert found.standings[0].total.mean == 0
    monkeypatch.undo()
    again, _ = run_campaign(config, tmp_path)  # a failure is a result
    assert again.shop.folder.done_keys() == set()


def test_a_defect_in_one_job_leaves_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from siliforce.benchmark import tasks

    def broken(shop: Workshop, task: tasks.Task, key: str) -> tasks.Finished:
        raise RuntimeError("Can't call numpy()")

    monkeypatch.setitem(tasks.KINDS, "eos", broken)
    one = {"name": "schnet", "preset": "tiny", "cutoff": 4.0}
    opened, _ = run_campaign(miniature(models=[one], studies={}), tmp_path)
    folder = opened.shop.folder
    lost = {job.key for job in opened.jobs if job.payload.kind == "eos"}
    assert folder.failed_keys() == lost
    assert folder.done_keys() == {job.key for job in opened.jobs} - lost
    assert "unexpected RuntimeError, a defect of siliforce" in folder.reason(lost.pop())


def test_memory_that_does_not_suffice_halves_the_batch() -> None:
    tried: list[int] = []
    notes: list[str] = []

    def attempt(size: int) -> int:
        tried.append(size)
        if size > 10:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return size

    assert halving(attempt, 64, "edges", None, notes) == 8
    assert tried == [64, 32, 16, 8]
    assert notes[-1] == "out of memory: went on with batches of 8 edges"
    with pytest.raises(RuntimeError, match="other"):
        halving(lambda size: (_ for _ in ()).throw(RuntimeError("other")), 4, "edges", None, [])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modles": ["mace"]}, "did you mean 'models'"),
        ({"models": ["mcae"]}, "did you mean 'mace'"),
        ({"models": [{"name": "mace", "train": {"lrr": 1}}]}, "did you mean 'lr'"),
        ({"indicators": ["rfd"]}, "did you mean 'rdf'"),
        ({"studies": {"fractions": [20]}}, "20 % is 0.2"),
        ({"studies": {"models": ["gap"]}}, "no model 'gap'"),
        ({"models": ["mace", "mace"]}, "two models are called 'mace'"),
        ({"models": [], "studies": {}}, "needs `models`"),
        ({"md": {"timestp": 2}}, "did you mean 'timestep'"),
        ({"preset": "smal"}, "did you mean 'small'"),
    ],
)
def test_typing_errors_are_answered(changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        miniature(**changes)


def material_with(tmp_path: Path, start: Start, **more: object) -> Campaign:
    """The miniature with a reference of one start."""
    Reference("synthetic", starts=[start]).save(tmp_path / "reference")
    base = miniature().materials["HfO2"].model_dump(mode="json", exclude_unset=True)
    changed = base | {"structures": {}, "reference": str(tmp_path / "reference")}
    return miniature(materials={"HfO2": changed}, **more)


def test_input_that_would_fail_hours_later_is_refused(tmp_path: Path) -> None:
    silicon = Start("silicon-300K", bulk("Si", cubic=True), 300.0)
    with pytest.raises(ConfigError, match=r"silicon-300K: contains Si, which no training frame"):
        open_campaign(material_with(tmp_path, silicon), tmp_path)
    close = bulk("Hf", "fcc", a=5.07, cubic=True)
    close.positions[1] = close.positions[0] + [0.3, 0, 0]
    with pytest.raises(ConfigError, match=r"atoms 0 and 1 .*closer than 0.5 Å"):
        open_campaign(material_with(tmp_path, Start("close-300K", close, 300.0)), tmp_path)
    sound = Start("sound-300K", bulk("Hf", "fcc", a=5.07, cubic=True), 300.0)
    with pytest.raises(ConfigError, match="no reference RDF of start sound-300K"):
        open_campaign(material_with(tmp_path, sound, indicators=["rdf"]), tmp_path)
    base = miniature().materials["HfO2"].model_dump(exclude_unset=True)
    for name, said in (("adf", "no reference ADF of start cubic-300K"), ("pec", "nothing to mea")):
        with pytest.raises(ConfigError, match=said):
            open_campaign(miniature(indicators=["errors", name]), tmp_path)
    bare = miniature(materials={"HfO2": base | {"structures": {}}}, indicators=["survival"])
    with pytest.raises(ConfigError, match="no starts for survival"):
        open_campaign(bare, tmp_path)
    structures = {"cubic": base["structures"]["cubic"] | {"temperatures": [-300]}}
    with pytest.raises(ConfigError, match="greater than 0"):
        miniature(materials={"HfO2": base | {"structures": structures}})
    unknown = miniature(materials={"HfO2": base | {"source": "samd23-mini-hof"}})
    with pytest.raises(ConfigError, match="did you mean 'samd23-mini-hfo'"):
        open_campaign(unknown, tmp_path)


def test_simulations_are_scored_against_a_reference(tmp_path: Path) -> None:
    """A reference made of rattled crystals; a calculator from outside is scored against it."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(6):
        atoms = bulk("Cu", "fcc", a=3.61, cubic=True).repeat(2)
        atoms.rattle(0.1, rng=rng)
        frames.append(atoms)
    from siliforce.indicators.adf import angular
    from siliforce.indicators.rdf import radial

    start = Start(
        "crystal-300K",
        bulk("Cu", "fcc", a=3.61, cubic=True).repeat(2),
        300.0,
        rdf=radial(frames).curves(),
        adf=angular(frames).curves(),
        noise={"rdf_mae": 0.01},
    )
    Reference("synthetic", starts=[start]).save(tmp_path / "reference")
    from ase.calculators.emt import EMT
    from ase.calculators.singlepoint import SinglePointCalculator

    for atoms in frames:
        atoms.calc = EMT()
        results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **results)
    write(tmp_path / "copper.extxyz", frames)
    config = miniature(
        materials={
            "copper": {
                "source": str(tmp_path / "copper.extxyz"),
                "split": {"method": "random", "valid": 0.2, "test": 0.3},
                "reference": str(tmp_path / "reference"),
            }
        },
        models=[],
        zero_shot=["emt"],
        studies={},
        indicators=["errors", "rdf", "adf", "survival", "speed", "pressure"],
        md={"timestep": 2, "equilibration": 0.02, "production": 0.1, "frame_every": 5},
    )
    opened, _ = run_campaign(config, tmp_path / "out")
    found = findings(opened)
    assert not opened.missing
    assert found.entries[0].failures == {}
    by_quantity = {s.quantity: s for s in found.scores}
    assert by_quantity["forces"].score == pytest.approx(1.0)
    assert found.entries[0].value_of("errors", "energy_rmse", "test") == pytest.approx(0, abs=1e-6)
    assert found.entries[0].value_of("speed", "energy_forces") > 1
    assert found.entries[0].value_of("speed", "peak_memory") is None  # another process has it
    assert found.entries[0].value_of("pressure", "pressure") is not None
    assert 0.5 < by_quantity["rdf"].score < 1
    assert 0.2 < by_quantity["adf"].score < 1
    assert {s.domain for s in found.scores} == {"id"}


def test_results_of_other_settings_are_not_taken_for_these(finished) -> None:
    root, _, _, _ = finished
    other = miniature(train={"epochs": 3, "batch_size": 2}, studies={})
    with pytest.raises(DataError, match="made with other settings"):
        findings(open_campaign(other, root))


def test_findings_only_read(finished) -> None:
    root, opened, plan, _ = finished
    path = root / "plan.json"
    before, content = path.stat().st_mtime_ns, path.read_bytes()
    read = findings(opened).plan
    assert path.stat().st_mtime_ns == before
    assert (read.names, read.rates) == (plan.names, plan.rates)
    path.unlink()
    try:
        assert findings(opened).plan is None
        assert not path.exists()
    finally:
        path.write_bytes(content)


def test_what_else_ran_stays_with_a_timing(finished) -> None:
    _, opened, _, _ = finished
    times = [r for e in findings(opened).ranked for r in e.of("speed")]
    assert times
    assert all(r.provenance["load_average"] >= 0 for r in times)


def test_a_plan_starts_nothing(tmp_path: Path) -> None:
    plan = plan_campaign(miniature(), tmp_path)
    assert "finished 0 of" in plan.text()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "path", sorted(MINIATURE.parent.glob("samd23*.yaml")), ids=lambda p: p.stem
)
def test_the_packaged_campaigns_name_what_exists(path: Path) -> None:
    campaign = load_campaign(path)
    assert len(campaign.models) == 10
    assert campaign.seeds == [0, 1, 2]
    known = entries()
    for material in campaign.materials.values():
        assert material.source in known
        assert (material.reference or "samd23-reference").split("/")[0] in known
        for structure in material.structures.values():
            assert Path(structure.file).is_file()
    found = variants(campaign, torch.device("cpu"), 100)
    baselines = [v for v in found if v.study == "baseline"]
    assert len(baselines) == 30
    studied = {v.study for v in found} - {"baseline"}
    everything = {"width", "fraction", "loss", "normalisation"}
    assert studied == (everything if campaign.studies.widths else set())


def test_the_reduced_campaign_is_read(tmp_path: Path) -> None:
    """Its data are the user's to bring: only what it asks for can be checked."""
    campaign = load_campaign(MINIATURE.parent / "hfo-reduced.yaml")
    assert len(campaign.models) == 10
    assert campaign.train.max_time == 480
    with pytest.raises(ConfigError, match=r"stoich\.extxyz"):
        open_campaign(campaign, tmp_path)


@pytest.mark.parametrize("name", ["mlearn-silicon", "hfo2-vacancies"])
def test_the_packaged_trainings_are_read(name: str) -> None:
    config = load_config(MINIATURE.parent / f"{name}.yaml")
    assert config.train.max_time is not None
    assert config.train.clock == "processor"
