"""The runner loses nothing: kills, full disks, engines that fail, missing files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write

from siliforce import jobs as jobs_module
from siliforce.data.read import load_frames
from siliforce.errors import ConfigError, DataError
from siliforce.generate import failures, label, make_engine
from siliforce.generate.engines.base import Engine, Labels
from siliforce.generate.frames import frame_key
from siliforce.generate.runner import Run, run
from siliforce.jobs import DiskFullError, Job, JobFolder, work

WORKER = "import sys; from siliforce.generate.runner import run; run(sys.argv[1])"


def silicon(n: int) -> list:
    frames = []
    for i in range(n):
        atoms = bulk("Si", a=5.4, cubic=True)
        atoms.rattle(0.05, seed=i)
        atoms.info["system"] = "Si8"
        frames.append(atoms)
    return frames


def qe(program: Path, **changes: object) -> Engine:
    pseudo = program.parent / "Si.UPF"
    if not pseudo.exists():
        pseudo.write_text("a pseudopotential")
    settings: dict[str, object] = {
        "engine": "qe",
        "command": str(program),
        "pseudopotentials": {"Si": "Si.UPF"},
        "pseudo_dirs": [str(program.parent)],
        "ecutwfc": 20,
        "ecutrho": 80,
        "stress": False,
    }
    return make_engine(settings | changes)


def wait_for(condition, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_labels_what_is_queued_and_does_it_once(tmp_path: Path, fake_pw: Path) -> None:
    frames = silicon(3)
    queue = Run(tmp_path / "run")
    assert len(queue.add("first", [*frames, frames[0]], qe(fake_pw))) == 3  # the copy is dropped
    progress = run(tmp_path / "run")
    assert (progress.done, progress.failed, progress.total) == (3, 0, 3)
    run(tmp_path / "run")
    assert (tmp_path / "calls.txt").read_text().count("call") == 3
    done = queue.done()
    assert [len(a) for a in done] == [8, 8, 8]
    np.testing.assert_allclose(done[0].positions, frames[0].positions, atol=1e-8)
    ry = 13.605693122994
    np.testing.assert_allclose(done[0].get_potential_energy(), -15.5 * 8 * ry, rtol=1e-6)
    np.testing.assert_allclose(done[0].get_forces()[0, 0], 0.001 * ry / 0.529177210903, rtol=1e-6)
    assert done[0].info["level"] == (
        "QE-6.7 PBE Gamma ecut20Ry rho80Ry scf1e-08Ry fd0.002Ry nspin1 Si.UPF"
    )


def test_hash_follows_content_and_settings(fake_pw: Path) -> None:
    atoms, settings = silicon(1)[0], qe(fake_pw).identity()
    moved = atoms.copy()
    moved.positions[0, 0] += 1e-6
    same = atoms.copy()
    same.info["note"] = "not part of the content"
    assert frame_key(atoms, settings) == frame_key(same, settings)
    assert frame_key(atoms, settings) != frame_key(moved, settings)
    assert frame_key(atoms, settings) != frame_key(atoms, settings | {"ecutwfc": 30.0})
    faster = qe(fake_pw, max_cpu_hours=1.0).identity()
    assert frame_key(atoms, settings) == frame_key(atoms, faster)


def test_kill_of_the_runner_loses_only_the_frame_in_flight(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(2), qe(fake_pw))
    engine_file = tmp_path / "behaviour.txt"
    engine_file.write_text("hang")
    runner = subprocess.Popen([sys.executable, "-c", WORKER, str(root)])
    wait_for(lambda: (tmp_path / "calls.txt").exists() and children(runner.pid))
    engine = children(runner.pid)[0]
    runner.send_signal(signal.SIGKILL)
    runner.wait()
    wait_for(lambda: not alive(engine))  # the engine dies with its runner
    assert Run(root).progress().done == 0
    engine_file.write_text("ok")
    progress = run(root)
    assert (progress.done, progress.failed) == (2, 0)
    assert not list((root / "work").iterdir())


def test_kill_of_the_engine_is_tried_again(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw))
    engine_file = tmp_path / "behaviour.txt"
    engine_file.write_text("hang")
    runner = subprocess.Popen([sys.executable, "-c", WORKER, str(root)])
    wait_for(lambda: (tmp_path / "calls.txt").exists() and children(runner.pid))
    engine_file.write_text("ok")
    os.kill(children(runner.pid)[0], signal.SIGKILL)
    assert runner.wait(300) == 0
    log = JobFolder(root, ".extxyz").log()
    assert [entry["status"] for entry in log] == ["failed", "done"]
    assert "SIGKILL" in log[0]["reason"]


def test_unconverged_frames_are_kept_apart_with_the_reason(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(2), qe(fake_pw))
    (tmp_path / "behaviour.txt").write_text("unconverged")
    progress = run(root)
    assert (progress.done, progress.failed) == (0, 2)
    record = json.loads(next((root / "failed").iterdir()).read_text())
    assert len(record["attempts"]) == 2  # the second with safer settings
    assert record["attempts"][0]["reason"] == "the SCF did not converge"
    assert "NOT achieved" in record["attempts"][0]["log"]


def test_second_try_uses_safer_settings(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw))
    (tmp_path / "behaviour.txt").write_text("unconverged-once")
    assert run(root).done == 1


def test_engine_error_is_quoted(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw))
    (tmp_path / "behaviour.txt").write_text("crash")
    run(root)
    record = json.loads(next((root / "failed").iterdir()).read_text())
    assert "Error in routine readpp" in record["attempts"][0]["reason"]


def test_output_that_cannot_be_read_fails_the_frame_only(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw))
    (tmp_path / "behaviour.txt").write_text("stars")
    assert run(root).failed == 1
    record = json.loads(next((root / "failed").iterdir()).read_text())
    assert "cannot read what pw.x wrote" in record["attempts"][0]["reason"]
    assert "JOB DONE" in record["attempts"][0]["log"]


def test_missing_pseudopotential_stops_before_anything_runs(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw))
    (tmp_path / "Si.UPF").unlink()
    with pytest.raises(ConfigError, match=r"Si\.UPF.*quantum-espresso-data"):
        run(root)
    assert not (root / "failed").exists()
    assert not (tmp_path / "calls.txt").exists()


def test_unknown_element_and_missing_program(tmp_path: Path, fake_pw: Path) -> None:
    with pytest.raises(ConfigError, match="no pseudopotential given for Hf"):
        qe(fake_pw).check({"Hf"})
    with pytest.raises(ConfigError, match="not on the PATH"):
        qe(fake_pw, command="no-such-pw.x").check({"Si"})
    with pytest.raises(ConfigError, match="unknown engine 'qee'"):
        make_engine({"engine": "qee"})
    with pytest.raises(ConfigError, match="unknown engine 'gpwa'; did you mean 'gpaw'"):
        make_engine({"engine": "gpwa"})
    with pytest.raises(ConfigError, match="unknown key 'ecutwf'; did you mean 'ecutwfc'"):
        make_engine(qe(fake_pw).model_dump() | {"ecutwf": 3})


def test_full_disk_keeps_what_is_finished(
    tmp_path: Path, fake_pw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(3), qe(fake_pw))
    write_atomic = jobs_module.write_atomic
    written: list[Path] = []

    def full(path: Path, content: bytes) -> Path:
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(Path(path))
        return write_atomic(path, content)

    monkeypatch.setattr(jobs_module, "write_atomic", full)
    with pytest.raises(DiskFullError, match=r"disk .* is full"):
        run(root)
    assert Run(root).progress().done == 1
    assert Run(root).progress().failed == 0
    monkeypatch.undo()
    assert run(root).done == 3
    assert (tmp_path / "calls.txt").read_text().count("call") == 4  # one frame done twice


def test_engine_failing_on_a_full_disk_is_not_the_frames_fault(
    tmp_path: Path, fake_pw: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw))
    (tmp_path / "behaviour.txt").write_text("crash")
    monkeypatch.setattr(jobs_module, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(DiskFullError):
        run(root)
    assert not (root / "failed").exists()


def test_cpu_limit_is_a_reason(tmp_path: Path, fake_pw: Path) -> None:
    text = fake_pw.read_text().replace("time.sleep(600)", "[0 for _ in iter(int, 1)]")
    fake_pw.write_text(text)
    (tmp_path / "behaviour.txt").write_text("hang")
    root = tmp_path / "run"
    Run(root).add("first", silicon(1), qe(fake_pw, max_cpu_hours=1 / 3600))
    run(root)
    record = json.loads(next((root / "failed").iterdir()).read_text())
    assert "CPU hours" in record["attempts"][0]["reason"]


def test_two_workers_share_the_frames(tmp_path: Path, fake_pw: Path) -> None:
    root = tmp_path / "run"
    Run(root).add("first", silicon(6), qe(fake_pw))
    assert run(root, workers=2).done == 6
    assert (tmp_path / "calls.txt").read_text().count("call") == 6


def test_groups_advance_evenly(tmp_path: Path) -> None:
    jobs = [Job(f"a{i}", "a") for i in range(4)] + [Job(f"b{i}", "b") for i in range(2)]
    taken: list[str] = []
    work(JobFolder(tmp_path), lambda: jobs, lambda job, *_: taken.append(job.key) or b"x")
    assert taken == ["a0", "b0", "a1", "a2", "b1", "a3"]


def test_torn_log_line_is_ignored(tmp_path: Path) -> None:
    folder = JobFolder(tmp_path)
    folder.append_log({"key": "k", "group": "g", "status": "done", "seconds": 2.0})
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"key": "torn')
    assert folder.mean_seconds() == {"g": 2.0}
    assert folder.progress([Job("k2", "g"), Job("k3", "g")]).eta_seconds == 4.0


def test_batches_hold_what_was_queued_each_frame_once(tmp_path: Path, fake_pw: Path) -> None:
    queue = Run(tmp_path / "run")
    queue.add("first", silicon(1), qe(fake_pw))
    queue.add("first", silicon(1), qe(fake_pw))
    assert len(list((queue.root / "queue").iterdir())) == 1
    queue.add("first", silicon(2), qe(fake_pw))  # the same name, other frames
    queue.add("second", silicon(3), qe(fake_pw))
    assert len(queue.jobs()) == len({job.key for job in queue.jobs()}) == 3
    queue.add("first", silicon(1), qe(fake_pw, ecutwfc=30))
    assert len(queue.jobs()) == 4


@pytest.mark.full
def test_label_writes_and_counts_its_own_frames_only(tmp_path: Path, lj: dict) -> None:
    """The same run folder, another file and another engine; then the same file changed."""
    run, out = tmp_path / "run", tmp_path / "out.extxyz"
    write(tmp_path / "a.xyz", silicon(3), format="extxyz")
    write(tmp_path / "b.xyz", silicon(2), format="extxyz")
    sw = make_engine({"engine": "stillinger-weber"})
    assert label(tmp_path / "a.xyz", sw, run, out).total == 3
    stillinger = [a.get_potential_energy() for a in read(out, ":")]
    assert label(tmp_path / "b.xyz", make_engine(lj), run, out).done == 2
    assert not set(stillinger) & {a.get_potential_energy() for a in read(out, ":")}
    assert len(read(out, ":")) == 2
    assert label(tmp_path / "b.xyz", sw, run, out).done == 2
    assert [a.get_potential_energy() for a in read(out, ":")] == stillinger[:2]
    write(tmp_path / "a.xyz", silicon(4), format="extxyz")
    assert label(tmp_path / "a.xyz", sw, run, out).done == len(read(out, ":")) == 4


def test_failed_frames_give_no_file_but_reasons_and_can_be_tried_again(
    tmp_path: Path, fake_pw: Path
) -> None:
    write(tmp_path / "frames.xyz", silicon(2), format="extxyz")
    (tmp_path / "behaviour.txt").write_text("crash")
    out = tmp_path / "out.extxyz"
    arguments = (tmp_path / "frames.xyz", qe(fake_pw), tmp_path / "run", out)
    with pytest.raises(DataError, match=r"2 frames failed: pw\.x: Error in routine readpp"):
        label(*arguments)
    assert not out.exists()
    (tmp_path / "behaviour.txt").write_text("ok")
    with pytest.raises(DataError, match="could be labelled"):
        label(*arguments)  # what failed stays failed, until told otherwise
    assert label(*arguments, retry_failed=True).done == 2
    assert failures(tmp_path / "run") == []
    assert len(read(out, index=":")) == 2


def test_label_a_file_and_read_it_back(tmp_path: Path, lj: dict) -> None:
    write(tmp_path / "frames.xyz", silicon(3), format="extxyz")
    out = tmp_path / "labelled.extxyz.xz"
    progress = label(tmp_path / "frames.xyz", make_engine(lj), tmp_path / "run", out)
    assert progress.done == 3
    frames = read(out, index=":")
    assert all(np.isfinite(a.get_stress()).all() for a in frames)
    with pytest.raises(DataError, match="no file"):
        label(tmp_path / "missing.xyz", make_engine(lj), tmp_path / "run", out)


def test_labels_that_were_in_a_file_do_not_outlive_the_new_ones(
    tmp_path: Path, lj: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SILIFORCE_CACHE", str(tmp_path / "cache"))
    frames = silicon(2)
    for atoms in frames:
        atoms.info |= {"REF_energy": -999.0, "virial": 9.0 * np.eye(3), "note": "kept"}
    write(tmp_path / "old.xyz", frames, format="extxyz")
    out = tmp_path / "new.extxyz"
    label(tmp_path / "old.xyz", make_engine(lj), tmp_path / "run", out)
    expected = [a.get_potential_energy() for a in read(out, ":")]
    assert [frame.energy for frame in load_frames(out)] == pytest.approx(expected)
    assert expected[0] != -999.0
    info = read(out, ":")[0].info
    assert info["note"] == "kept"
    assert "virial" not in info


def test_a_net_force_above_the_limit_gets_its_second_try_then_is_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make_engine({"engine": "lj", "max_net_force": 0.02})
    tries: list[bool] = []
    grid_error = {False: 0.03, True: 0.001}

    def label_with_grid_error(self: Engine, atoms, workdir: Path, safer: bool) -> Labels:
        tries.append(safer)
        return Labels(-1.0, np.full((len(atoms), 3), grid_error[safer] / 8 / 3**0.5), None, "1", {})

    monkeypatch.setattr(type(engine), "label", label_with_grid_error)
    Run(tmp_path / "run").add("first", silicon(1), engine)
    assert run(tmp_path / "run").done == 1
    assert tries == [False, True]
    log = JobFolder(tmp_path / "run", ".extxyz").log()
    assert "net force 0.0300 eV/Å is above 0.02 eV/Å" in log[0]["reason"]
    grid_error[True] = 0.021
    Run(tmp_path / "other").add("first", silicon(1), engine)
    assert run(tmp_path / "other").failed == 1
