"""Goedecker-Teter-Hutter pseudopotentials: CP2K's table turned into the file pw.x reads.

Debian's Quantum ESPRESSO data has no P, Hf or S. CP2K's public table has every element, in an
analytical form that pw.x reads from a `.gth` file. Only the layout differs: pw.x wants a header
with the functional's code, and spin-orbit coefficients (zero here) after every l > 0 channel.

Reference: Hartwigsen, Goedecker, Hutter, Phys. Rev. B 58, 3641 (1998).
"""

from __future__ import annotations

from pathlib import Path

from ase.data import atomic_numbers

from siliforce.errors import ConfigError

TABLES = (Path("/usr/share/cp2k/GTH_POTENTIALS"), Path("/usr/local/share/cp2k/GTH_POTENTIALS"))
PBE_CODE = 11
HGH_CODE = 10


def find_table(tables: tuple[Path, ...] = TABLES) -> Path:
    """The GTH table on this machine.

    Raises:
        ConfigError: no table is installed.
    """
    for table in tables:
        if table.is_file():
            return table
    raise ConfigError(
        f"no GTH table found (looked at {', '.join(map(str, tables))}); "
        "install CP2K's data (Debian: apt-get install cp2k-data)"
    )


def table_entry(table: Path, element: str, charge: int) -> list[list[str]]:
    """Rows of numbers of one `<element> GTH-PBE-q<charge>` entry.

    Raises:
        ConfigError: the table has no such entry.
    """
    name = f"GTH-PBE-q{charge}"
    lines = iter(table.read_text().splitlines())
    for line in lines:
        if line.split()[:2] == [element, name]:
            break
    else:
        raise ConfigError(f"{table} has no entry '{element} {name}'")
    rows = []
    for line in lines:
        if line.startswith("#") or line[:1].isalpha():
            break
        rows.append(line.split())
    return rows


def qe_gth(element: str, charge: int, table: Path | None = None) -> str:
    """Text of the `.gth` file of one element for pw.x.

    Args:
        charge: valence electrons kept (the q in the entry's name).
    """
    rows = table_entry(table or find_table(), element, charge)
    local, n_channels = rows[1], int(rows[2][0])
    lines = [
        f"GTH-PBE-q{charge} {element}",
        f"{atomic_numbers[element]} {charge} 0",
        f"{HGH_CODE} {PBE_CODE} {n_channels - 1} 0 0 0",
        " ".join(local),
        str(n_channels),
    ]
    at = 3
    for channel in range(n_channels):
        n_projectors = int(rows[at][1])
        block = rows[at : at + max(n_projectors, 1)]
        lines += [" ".join(row) for row in block]
        if channel > 0:
            lines += [" ".join(["0.0"] * (n_projectors - i)) for i in range(n_projectors)]
        at += len(block)
    return "\n".join(lines) + "\n"
