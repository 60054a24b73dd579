"""Alanine dipeptide with torsions set by hand: conformations whose phi and psi are known without any simulation."""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj as md
import networkx
import numpy as np
from openmm import unit

from molsampler.analysis.observables.torsions import BackbonePair, backbone_pairs
from molsampler.molecules.loading.quiet_import import import_testsystems


def rotate_torsion(positions: np.ndarray, topology: md.Topology, quadruple: tuple, target: np.ndarray) -> np.ndarray:
    """positions (n, N, 3) nm with the torsion `quadruple` set to target (n,) radians, by Rodrigues' formula."""
    _, left, right, _ = quadruple
    graph = networkx.Graph([(a.index, b.index) for a, b in topology.bonds])
    graph.remove_edge(left, right)
    moving = np.array(sorted(networkx.node_connected_component(graph, right)))
    axis = positions[:, right] - positions[:, left]
    axis = axis / np.linalg.norm(axis, axis=-1, keepdims=True)
    p = positions[:, list(quadruple)]
    b0, b2 = p[:, 0] - p[:, 1], p[:, 3] - p[:, 2]
    v = b0 - (b0 * axis).sum(-1, keepdims=True) * axis
    w = b2 - (b2 * axis).sum(-1, keepdims=True) * axis
    now = np.arctan2((np.cross(axis, v) * w).sum(-1), (v * w).sum(-1))
    angle = (target - now)[:, None, None]
    k = axis[:, None]  # (n, 1, 3)
    r = positions[:, moving] - positions[:, right][:, None]
    turned = (
        r * np.cos(angle) + np.cross(k, r) * np.sin(angle) + k * (r * k).sum(-1, keepdims=True) * (1 - np.cos(angle))
    )
    result = positions.copy()
    result[:, moving] = turned + positions[:, right][:, None]
    return result


@dataclass
class Peptide:
    """topology (mdtraj), openmm_topology, positions (22, 3) nm, the residue's phi and psi, and a methyl rotor."""

    topology: md.Topology
    openmm_topology: object
    positions: np.ndarray
    pair: BackbonePair
    methyl: tuple[int, int, int, int]

    def frames(self, angles: np.ndarray) -> np.ndarray:
        """(n, 22, 3) nm with phi and psi set to angles (n, 2), radians."""
        positions = np.repeat(self.positions[None], len(angles), 0)
        positions = rotate_torsion(positions, self.topology, self.pair.phi, angles[:, 0])
        return rotate_torsion(positions, self.topology, self.pair.psi, angles[:, 1])


def make_peptide() -> Peptide:
    system = import_testsystems().AlanineDipeptideImplicit(constraints=None)
    topology = md.Topology.from_openmm(system.topology)
    pair = backbone_pairs(topology)[0]
    hydrogen = next(a.index for a in topology.atoms if a.residue.name == "ACE" and a.element.symbol == "H")
    carbon = next(a.index for a in topology.atoms if a.residue.name == "ACE" and a.name == "CH3")
    carbonyl, nitrogen = pair.phi[0], pair.phi[1]
    positions = np.array(system.positions.value_in_unit(unit.nanometer))
    return Peptide(topology, system.topology, positions, pair, (hydrogen, carbon, carbonyl, nitrogen))


MODES = np.deg2rad([[-80.0, 75.0], [-150.0, 160.0], [-70.0, -35.0], [55.0, 45.0]])  # C7eq, C5, alphaR, alphaL


class Mixture:
    """Wrapped Gaussians of `width` radians at MODES."""

    modes = MODES

    def __call__(
        self, rng: np.random.Generator, n: int, weights: list[float], width: float = 0.25
    ) -> tuple[np.ndarray, np.ndarray]:
        """Angles (n, 2) radians and the mode (n,) that each comes from."""
        mode = rng.choice(len(MODES), size=n, p=weights)
        angles = MODES[mode] + width * rng.normal(size=(n, 2))
        return (angles + np.pi) % (2 * np.pi) - np.pi, mode
