"""Extend the embedded set `h2o-h2s`: frame k of a molecule depends on k alone.

    python production/molecules.py LABELS --until h2o 1000    label what is missing up to frame 999
    python production/molecules.py LABELS --gather            put what LABELS holds into the set

LABELS is a file of JSON lines; stop at any moment, the same command goes on. Labelling needs a
Python with PySCF, ASE and siliforce's own requirements.
"""

from __future__ import annotations

import argparse
import json
import lzma
from pathlib import Path

import numpy as np
from ase import Atoms

from siliforce.files import write_atomic
from siliforce.generate.engines.base import Labels
from siliforce.generate.engines.server import PySCFMolecule, package_version
from siliforce.generate.frames import canonical, labelled, read_frames, to_extxyz
from siliforce.generate.structures import bent_molecule

SET = Path(__file__).parent.parent / "src" / "siliforce" / "data" / "sets" / "h2o-h2s"
# Seed, symbols, bond length [Å], angle [°] and energy [eV] of the PBE minimum.
MOLECULES = {
    "h2s": (2, ("S", "H", "H"), 1.352065327502787, 91.74160399533596, -10863.514813687038),
    "h2o": (1, ("O", "H", "H"), 0.9710153184831143, 104.28784728020204, -2078.3211574106053),
}
BOND, ANGLE = 0.25, 30.0


def geometry(name: str, index: int) -> Atoms:
    """Frame `index` of a molecule."""
    seed, symbols, bond, angle, _ = MOLECULES[name]
    rng = np.random.default_rng([seed, index])
    atoms = canonical(bent_molecule(symbols, (bond, BOND), (angle, ANGLE), rng))
    atoms.info["idx"] = index
    return atoms


def stored(name: str) -> dict[int, Atoms]:
    """Frames of the set by index."""
    return {int(a.info["idx"]): a for a in read_frames(SET / f"{name}.extxyz.xz")}


def load_labels(path: Path) -> dict[tuple[str, int], Labels]:
    """Labels of a file by molecule and index; a line that was cut short is passed over."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue
        forces = np.array(entry["forces"])
        labels = Labels(entry["energy"], forces, None, entry["version"], {})
        found[entry["molecule"], entry["index"]] = labels
    return found


def label(path: Path, name: str, until: int) -> None:
    """Label every frame below `until` that is neither in the set nor in the file."""
    known, old, engine = load_labels(path), stored(name), PySCFMolecule()
    for index in range(until):
        if index in old or (name, index) in known:
            continue
        answer = engine.compute(geometry(name, index))
        entry = {"molecule": name, "index": index, **answer, "version": package_version("pyscf")}
        with path.open("a") as file:
            file.write(json.dumps(entry) + "\n")


def gather(path: Path) -> None:
    """Add the labelled frames to the set."""
    labels, total = load_labels(path), 0
    for name, (*_, minimum) in MOLECULES.items():
        frames = stored(name)
        level = frames[0].info["level"]
        for (molecule, index), answer in labels.items():
            if molecule == name and index not in frames:
                facts = {"level": level, "e_rel_eq": answer.energy - minimum}
                frames[index] = labelled(geometry(name, index), answer, facts)
        total += len(frames)
        text = to_extxyz(frames[k] for k in sorted(frames)).encode()
        write_atomic(SET / f"{name}.extxyz.xz", lzma.compress(text, preset=9))
        print(f"{name}: {len(frames)} frames, up to index {max(frames)}")
    about = json.loads((SET / "set.json").read_text()) | {"n_frames": total}
    write_atomic(SET / "set.json", json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("labels", type=Path)
    parser.add_argument("--until", nargs=2, metavar=("MOLECULE", "N"))
    parser.add_argument("--gather", action="store_true")
    arguments = parser.parse_args()
    if arguments.until:
        label(arguments.labels, arguments.until[0], int(arguments.until[1]))
    if arguments.gather:
        gather(arguments.labels)


if __name__ == "__main__":
    main()
