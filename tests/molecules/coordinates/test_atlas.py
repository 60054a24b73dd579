"""An atlas of pieces: closed forms of their weights, what a change of chart leaves alone, pieces that are disjoint and
everything together."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import numpy as np
import openmm
import pytest
import torch

from molsampler.basis.errors import InputError
from molsampler.molecules.coordinates import atlas as atlas_module
from molsampler.molecules.coordinates.atlas import Atlas
from molsampler.molecules.coordinates.chart import Chart
from molsampler.molecules.coordinates.pieces import nearest, piece_torsions, torsions_of
from molsampler.molecules.coordinates.stored import coordinates_from
from molsampler.molecules.dynamics.pivot import rotate
from molsampler.molecules.energy.torch_energy import TorchEnergy
from molsampler.molecules.molecule import Molecule
from molsampler.smc.annealed import AnnealConfig, annealed_smc
from molsampler.targets.molecule import MoleculeTarget
from tests.molecules.coordinates import chart_cases
from tests.stochastic import assert_mean, seeded

LENGTHS, ANGLES = (0.097, 0.145, 0.097), (1.75, 1.80)
STIFF_BOND, STIFF_ANGLE = 250_000.0, 400.0  # kJ/mol/nm^2, kJ/mol
TORSION = ((1, 0.0, 3.0), (2, math.pi, 30.0))  # period, phase, k in kJ/mol: wells at 0 and at 180 degrees


@functools.cache
def two_wells() -> Molecule:
    """Four atoms in a chain, with harmonic bonds and angles and a torsion of two wells, 2.4 RT apart."""
    made = chart_cases.hydrogen_peroxide()
    bonds, angles, torsions = openmm.HarmonicBondForce(), openmm.HarmonicAngleForce(), openmm.PeriodicTorsionForce()
    for k, length in enumerate(LENGTHS):
        bonds.addBond(k, k + 1, length, STIFF_BOND)
    for k, angle in enumerate(ANGLES):
        angles.addAngle(k, k + 1, k + 2, angle, STIFF_ANGLE)
    for period, phase, k in TORSION:
        torsions.addTorsion(0, 1, 2, 3, period, phase, k)
    for force in (bonds, angles, torsions):
        made.system.addForce(force)
    return made


def closed_form(beta: float | None = None) -> tuple[float, float]:
    """log Z of `two_wells` over both pieces, and the share of the one about 180 degrees, by quadrature; at its own
    temperature unless beta is given."""
    beta = two_wells().beta if beta is None else beta

    def integral(log_density, low, high):
        grid = np.linspace(low, high, 200_001)
        return float(np.trapezoid(np.exp(log_density(grid)), grid))

    log_z = 0.0
    for length in LENGTHS:
        width = 12.0 / math.sqrt(beta * STIFF_BOND)
        log_z += math.log(
            integral(
                lambda r, r0=length: 2.0 * np.log(r) - 0.5 * beta * STIFF_BOND * (r - r0) ** 2,
                length - width,
                length + width,
            )
        )
    for angle in ANGLES:
        log_z += math.log(
            integral(
                lambda t, t0=angle: np.log(np.sin(t)) - 0.5 * beta * STIFF_ANGLE * (t - t0) ** 2, 1e-6, math.pi - 1e-6
            )
        )

    def torsion(t):
        return -beta * sum(k * (1.0 + np.cos(n * t - phase)) for n, phase, k in TORSION)

    far, near = integral(torsion, 0.5 * math.pi, 1.5 * math.pi), integral(torsion, -0.5 * math.pi, 0.5 * math.pi)
    return log_z + math.log(far + near), far / (far + near)


def structures(torsions: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """(n, 4, 3) nm: chains with these torsions (n,), bonds and angles scattered as they are at 300 K."""
    n, beta, g = len(torsions), two_wells().beta, seeded(seed)
    scatter = [torch.randn(n, 3, generator=g, dtype=torch.float64), torch.randn(n, 2, generator=g, dtype=torch.float64)]
    bonds = torch.tensor(LENGTHS, dtype=torch.float64) + scatter[0] / math.sqrt(beta * STIFF_BOND)
    angles = torch.tensor(ANGLES, dtype=torch.float64) + scatter[1] / math.sqrt(beta * STIFF_ANGLE)
    chart = Chart(two_wells(), soft=[], dtype=torch.float64)
    z = chart.zmatrix
    order = [[tuple(sorted(row)) for row in z.bond_atoms.tolist()].index((k, k + 1)) for k in range(3)]
    bonds = bonds[:, torch.tensor(order).argsort()]
    middle = torch.tensor([row[1] - 1 for row in z.angle_atoms.tolist()])
    return chart.internal.to_cartesian(bonds, angles[:, middle], torsions.double()[:, None])


@functools.cache
def atlas() -> Atlas:
    """Of `two_wells`: pieces about 180 and 0 degrees, each standardised on frames of its own."""
    made = Atlas(
        Chart(two_wells(), soft=[]),
        torch.tensor([[0, 1, 2, 3]]),
        torch.tensor([[math.pi], [0.0]], dtype=torch.float64),
    )
    spread = torch.randn(2000, generator=seeded(1))
    return made.fit(structures(torch.cat([0.25 * spread + math.pi, 0.5 * spread])).float())


def assert_those_of_quadrature(made) -> None:
    """log Z and the shares of the pieces of `two_wells` on these coordinates, by 24 independent annealings from the
    prior, whose mean Z and mean Z times share have standard errors."""
    energy = TorchEnergy(two_wells())
    energy.piece = 384  # all particles at once, and none more for padding
    target = MoleculeTarget(two_wells(), made, energy, compile=False)
    log_z, share = closed_form()
    assert 0.05 < share < 0.95
    found = []
    for seed in range(24):
        config = AnnealConfig(particles=384, moves=3, last_moves=3)
        one = annealed_smc(target.log_prob_and_score, target.space, config, seeded(seed), explore=False)
        there = float((one.state.x[:, -1] == 0).double().mean())
        found.append([math.exp(one.log_z - log_z), math.exp(one.log_z - log_z) * there])
    assert_mean(torch.tensor(found), torch.tensor([1.0, share]))
    assert float(torch.tensor(found).std(0)[0]) < 0.1  # or the test would see nothing


def test_the_shares_of_the_pieces_and_log_z_are_those_of_quadrature():
    assert_those_of_quadrature(atlas())


def test_log_r_of_a_conformation_does_not_depend_on_the_charts():
    """log R - log |dx/dz| is -beta U of the same positions under every standardisation, and the determinant that of a
    single chart standardised alike."""
    made, molecule = atlas(), two_wells()
    x = structures(torch.linspace(-3.1, 3.1, 60))
    own = Atlas(Chart(molecule, soft=[], dtype=torch.float64), made.torsions, made.centres)
    own.load_state_dict(made.state_dict())
    other = Atlas(Chart(molecule, soft=[], dtype=torch.float64), made.torsions, made.centres)
    other.standardise(made.charts[1].mean + 0.01, 2.0 * made.charts[0].covariance)
    energy = TorchEnergy(molecule, dtype=torch.float64)
    for coordinates in (own, other):
        z = coordinates.to_standard(x)
        back, log_det = coordinates.to_natural(z)
        assert chart_cases.aligned_error(back, x) < 1e-9
        target = MoleculeTarget(molecule, coordinates, energy, compile=False)
        expected = -molecule.beta * energy.energy(x) + log_det
        torch.testing.assert_close(target.log_prob(z), expected, rtol=0.0, atol=1e-7)
        for k, chart in enumerate(coordinates.charts):
            rows = z[:, -1] == k
            assert 20 < int(rows.sum()) < 40
            alone = Chart(molecule, soft=[], dtype=torch.float64).standardise(chart.mean, chart.covariance)
            torch.testing.assert_close(z[rows, :-1], alone.to_standard(x[rows]))
            torch.testing.assert_close(log_det[rows], alone.to_natural(z[rows, :-1])[1])


@functools.cache
def peptide() -> tuple[Molecule, torch.Tensor]:
    """Alanine dipeptide with free amides, and frames of all four combinations of cis and trans, (4, 200, 22, 3)."""
    molecule = replace(chart_cases.alanine_dipeptide(), amides="free")
    frames = chart_cases.langevin_frames()
    found = []
    for turned in ((False, False), (True, False), (False, True), (True, True)):
        x = frames.clone()
        for (_, c, n, _), flip in zip(molecule.free_amides, turned, strict=True):
            if flip:
                beyond = molecule.graph.beyond(c, n)
                whole = rotate(x, x[:, c], x[:, n], torch.full((len(x),), math.pi, dtype=x.dtype))
                x[:, beyond] = whole[:, beyond]
        found.append(x)
    return molecule, torch.stack(found)


@functools.cache
def amide_atlas() -> Atlas:
    molecule, frames = peptide()
    torsions = piece_torsions(molecule)
    centres = torsions_of(frames.mean(1), torsions).cos().sign().arccos()
    return Atlas(Chart(molecule, dtype=torch.float64), torsions, centres).fit(frames.flatten(0, 1))


def test_pieces_are_disjoint_and_complete():
    """Every conformation has one piece, and with any other label it is off the support."""
    made, (_, frames) = amide_atlas(), peptide()
    x = frames.flatten(0, 1)[::7]
    z = made.to_standard(x)
    assert torch.equal(z[:, -1], torch.arange(4).repeat_interleave(200)[::7].double())
    assert bool(made.inside(z, x).all()) and bool(made.inside(z).all())
    for k, chart in enumerate(made.charts):
        as_piece = torch.cat([chart.to_standard(x), torch.full((len(x), 1), float(k), dtype=x.dtype)], 1)
        torch.testing.assert_close(
            torsions_of(made.to_natural(as_piece)[0], made.torsions).cos(), torsions_of(x, made.torsions).cos()
        )
        assert torch.equal(made.inside(as_piece), z[:, -1] == k)
    # nowhere on the support of two labels, and wherever a chart reaches there is a piece: the label's, or not
    drawn = made.space.sample_prior(4000, seeded(3), dtype=torch.float64)
    positions, _ = made.to_natural(drawn)
    own = made.piece(positions)
    assert torch.equal(made.inside(drawn) & (own != drawn[:, -1]), torch.zeros(4000, dtype=torch.bool))
    agreed = own == drawn[:, -1]
    assert 0.5 < float(agreed.double().mean()) <= 1.0
    torch.testing.assert_close(made.to_standard(positions[agreed]), drawn[agreed], rtol=1e-6, atol=1e-6)


def test_the_score_is_the_gradient_of_log_r():
    molecule, _ = peptide()
    made = Atlas(Chart(molecule, dtype=torch.float64), amide_atlas().torsions, amide_atlas().centres)
    state = amide_atlas().state_dict()
    for k, chart in enumerate(state["charts"]):
        chart["covariance"] = chart["covariance"] * (1.0 + 0.5 * k)
    made.load_state_dict(state)
    target = MoleculeTarget(molecule, made, TorchEnergy(molecule, dtype=torch.float64), compile=False)
    z = made.to_standard(peptide()[1][:, ::60].flatten(0, 1))
    log_r, score = target.log_prob_and_score(z)
    assert bool(torch.isfinite(log_r).all()) and bool((score[:, -1] == 0).all())
    z.requires_grad_()
    (expected,) = torch.autograd.grad(target.log_prob(z).sum(), z)
    torch.testing.assert_close(score, expected, rtol=1e-6, atol=1e-5)


def test_a_piece_of_few_frames_keeps_its_standardisation():
    made, frames = amide_atlas(), peptide()[1]
    again = Atlas(Chart(peptide()[0], dtype=torch.float64), made.torsions, made.centres)
    again.load_state_dict(made.state_dict())
    again.fit(torch.cat([frames[0].repeat(4, 1, 1), frames[1, :80]]) * 1.01)
    assert not torch.equal(again.charts[0].mean, made.charts[0].mean)
    assert torch.equal(again.charts[1].mean, made.charts[1].mean)
    fresh = Atlas(Chart(peptide()[0]), made.torsions, made.centres)
    with pytest.raises(InputError, match="0 frames cannot give a covariance"):
        fresh.fit(frames[0].float())


def test_what_is_stored_comes_back_and_fits_its_molecule():
    made, (molecule, frames) = amide_atlas(), peptide()
    again = coordinates_from(molecule, made.state_dict(), torch.float64)
    assert isinstance(again, Atlas)
    x = frames[:, ::50].flatten(0, 1)
    assert torch.equal(again.to_standard(x), made.to_standard(x))
    plain = coordinates_from(molecule, made.charts[0].state_dict())
    assert isinstance(plain, Chart)
    with pytest.raises(InputError, match="not those of 2 pieces"):
        Atlas(made.charts[0], made.torsions, made.centres[:2]).load_state_dict(made.state_dict())
    with pytest.raises(InputError, match="other torsions"):
        Atlas(made.charts[0], made.torsions.flip(0), made.centres).load_state_dict(made.state_dict())


def test_nearest_has_no_seam():
    centres = torch.tensor([[3.1, 0.0], [0.0, 0.0]])
    torsions = torch.tensor([[-3.1, 0.3], [0.2, -0.2], [1.5, 0.0], [1.6, 0.0]])
    assert nearest(torsions, centres).tolist() == [0, 1, 1, 0]


def test_amides_in_rings_and_kept_ones_are_no_pieces():
    assert len(piece_torsions(chart_cases.alanine_dipeptide())) == 0
    assert piece_torsions(peptide()[0]).tolist() == [list(q) for q in peptide()[0].free_amides]
    assert len(piece_torsions(replace(chart_cases.toluene(), amides="free"))) == 0


def test_pieces_are_refined_and_their_methyls_turned_each_by_its_own_chart(monkeypatch):
    """Alanine dipeptide, cut in two at the middle of phi: charts nearer to normal, the same log R up to the charts'
    determinants, and turned states in their pieces at the same log R, with the score that belongs there."""
    monkeypatch.setattr(atlas_module, "REFINED_FRAMES", 1)
    molecule, x = chart_cases.alanine_dipeptide(), chart_cases.langevin_frames()
    phi = torch.tensor([[4, 6, 8, 14]])
    middle = torsions_of(x, phi).median() + 1e-4  # no frame lies on the cut
    made = Atlas(Chart(molecule, dtype=torch.float64), phi, torch.stack([middle - 0.5, middle + 0.5])[:, None]).fit(x)
    target = MoleculeTarget(molecule, made, TorchEnergy(molecule, dtype=torch.float64, compile=False), compile=False)
    z = made.to_standard(x)
    log_r, score = target.log_prob_and_score(z)
    assert set(z[:, -1].tolist()) == {0.0, 1.0} and bool(torch.isfinite(log_r).all())

    def excess(z: torch.Tensor, score: torch.Tensor) -> float:
        return float((z + score)[:, : made.n_stiff].square().mean())

    before, dets = excess(z, score), [chart.affine[2] for chart in made.charts]
    assert made.refine(z, score) is made and made.refines
    z = made.to_standard(x)
    new_log_r, score = target.log_prob_and_score(z)
    shift = torch.tensor([chart.affine[2] - det for chart, det in zip(made.charts, dets, strict=True)]).double()
    assert float(shift.abs().min()) > 1e-3
    torch.testing.assert_close(new_log_r, log_r + shift[z[:, -1].long()], rtol=0.0, atol=1e-6)
    assert excess(z, score) < 0.9 * before
    turned, turned_log_r, turned_score = target.symmetrised(z, new_log_r, score, seeded(0))
    assert len(target.rotors) == 3 and torch.equal(turned[:, -1], z[:, -1])
    expected_log_r, expected = target.log_prob_and_score(turned)
    torch.testing.assert_close(expected_log_r, turned_log_r, rtol=0.0, atol=1e-6)
    assert torch.equal(turned_log_r, new_log_r)
    assert float((turned_score - expected).abs().max()) < 1e-8 * float(expected.abs().max())
