"""Peptides from their sequence alone: topology from the force field's templates, coordinates from its ideal geometry.

Atoms are placed one after the other at the force field's bond lengths and angles, chains extended, amides trans, rings
flat, stereocentres as in the L amino acids, and the structure is minimised by OpenMM. Nothing of molsampler's own
coordinates takes part, so that tests of them start from structures that they did not make.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from collections.abc import Sequence

import networkx
import numpy as np
import openmm
from openmm import app, unit
from scipy.optimize import least_squares

from molsampler.molecules.molecule import Molecule

# Neighbours a, b, c of a stereocentre with (a x b) . c > 0 seen from it. CA is S (CYS too, whose side chain outranks C
# and which is called R for it); CB of THR is R, that of ILE is S.
ALPHA = ("N", "C", "CB")
BETA = {"THR": ("OG1", "CG2", "CA"), "ILE": ("CA", "CG1", "CG2")}
PHI, PHI_PROLINE, PSI = -140.0, -70.0, 140.0  # degrees, of an extended chain
CLOSURES = 12  # starting points for a ring of residues

Torsions = dict[tuple[int, int], float]


@functools.cache
def force_field(*names: str) -> app.ForceField:
    """An OpenMM force field; loaded once."""
    return app.ForceField(*names)


@functools.cache
def build(sequence: str, *names: str, cyclic: bool = False) -> Molecule:
    """A minimised molecule at 300 K in the force field of those XML files.

    sequence : names of residue templates, such as "ACE ALA HID NME", joined from C to N, the last to the first if
        `cyclic`; a single one may be any molecule that the force field has
    Raises RuntimeError if minimisation has turned over a stereocentre or an amide, or left a bond long.
    """
    field = force_field(*names)
    topology = chain_topology(sequence.split(), field, cyclic)
    templates = {residue: residue.name for residue in topology.residues()}  # several may fit one residue
    system = field.createSystem(topology, nonbondedMethod=app.NoCutoff, residueTemplates=templates)
    ideal = _Ideal(topology, system)
    positions = ideal.closed() if cyclic else relax(system, ideal.place(ideal.extended()))[0]
    faults = ideal.faults(positions)
    if faults:
        raise RuntimeError(f"{sequence} came out wrong: {', '.join(faults)}")
    return Molecule(sequence, topology, system, positions, 300.0)


def chain_topology(residues: Sequence[str], field: app.ForceField, cyclic: bool = False) -> app.Topology:
    """One chain of those templates, joined from C to N."""
    topology = app.Topology()
    chain = topology.addChain("A")
    named = []
    for name in residues:
        template = field._templates[name]
        residue = topology.addResidue(name, chain)
        atoms = [topology.addAtom(a.name, a.element, residue) for a in template.atoms]
        for i, j in template.bonds:
            topology.addBond(atoms[i], atoms[j])
        named.append({a.name: a for a in atoms})
    for before, after in itertools.pairwise(named + named[:1] if cyclic else named):
        topology.addBond(before["C"], after["N"])
    return topology


def relax(system: openmm.System, positions: np.ndarray, tolerance: float = 0.5) -> tuple[np.ndarray, float]:
    """The nearest minimum of positions (N, 3) nm and its energy in kJ/mol; tolerance in kJ/mol/nm.

    Atoms are shaken a little first: a flat molecule would stay flat, minimum or not.
    """
    shaken = positions + np.random.default_rng(0).normal(0.0, 0.002, positions.shape)
    platform = openmm.Platform.getPlatformByName("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(shaken)
    openmm.LocalEnergyMinimizer.minimize(context, tolerance)
    state = context.getState(positions=True, energy=True)
    energy = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
    return np.array(state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)), energy


class _Ideal:
    """Atoms at ideal bond lengths and angles along a tree of bonds that starts at an atom of one neighbour."""

    def __init__(self, topology: app.Topology, system: openmm.System) -> None:
        self.system = system
        self.atoms = list(topology.atoms())
        self.named = [{a.name: a.index for a in r.atoms()} for r in topology.residues()]
        bonds = [(b.atom1.index, b.atom2.index) for b in topology.bonds()]
        # A ring of residues is opened where it begins.
        ends = self.named[-1].get("C"), self.named[0].get("N")
        self.cyclic = len(self.named) > 1 and ends in bonds
        self.cis = self.cyclic and len(self.named) < 4  # so small a ring has no room for a trans amide
        self.bonds = bonds
        self.graph = networkx.Graph(b for b in bonds if not (self.cyclic and b == ends))
        self.degree = networkx.Graph(bonds).degree
        self.rings = [set(ring) for ring in networkx.minimum_cycle_basis(self.graph)]
        self.lengths, self.angles = _equilibrium(system)
        self.parent: dict[int, int] = {}
        self.children: dict[int, list[int]] = {}
        self._grow()
        self.turns = dict.fromkeys(self.graph, 1.0)  # which way round the second child of an atom comes
        x = self.place({})
        for centre, three in self.stereocentres():
            self.turns[centre] = np.sign(_triple(x, centre, three))

    def _grow(self) -> None:
        root = next(a.index for a in self.atoms if self.degree(a.index) == 1)
        self.parent[root] = -1
        queue = deque([root])
        while queue:
            b = queue.popleft()
            self.children[b] = sorted((k for k in self.graph[b] if k not in self.parent), key=self._rank)
            self.parent.update(dict.fromkeys(self.children[b], b))
            queue.extend(self.children[b])

    def _rank(self, k: int) -> tuple:
        atom = self.atoms[k]
        return atom.element.symbol == "H", atom.name not in ("N", "CA", "C"), k

    def stereocentres(self) -> list[tuple[int, tuple[int, ...]]]:
        """Each with three neighbours in their right-handed order."""
        found = []
        for atom in self.atoms:
            names = ALPHA if atom.name == "CA" else BETA.get(atom.residue.name) if atom.name == "CB" else None
            here = self.named[atom.residue.index]
            if names and here.keys() >= set(names):
                found.append((atom.index, tuple(here[n] for n in names)))
        return found

    def extended(self) -> Torsions:
        """Torsions in radians about the bonds N-CA and CA-C, and about C-N where it is to be cis."""
        torsions = {}
        for residue in self.named:
            if residue.keys() >= {"N", "CA", "C"}:
                n, ca, c = (residue[k] for k in ("N", "CA", "C"))
                torsions[n, ca] = np.radians(PHI_PROLINE if self._ringed(n, ca) else PHI)
                torsions[ca, c] = np.radians(PSI)
        if self.cis:
            torsions |= {(before["C"], after["N"]): 0.0 for before, after in itertools.pairwise(self.named)}
        return torsions

    def _ringed(self, *atoms: int) -> bool:
        return any(ring.issuperset(atoms) for ring in self.rings)

    def place(self, torsions: Torsions) -> np.ndarray:
        """(N, 3) nm with these torsions about bonds of the main chain, the others chosen."""
        x = np.zeros((len(self.atoms), 3))
        for b, children in self.children.items():  # parents before children
            c = self.parent[b]
            d = self.parent[c] if c >= 0 else -1
            beyond = x[d] if d >= 0 else np.array([0.1, 0.1, 0.0])
            steps = (0.0, np.pi) if self.degree(b) < 4 else np.radians((0.0, 120.0, -120.0)) * self.turns[b]
            for a, step in zip(children, steps, strict=False):
                length = self.lengths[frozenset((a, b))]
                if c < 0:
                    x[a] = length, 0.0, 0.0
                    continue
                torsion = step + torsions.get((c, b), self._torsion(children[0], b, c, d))
                x[a] = _next_atom(beyond, x[c], x[b], length, self.angles[a, b, c], torsion)
        return x

    def _torsion(self, a: int, b: int, c: int, d: int) -> float:
        if self._ringed(a, b, c, d):
            return 0.0 if self.degree(b) < 4 and self.degree(c) < 4 else np.radians(30.0)
        across = self.degree(b) == 3 and self.degree(c) == 4
        return np.pi / 2 if across and self._ringed(a, b) else np.pi

    def closed(self) -> np.ndarray:
        """The lowest of the minima near chains whose ends meet; seeded starting points."""
        generator = np.random.default_rng(0)
        found = []
        keys = tuple(self.extended())
        for _ in range(CLOSURES):
            guess = generator.uniform(-np.pi, np.pi, len(keys))
            fit = least_squares(lambda t: self._misfit(dict(zip(keys, t, strict=True))), guess, max_nfev=60)
            x, energy = relax(self.system, self.place(dict(zip(keys, fit.x, strict=True))))
            if not self.faults(x):
                found.append((energy, x))
        if not found:
            raise RuntimeError("no chain closed to a ring")
        return min(found, key=lambda pair: pair[0])[1]

    def _misfit(self, torsions: Torsions) -> np.ndarray:
        """How far the ends are from an amide, and atoms from being 0.2 nm apart; all in nm."""
        x = self.place(torsions)
        first, last = self.named[0], self.named[-1]
        wanted = {("C", "N"): 0.134, ("CA", "N"): 0.243, ("C", "CA"): 0.243, ("O", "N"): 0.225}
        wanted["CA", "CA"] = 0.29 if self.cis else 0.38
        ends = [np.linalg.norm(x[last[i]] - x[first[j]]) - r for (i, j), r in wanted.items()]
        i, j = np.triu_indices(len(x), 1)
        return np.concatenate((ends, 0.3 * np.clip(0.2 - np.linalg.norm(x[i] - x[j], axis=1), 0.0, None)))

    def faults(self, x: np.ndarray) -> list[str]:
        """What of x (N, 3) nm is not as it was to be built, in words."""
        faults = [f"handedness of {self.atoms[c]}" for c, three in self.stereocentres() if _triple(x, c, three) <= 0.0]
        for i, j in self.bonds:
            if abs(np.linalg.norm(x[i] - x[j]) - self.lengths[frozenset((i, j))]) > 0.01:
                faults.append(f"bond {self.atoms[i]} {self.atoms[j]}")
        for before, after in itertools.pairwise(self.named + self.named[:1] if self.cyclic else self.named):
            beside = [residue.get("CA", residue.get("CH3")) for residue in (before, after)]
            cosine = np.cos(_dihedral(*(x[k] for k in (beside[0], before["C"], after["N"], beside[1]))))
            if (cosine if self.cis else -cosine) < 0.7:
                faults.append(f"amide {self.atoms[before['C']]}")
        return faults


def _equilibrium(system: openmm.System) -> tuple[dict[frozenset[int], float], dict[tuple[int, int, int], float]]:
    """Bond lengths in nm and angles in radians (both ways round) of the force field."""
    lengths, angles = {}, {}
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            for n in range(force.getNumBonds()):
                i, j, length, _ = force.getBondParameters(n)
                lengths[frozenset((i, j))] = length.value_in_unit(unit.nanometer)
        elif isinstance(force, openmm.HarmonicAngleForce):
            for n in range(force.getNumAngles()):
                i, j, k, angle, _ = force.getAngleParameters(n)
                angles[i, j, k] = angles[k, j, i] = angle.value_in_unit(unit.radian)
    return lengths, angles


def _next_atom(d: np.ndarray, c: np.ndarray, b: np.ndarray, length: float, angle: float, torsion: float) -> np.ndarray:
    """Where an atom a stands at that distance from b, with that angle a-b-c and torsion a-b-c-d (IUPAC sign)."""
    axis = (b - c) / np.linalg.norm(b - c)
    normal = np.cross(c - d, axis)
    normal /= np.linalg.norm(normal)
    side = np.cross(normal, axis)
    across = np.cos(torsion) * side + np.sin(torsion) * normal
    return b + length * (np.sin(angle) * across - np.cos(angle) * axis)


def _triple(x: np.ndarray, centre: int, three: Sequence[int]) -> float:
    a, b, c = (x[k] - x[centre] for k in three)
    return float(np.cross(a, b) @ c)


def _dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> float:
    u, v, w = b - a, c - b, d - c
    return float(np.arctan2(np.linalg.norm(v) * u @ np.cross(v, w), np.cross(u, v) @ np.cross(v, w)))
