"""Pieces found from the energy alone: both chairs of a ring from a twist-boat, both forms of an amide from one."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch

from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.pieces import piece_torsions, torsions_of
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.loading.load import load_molecule
from molsampler.molecules.molecule import Molecule
from molsampler.preparation.pieces import Pieces, PiecesConfig, _leaders, _turned_amides, find_pieces, make_atlas
from molsampler.preparation.short_md import SetupConfig
from tests.stochastic import seeded

HASTY = SetupConfig(chains=32, burn_in=0.1, length=0.2, interval=0.01)


@functools.cache
def cyclohexanol() -> Molecule:
    return load_molecule("cyclohexanol")


def torsions(degrees: list[list[float]]) -> torch.Tensor:
    return torch.tensor(degrees).deg2rad()


def test_minima_that_are_alike_are_one_piece_by_its_lowest():
    angles = torsions([[60.0, 178.0], [50.0, -175.0], [-60.0, 180.0], [60.0, 100.0], [-70.0, -178.0]])
    assert _leaders(angles) == [0, 2, 3]


def test_a_ring_is_told_apart_by_the_torsions_around_it():
    molecule = cyclohexanol()
    (ring,) = molecule.graph.flexible_rings
    quadruples = piece_torsions(molecule)
    order = molecule.graph.around(ring)
    assert sorted(order) == ring and len(quadruples) == 6
    for a, b in zip(order, order[1:] + order[:1], strict=True):
        assert b in molecule.graph.neighbours[a]
    assert {tuple(q) for q in quadruples.tolist()} == {tuple((order + order)[k : k + 4]) for k in range(6)}


def test_free_amides_are_turned_to_every_combination():
    molecule = replace(load_molecule("pro"), amides="free")
    structures = _turned_amides(molecule, Chart(molecule, dtype=torch.float64)).double()
    omega = torsions_of(structures, piece_torsions(molecule))
    signs = {tuple(row) for row in omega.cos().sign().tolist()}
    assert len(structures) == 2 ** len(molecule.free_amides) == len(signs)
    # half a circle each, and nothing else: bonds and angles at C and N are as they were
    turned = (omega - omega[:1]).cos()
    torch.testing.assert_close(turned.abs(), torch.ones_like(turned))
    internal = Chart(molecule).internal
    bonds, angles, _ = internal.to_internal(structures)
    torch.testing.assert_close(bonds, bonds[:1].expand_as(bonds))
    torch.testing.assert_close(angles, angles[:1].expand_as(angles))


@functools.cache
def chairs() -> Pieces:
    """Both chairs of cyclohexanol and its input, a twist-boat, relaxed from mirrored ring torsions: a search of its
    own."""
    molecule = cyclohexanol()
    config = PiecesConfig(chains=16, temperature=1500.0, length=2.0, quenched=4)
    return find_pieces(molecule, TorchEnergy(molecule), config, Chart(molecule), seeded(0))


@pytest.mark.slow
def test_hot_dynamics_find_both_chairs_from_a_twist_boat():
    """The lowest two minima are chairs: torsions of about 55 degrees whose signs alternate, in opposite senses."""
    found = chairs()
    lowest = torch.rad2deg(found.centres[:2])
    alternating = torch.tensor([1.0, -1.0] * 3)
    sense = (lowest * alternating).mean(1)
    assert float(sense.prod()) < 0.0
    torch.testing.assert_close(lowest, sense[:, None] * alternating, rtol=0.0, atol=5.0)
    assert bool((sense.abs() > 50.0).all()) and bool((sense.abs() < 62.0).all())
    assert bool((found.energies.diff() >= 0.0).all())
    assert float(found.energies[-1] - found.energies[0]) * cyclohexanol().beta < 10.0


@pytest.mark.slow
def test_only_minima_in_which_dynamics_stay_are_pieces():
    """A chair's mirror image of 20 degrees is a slope: MD from there leaves for the chair, and the piece is dropped."""
    molecule, found = cyclohexanol(), chairs()
    chart = Chart(molecule)
    slope = Pieces(
        found.torsions,
        torch.cat([found.centres[:2], torch.full((1, 6), math.radians(20.0)).double()]),
        torch.cat([found.minima[:2], found.minima[:1]]),
        torch.cat([found.energies[:2], found.energies[:1]]),
    )
    said: list[str] = []
    atlas = make_atlas(molecule, TorchEnergy(molecule), chart, slope, HASTY, seeded(1), said.append)
    told = "pieces: 1 of 3 minima are no pieces of their own: MD leaves them, or has too few frames there"
    assert len(atlas.charts) == 2 and said == [told]
    torch.testing.assert_close(atlas.centres, found.centres[:2])
    own = atlas.piece(found.minima[:2])
    assert own.tolist() == [0, 1]
    alone = make_atlas(molecule, TorchEnergy(molecule), chart, found.select([0]), HASTY, seeded(1))
    assert alone is chart and chart.mean is not None
