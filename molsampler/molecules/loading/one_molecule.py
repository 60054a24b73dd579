"""Whether bonds join all atoms; waters, ions, unconnected atoms and further molecules are refused by name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from openmm import app

from molsampler.basis.errors import InputError
from molsampler.molecules.topology import graph_of, residue_label

WATER = {"HOH", "WAT", "H2O", "SOL", "DOD", "TIP", "TP3", "TIP3", "TIP3P", "TIP4", "TIP5", "SPC"}
ALONE = "one molecule is sampled alone, in vacuum or implicit solvent"
_REMEDIES = {
    "pdb": "take them out of the PDB file, or let `molsampler new ... --fix` do it",
    "prmtop": "strip them with cpptraj or ParmEd",
    "system_xml": "make the System without them",
    "openmmtools": "choose a test system without them",
}
_NAMED = 4  # examples in a message

Residue = app.topology.Residue


def refuse_several(topology: app.Topology, bonds: Sequence[tuple[int, int]], what: str, source: str) -> None:
    """InputError naming waters, ions, unconnected atoms and further molecules, unless bonds join all atoms.

    what : names the structure in messages
    source : the first key of the system.toml's source, for the advice: "pdb", "prmtop", "system_xml" or "openmmtools"
    """
    graph = graph_of(topology, bonds)
    parts = graph.parts
    if len(parts) <= 1:
        return
    atoms = list(topology.atoms())
    _refuse_solvent(atoms, parts, what, source)
    _refuse_unbonded(atoms, parts, graph.labels, what)
    words = [_stretch(atoms, part) for part in parts[:_NAMED]] + ["..."] * (len(parts) > _NAMED)
    chains = len({atoms[part[0]].residue.chain for part in parts}) > 1
    advice = "keep one, in a PDB file with `molsampler new ... --chains A`" if chains else "give one connected molecule"
    raise InputError(f"{what} is {len(parts)} disconnected molecules ({'; '.join(words)}); {ALONE}: {advice}")


def is_water(residues: Iterable[Residue]) -> bool:
    return all(residue.name.upper() in WATER for residue in residues)


def is_ion(atoms: list[app.topology.Atom], part: list[int]) -> bool:
    """Whether the part is one atom that is a residue of its own."""
    return len(part) == 1 and len(list(atoms[part[0]].residue.atoms())) == 1


def _refuse_solvent(atoms: list, parts: list[list[int]], what: str, source: str) -> None:
    waters = {residue for part in parts if is_water(own := {atoms[i].residue for i in part}) for residue in own}
    ions = Counter(
        atoms[part[0]].residue.name for part in parts if is_ion(atoms, part) and not is_water([atoms[part[0]].residue])
    )
    found = []
    if waters:
        found.append(f"water ({len(waters)} molecules)")
    if ions and ions.total() < len(parts):  # argon atoms alone are a cluster, no ions
        found.append(f"ions ({', '.join(f'{count} {name}' for name, count in ions.items())})")
    if found:
        raise InputError(f"{what} holds {' and '.join(found)}; {ALONE}: {_REMEDIES[source]}")


def _refuse_unbonded(atoms: list, parts: list[list[int]], labels: Sequence[str], what: str) -> None:
    loose = [atoms[part[0]] for part in parts if len(part) == 1 and not is_ion(atoms, part)]
    if not loose:
        return
    names = ", ".join(labels[atom.index] for atom in loose[:_NAMED]) + (", ..." if len(loose) > _NAMED else "")
    unknown = [r for r in dict.fromkeys(atom.residue for atom in loose) if not any(len(b) for b in r.internal_bonds())]
    if unknown:
        raise InputError(
            f"{what}: residue {residue_label(unknown[0])} is not a standard one, and no CONECT records tell the "
            f"bonds of its atoms ({names}): rename it if a standard one is meant, let --fix replace it by one, or add "
            "the CONECT records (in mmCIF: chem_comp_bond)"
        )
    raise InputError(
        f"{what}: no bond joins {names} to any other atom; check the names of the atoms, or give their bonds in CONECT "
        "records (in mmCIF: struct_conn)"
    )


def _stretch(atoms: list, part: list[int]) -> str:
    first, last = atoms[part[0]].residue, atoms[part[-1]].residue
    ends = residue_label(first) + (f" to {residue_label(last)}" if last is not first else "")
    return f"chain {first.chain.id}, {ends}, {len(part)} atom{'s' if len(part) > 1 else ''}"
