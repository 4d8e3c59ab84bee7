#!/usr/bin/env python3
"""Stand-in for pw.x: reads the real input, answers in pw.x's words, misbehaves when told to."""

import re
import sys
import time
from pathlib import Path

print("     Program PWSCF v.6.7MaX starts on 21Nov2026 at  7: 5:49", flush=True)
if "--version" in sys.argv:
    sys.exit(0)
here = Path(__file__).resolve().parent
behaviour = (here / "behaviour.txt").read_text().strip()
with (here / "calls.txt").open("a") as calls:
    calls.write("call\n")
text = Path("pw.in").read_text()
safer = "mixing_ndim" in text
n = int(re.search(r"nat\s*=\s*(\d+)", text).group(1))
block = text[text.index("ATOMIC_POSITIONS") :].splitlines()[1 : n + 1]
positions = [(row.split()[0], [float(x) for x in row.split()[1:4]]) for row in block]
if behaviour == "hang":
    time.sleep(600)
if behaviour == "unconverged" or (behaviour == "unconverged-once" and not safer):
    print("     convergence NOT achieved after 100 iterations: stopping")
    sys.exit(2)
if behaviour == "crash":
    print(" %" * 1 + "%" * 77)
    print("     Error in routine readpp (1):\n     file ./pseudo/Si.UPF not readable")
    print(" %" + "%" * 77)
    sys.exit(1)
cell = [
    [float(x) for x in row.split()]
    for row in text[text.index("CELL_PARAMETERS") :].splitlines()[1:4]
]
bohr = 0.529177210903
kinds = list(dict.fromkeys(s for s, _ in positions))
a = cell[0][0] / bohr
print("     bravais-lattice index     =            0")
print(f"     lattice parameter (alat)  =  {a:.4f}  a.u.")
print(f"     number of atoms/cell      = {n:12d}")
print(f"     number of atomic types    = {len(kinds):12d}")
print(f"     celldm(1)= {a:11.6f}  celldm(2)=   0.000000  celldm(3)=   0.000000")
a = round(a, 6)
print("     crystal axes: (cart. coord. in units of alat)")
for i, row in enumerate(cell):
    x = " ".join(f"{v / bohr / a:.8f}" for v in row)
    print(f"               a({i + 1}) = ( {x} )")
print("     site n.     atom                  positions (alat units)")
for i, (symbol, xyz) in enumerate(positions):
    x = " ".join(f"{v / bohr / a:.9f}" for v in xyz)
    print(f"         {i + 1}           {symbol}   tau({i + 1:4d}) = (  {x}  )")
print("\n     convergence has been achieved in   7 iterations\n")
energy = "*" * 16 if behaviour == "stars" else f"{-15.5 * n:.8f}"
print(f"!    total energy              =     {energy} Ry\n")
print("     Forces acting on atoms (cartesian axes, Ry/au):\n")
for i in range(n):
    print(f"     atom{i + 1:5d} type  1   force =     0.00100000    0.00000000   -0.00100000")
print("\n     Total force =     0.001\n")
print("     JOB DONE.")
