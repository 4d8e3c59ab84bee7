"""The public repository's evaluation files in miniature."""

from __future__ import annotations

from pathlib import Path

POSCAR = """Hf O
1.0
9.0 0 0
0 9.0 0
0 0 9.0
Hf O
1 1
Cartesian
0 0 0
2 0 0
"""


def samd23_folder(folder: Path) -> None:
    """The smallest folder of this form."""
    files = {
        "dfs/cubic1_1200K/POSCAR": POSCAR,
        "dfs/cubic1_1200K/RDF_AIMD_x.csv": "r  /  Angstrom,Hf O\n0.0,0.0\n0.05,2.5\n",
        "dfs/cubic1_1200K/ADF_AIMD_x.csv": "phi  /  Degrees,Hf Hf O\n1,0.5\n2,1.5\n",
        "eos/Fm3m/POSCAR": POSCAR,
        "eos/Fm3m/energy_volume.dat": "0.99 700.0 -1.0\n1.00 729.0 -2.0\n",
        "pec/HfO/POSCAR": POSCAR,
        "pec/HfO/energy_distance.dat": "0.5 3.0\n0.6 2.0\n",
        "pec/HfO3/POSCAR_0": POSCAR,
        "pec/HfO3/POSCAR_10": POSCAR,
        "pec/HfO3/energy_angle.dat": "0 3.0\n10 2.0\n",
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
