"""Go on with the DFT of the embedded sets, and put what is finished into them.

    python production/resume.py RUN [--workers 2]     label what is missing, then gather
    python production/resume.py RUN --gather          only gather what is finished so far
    python production/resume.py RUN --only SET        one set, named as its file

Queued frames lie beside this file (`<set>.extxyz.xz`, unlabelled); `sets.json` names the engine
preset of each. Frames that are already in a set are not computed again. RUN is a run folder of
`siliforce.generate`; stop it at any moment, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import lzma
from collections import Counter
from pathlib import Path

from ase import Atoms

from siliforce.files import write_atomic
from siliforce.generate import Run, load_engine, run_queue
from siliforce.generate.engines import net_force
from siliforce.generate.frames import frame_key, read_frames, to_extxyz
from siliforce.generate.runner import by_group, file_names

HERE = Path(__file__).parent
SETS = HERE.parent / "src" / "siliforce" / "data" / "sets"
ENGINES = HERE.parent / "src" / "siliforce" / "configs" / "generate" / "engines"
LEFT_OUT = {"key", "seconds", "scf_cycles", "sites"}


def geometry(atoms: Atoms) -> str:
    """Identity of a frame, whatever computed it."""
    return frame_key(atoms, {})


def in_set(name: str) -> dict[str, list[Atoms]]:
    """Frames of an embedded set by system."""
    files = sorted((SETS / name).glob("*.extxyz.xz"))
    return by_group([atoms for file in files for atoms in read_frames(file)])


def queue(root: Path, name: str, preset: str) -> None:
    """Queue what is neither in the set nor queued yet, by whatever settings that was."""
    run = Run(root)
    known = {geometry(atoms) for members in in_set(name).values() for atoms in members}
    frames = read_frames(HERE / f"{name}.extxyz.xz")
    n_known = sum(geometry(atoms) in known for atoms in frames)
    print(f"{name}: {n_known} of {len(frames)} queued frames are in the set")
    systems = {atoms.info["system"] for atoms in frames}
    known |= {geometry(job.payload.atoms) for job in run.jobs() if job.group in systems}
    missing = [atoms for atoms in frames if geometry(atoms) not in known]
    if missing:
        run.add(name, missing, load_engine(ENGINES / f"{preset}.yaml"))


def gather(root: Path, name: str, facts: dict[str, str]) -> int:
    """Add finished frames to a set; returns how many it has.

    Frames that were finished before there was a limit on the net force are held to it here.
    """
    groups = in_set(name)
    engine = load_engine(ENGINES / f"{facts['engine']}.yaml")
    limit = engine.max_net_force
    known = {geometry(atoms) for members in groups.values() for atoms in members}
    frames = read_frames(HERE / f"{name}.extxyz.xz")
    queued = {geometry(atoms): atoms.info["system"] for atoms in frames}
    for atoms in Run(root).done():
        identity = geometry(atoms)
        if identity in known or queued.get(identity) != atoms.info["system"]:
            continue  # there already, or queued for something else (a convergence study)
        if limit is not None and net_force(atoms.get_forces()) > limit:
            continue
        atoms.info = {k: v for k, v in atoms.info.items() if k not in LEFT_OUT}
        groups.setdefault(str(atoms.info["system"]), []).append(atoms)
    total = sum(map(len, groups.values()))
    files = file_names(groups)
    for system, members in groups.items():
        text = to_extxyz(members).encode()
        write_atomic(SETS / name / f"{files[system]}.extxyz.xz", lzma.compress(text, preset=9))
    if total:
        levels = Counter(atoms.info["level"] for members in groups.values() for atoms in members)
        content = {"title": facts["title"], "licence": facts["licence"], "n_frames": total}
        content |= {"levels": dict(levels), "force_errors": engine.convergence}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_atomic(SETS / name / "set.json", text)
    print(f"{name}: {total} frames", {k: len(v) for k, v in groups.items()})
    return total


def main() -> None:
    """Command line."""
    known = json.loads((HERE / "sets.json").read_text())
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gather", action="store_true")
    parser.add_argument("--only", choices=sorted(known))
    arguments = parser.parse_args()
    sets = {arguments.only: known[arguments.only]} if arguments.only else known
    if not arguments.gather:
        for name, facts in sets.items():
            queue(arguments.run, name, facts["engine"])
        run_queue(arguments.run, arguments.workers, lambda p: print(p.line(), flush=True))
    for name, facts in sets.items():
        gather(arguments.run, name, facts)


if __name__ == "__main__":
    main()
