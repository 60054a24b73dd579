"""The chart z of a molecule's conformations modulo rigid motions: standardised line coordinates and soft torsions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from molsampler.basis.coordinates import Coordinates
from molsampler.basis.errors import InputError
from molsampler.basis.space import Coordinate, Space
from molsampler.molecules.coordinates.internal import InternalCoordinates, log_abs_det, log_abs_det_slopes, wrap
from molsampler.molecules.coordinates.placement import Placed
from molsampler.molecules.coordinates.rotors import Rotor, RotorColumns, find_rotors
from molsampler.molecules.coordinates.soft import SOFT_BARRIER, Axis, soft_torsions
from molsampler.molecules.coordinates.stereo import Stereochemistry
from molsampler.molecules.coordinates.whitening import modes_last, nearest_normal
from molsampler.molecules.coordinates.zmatrix import ZMatrix, build_zmatrix
from molsampler.molecules.molecule import Molecule

SMALLEST_EIGENVALUE = 1e-9  # of the correlation matrix, whose mean eigenvalue is 1


class Charted(NamedTuple):
    """States of a chart as molecules in space, the batch last, and what `Chart.pull_back` needs.

    placed : atoms and the frames they were placed by; `placed.positions` is (3, N, B) nm
    log_det : (B,), log |dx/dz|
    bonds, angles : (N, B) nm and radians, one row an atom; rows that have none hold zeros
    taken : (K, B), 1 at the piece of an atlas that a state lies in, 0 elsewhere; None of a single chart
    stretch : (B,), of the line by temperature; None of a chart for one temperature
    modes : (n_modes, B), the modes of a `ModeChart`
    """

    placed: Placed
    log_det: Tensor
    bonds: Tensor
    angles: Tensor
    taken: Tensor | None = None
    stretch: Tensor | None = None
    modes: Tensor | None = None


class Chart(Coordinates):
    """Coordinates z (B, dim): first `n_stiff` standardised ones on the line, then `n_soft` soft torsions in (-pi, pi],
    less what `shear` makes of the stiff coordinates.

    The raw stiff coordinates (bonds in nm, angles and stiff torsions in radians) are mean + S z with S S^T their
    covariance; S = diag(standard deviations) sqrt(correlation), symmetric but for units, so that z_i stays as close as
    it can to raw coordinate i. Where modes are asked for, S is turned so that the last of the stiff coordinates are
    those along which the density is least normal (`modes.py`). What is measured is kept in float64; z and positions
    have the chart's dtype and device.

    names : a readable name for each coordinate of z, such as "bond ALA2-CA ALA2-CB"
    soft_atoms : (n_soft, 4) int64, the atoms of each soft torsion
    mean, covariance : (n_stiff,), (n_stiff, n_stiff) float64, None until `fit` or `load_state_dict`
    condition_number : of the correlation matrix
    information : (n_stiff, n_stiff) float64, E[s s^T] of the scores s of the standardised coordinates that `refine` was
        given, None before
    spreads : (n_modes,) float64, standard deviations along the modes, 1 until `refine` has told
    """

    def __init__(
        self,
        molecule: Molecule,
        soft: Sequence[Axis] | None = None,
        barrier: float = SOFT_BARRIER,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        """`soft` and `barrier` (in RT) choose the soft torsions, as in `soft_torsions`; the same InputErrors."""
        self.zmatrix = build_zmatrix(molecule)
        self.internal = InternalCoordinates(self.zmatrix)
        self.stereo = Stereochemistry.from_molecule(molecule)
        self.n_atoms = molecule.n_atoms
        is_soft = torch.as_tensor(soft_torsions(molecule, self.zmatrix, soft, barrier))
        n = self.n_atoms
        self._n_rigid = 2 * n - 3  # bonds and angles
        self.dim = self._n_rigid + n - 3
        # Index of each coordinate of z in the list of all bonds, then all angles, then all torsions.
        torsions = torch.arange(self._n_rigid, self.dim)
        self._raw_index = torch.cat([torch.arange(self._n_rigid), torsions[~is_soft], torsions[is_soft]])
        self.n_soft = int(is_soft.sum())
        self.n_stiff = self.dim - self.n_soft
        start = torch.as_tensor(molecule.positions)[None]
        # turning the two hydrogens of an amide that keeps its side would lead off the support
        found = find_rotors(molecule, self.zmatrix, is_soft)
        self.rotors = [rotor for rotor in found if bool(self.stereo.matches(start[:, rotor.turned(n)])[0])]
        self.soft_atoms = _oriented(torch.as_tensor(self.zmatrix.torsion_atoms)[is_soft])
        self._space = Space.of(self.n_stiff, self.n_soft, _table(molecule, self.zmatrix, self._raw_index))
        self.names = [coordinate.name for coordinate in self.space.table]
        self.mean: Tensor | None = None
        self.covariance: Tensor | None = None
        self.shear = torch.zeros(self.n_soft, self.n_stiff, dtype=torch.float64)
        self.condition_number = math.nan
        self.rotation: Tensor | None = None
        self.information: Tensor | None = None
        self.spreads = torch.ones(0, dtype=torch.float64)
        self.to(dtype, device)

    @property
    def space(self) -> Space:
        return self._space

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Chart:
        """Changes the dtype and device of z and positions, from the float64 measurements; returns self."""
        self.dtype = dtype or self.dtype
        self.device = torch.device(device) if device is not None else self.device
        self.internal.to(self.device)
        self.stereo = self.stereo.to(self.device)
        if self.mean is not None:
            self._install()
        return self

    # Standardisation

    def fit(self, positions: Tensor, weights: Tensor | None = None) -> Chart:
        """Standardises the stiff coordinates by their mean and covariance over frames (M, N, 3) nm; returns self.

        weights : (M,), non-negative, need not be normalised.
        Stiff torsions are unwrapped about their circular mean. Raises InputError for too few frames, non-finite frames
        or weights, and a covariance that is not positive definite; nothing is regularised.
        """
        w = self._frame_weights(positions, weights)
        stiff = self._raw(positions.to(self.device, torch.float64)).cpu()[:, : self.n_stiff]
        torsions = stiff[:, self._n_rigid :]
        centre = torch.atan2(w @ torsions.sin(), w @ torsions.cos())
        stiff[:, self._n_rigid :] = centre + wrap(torsions - centre)
        mean = w @ stiff
        deviation = stiff - mean
        return self.standardise(mean, deviation.T @ (w[:, None] * deviation))

    def _frame_weights(self, positions: Tensor, weights: Tensor | None) -> Tensor:
        if positions.ndim != 3 or tuple(positions.shape[1:]) != (self.n_atoms, 3):
            raise InputError(
                f"frames to fit have shape {tuple(positions.shape)}; expected (frames, {self.n_atoms}, 3) in nm"
            )
        if len(positions) <= self.n_stiff:
            raise InputError(
                f"{len(positions)} frames cannot give a covariance of {self.n_stiff} stiff coordinates; give at least "
                f"{self.n_stiff + 1}, better ten times as many"
            )
        w = torch.ones(len(positions)) if weights is None else weights
        w = w.to(torch.float64).cpu()
        if w.shape != (len(positions),) or not bool((torch.isfinite(w) & (w >= 0)).all()) or not bool(w.sum() > 0):
            raise InputError("weights to fit with must be one finite, non-negative number a frame, and not all zero")
        if not bool(torch.isfinite(positions).all()):
            raise InputError("frames to fit hold non-finite positions; leave those frames out")
        return w / w.sum()

    refines = True

    def refine(self, z: Tensor, score: Tensor) -> Chart:
        """Standardises anew by states (M, dim) on this chart and grad log R there: as near to a standard normal at
        fixed soft torsions as a linear map can be, and a shear of these (whitening.py); returns self. The chart
        stays as it is where the states are too few or too alike for that."""
        self.require_fit()
        assert self.mean is not None
        n = self.n_stiff
        if len(z) < 1.5 * n:  # the matrices would be of noise, where not singular
            return self
        try:
            found = nearest_normal(z[:, :n], z[:, n:], score)
        except torch.linalg.LinAlgError:  # a singular matrix
            return self
        mean, covariance, shear, information = (part.cpu() for part in found)
        covariance = self._scale @ covariance @ self._scale.T
        shear = self.shear + shear @ self._inverse
        information = self._inverse.T @ information @ self._inverse
        self.rotation = None
        self.standardise(self.mean + self._scale @ mean, 0.5 * (covariance + covariance.T), shear)
        self.information = self._scale.T @ information @ self._scale
        return self.single_out(len(self.spreads))

    def single_out(self, n_modes: int) -> Chart:
        """Turns the stiff coordinates so that the last ones are so many modes, by what `refine` has seen; keeps them
        in every standardisation from now on. Returns self."""
        self.spreads = torch.ones(n_modes, dtype=torch.float64)
        if self.mean is None or self.covariance is None or self.information is None or not n_modes:
            return self
        self.rotation, self.spreads = modes_last(self.information, n_modes)
        return self.standardise(self.mean, self.covariance, self.shear)

    def standardise(self, mean: Tensor, covariance: Tensor, shear: Tensor | None = None) -> Chart:
        """Standardises the stiff coordinates by mean (n_stiff,) and covariance (n_stiff, n_stiff); returns self.

        shear : (n_soft, n_stiff), none where left out; a soft torsion is its coordinate plus shear times the deviation
            of the stiff ones from their mean
        """
        mean, covariance = mean.to("cpu", torch.float64), covariance.to("cpu", torch.float64)
        deviation = covariance.diagonal().clamp_min(0.0).sqrt()
        if not bool((deviation > 0).all()):
            frozen = self.names[int(deviation.argmin())]
            raise InputError(f"'{frozen}' does not vary over the frames to fit; give frames of a longer or hotter run")
        correlation = covariance / (deviation[:, None] * deviation)
        eigenvalues, vectors = torch.linalg.eigh(correlation)
        if not bool(eigenvalues[0] > SMALLEST_EIGENVALUE):
            worst = self.names[int(vectors[:, 0].abs().argmax())]
            raise InputError(
                "the covariance of the stiff coordinates is not positive definite (smallest eigenvalue of the "
                f"correlation {float(eigenvalues[0]):.1e}, mostly '{worst}'); give more frames, less alike"
            )
        self.mean, self.covariance = mean, covariance
        none = torch.zeros(self.n_soft, self.n_stiff, dtype=torch.float64)
        self.shear = none if shear is None else shear.to("cpu", torch.float64)
        self.condition_number = float(eigenvalues[-1] / eigenvalues[0])
        root = eigenvalues.sqrt()
        self._scale = deviation[:, None] * (vectors * root @ vectors.T)
        self._inverse = (vectors / root @ vectors.T) / deviation
        if self.rotation is not None:
            self._scale, self._inverse = self._scale @ self.rotation, self.rotation.T @ self._inverse
        self._log_scale = float(deviation.log().sum() + root.log().sum())
        self._install()
        return self

    def _install(self) -> None:
        """Folds standardisation, order and the resolving of relative torsions into one affine map, in working dtype.

        It gives N bonds, N angles and N torsions, a row each for every atom; the first rows, which lack some, are 0.
        """
        assert self.mean is not None
        # raw coordinates in the order of the Z-matrix = offset + linear z
        linear = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        linear[self._raw_index[: self.n_stiff], : self.n_stiff] = self._scale
        soft = torch.arange(self.n_stiff, self.dim)
        linear[self._raw_index[soft], soft] = 1.0
        linear[self._raw_index[soft], : self.n_stiff] = self.shear @ self._scale
        offset = torch.zeros(self.dim, 1, dtype=torch.float64)
        offset[self._raw_index[: self.n_stiff], 0] = self.mean
        both = torch.cat([linear, offset], dim=1).to(self.device)
        both[self._n_rigid :] = self.internal.resolve(both[self._n_rigid :])
        bonds, angles, torsions = both.split([self.n_atoms - 1, self.n_atoms - 2, self.n_atoms - 3])
        both = torch.cat([pad(rows, (0, 0, self.n_atoms - len(rows), 0)) for rows in (bonds, angles, torsions)])
        both = both.to(self.dtype)
        self._linear, self._offset = both[:, :-1].contiguous(), both[:, -1:].contiguous()
        self._work_mean = self.mean.to(self.device, self.dtype)
        self._work_scale = self._scale.to(self.device, self.dtype)
        self._work_inverse = self._inverse.to(self.device, self.dtype)
        self._work_shear = self.shear.to(self.device, self.dtype)

    def require_fit(self) -> None:
        if self.mean is None:
            raise RuntimeError("the chart has no standardisation yet: call fit or load_state_dict first")

    # The map

    def place_batch_last(self, z: Tensor) -> Charted:
        """z (dim, B) -> Charted: atoms in a fixed frame and log |dx/dz|, all with the batch as the last axis."""
        self.require_fit()
        # addmm's epilogue costs nothing, and one product does standardisation, order and relative torsions at once.
        return self.place_rows(torch.addmm(self._offset, self._linear, z), self._log_scale)

    def place_rows(self, rows: Tensor, log_scale: Tensor | float) -> Charted:
        """Rows (3 N, B), the bonds, angles and resolved torsions of every atom, and log |d rows / dz| -> Charted."""
        bonds, angles, torsions = rows.split(self.n_atoms)
        placed = self.internal.placement.place(bonds, angles, torsions)
        return Charted(placed, log_abs_det(bonds[1:], angles[2:], dim=0) + log_scale, bonds, angles)

    def pull_back(self, charted: Charted, gradient: Tensor) -> Tensor:
        """d(f + log |dx/dz|)/dz (dim, B) of a function f whose gradient by positions is `gradient` (3, N, B).

        By forces and torques, without a graph, at the cost of placing; for f = log density of positions it is the
        score of z. The same as autograd through `to_natural` gives.
        """
        return self._linear.T @ self.pull_back_to_rows(charted, gradient)

    def pull_back_to_rows(self, charted: Charted, gradient: Tensor) -> Tensor:
        """The same by the rows (3 N, B) of `place_rows` instead of z."""
        by_bond, by_angle, by_torsion = self.internal.placement.pull_back(charted.placed, charted.bonds, gradient)
        slopes = log_abs_det_slopes(charted.bonds[1:], charted.angles[2:])
        by_bond = by_bond + pad(slopes[0], (0, 0, 1, 0))
        by_angle = by_angle + pad(slopes[1], (0, 0, 2, 0))
        return torch.cat([by_bond, by_angle, by_torsion])

    def to_natural(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z (B, dim) -> positions (B, N, 3) nm in a fixed frame and log |dx/dz| (B,), so that on the support
        log R(z) = -beta U(x(z)) + log |dx/dz|. Differentiable; smooth and finite outside the support too."""
        charted = self.place_batch_last(z.T)
        return charted.placed.positions.permute(2, 1, 0), charted.log_det

    def turn_rotors(
        self, z: Tensor, score: Tensor, rotors: Sequence[Rotor], generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """States (B, dim) and grad log R there with each of these rotors turned by a random number of places: states
        of the same density where the energy takes the atoms of a rotor for the same."""
        n = self.n_stiff
        line, by_line, by_soft = z[:, :n], score[:, :n], score[:, n:]
        turned, by_turned = z.clone(), score.clone()
        for columns in self._rotor_columns(rotors):
            stiff, own = columns.stiff, columns.own
            scale, inverse, shear = self._work_scale[stiff], self._work_inverse[:, stiff], self._work_shear[:, stiff]
            own_shear = self._work_shear[own - n] @ self._work_scale  # by standardised coordinates
            mean = self._work_mean[stiff]
            raw, raw_own = torch.addmm(mean, line, scale.T), torch.addmm(z[:, own], line, own_shear.T)
            by_raw, by_own = by_line @ inverse - by_soft @ shear, score[:, own]
            shift = torch.randint(columns.size, (len(z), columns.count), generator=generator, device=z.device)
            new, new_own, by_new, by_new_own = columns.turn(raw, raw_own, by_raw, by_own, mean, shift)
            turned[:, :n] += (new - raw) @ inverse.T
            turned[:, n:] -= (new - raw) @ shear.T
            turned[:, own] += new_own - raw_own
            by_turned[:, own] = by_new_own
            by_turned[:, :n] += (by_new - by_raw) @ scale + (by_new_own - by_own) @ own_shear
        turned[:, n:] = wrap(turned[:, n:])
        return turned, by_turned

    def _rotor_columns(self, rotors: Sequence[Rotor]) -> list[RotorColumns]:
        """Where rotors have their coordinates, those of one size together."""
        column = torch.empty_like(self._raw_index)
        column[self._raw_index] = torch.arange(self.dim)
        by_size = []
        for size in sorted({len(rotor.rows) for rotor in rotors}):
            rows = torch.tensor([rotor.rows for rotor in rotors if len(rotor.rows) == size])
            bonds, angles, torsions = (
                column[rows + first] for first in (-1, self.n_atoms - 3, self._n_rigid - 3)
            )  # of the list of all bonds, then all angles, then all torsions
            stiff = torch.cat([bonds.flatten(), angles.flatten(), torsions[:, 1:].flatten()])
            by_size.append(RotorColumns(stiff.to(self.device), torsions[:, 0].to(self.device), size))
        return by_size

    def to_standard(self, positions: Tensor) -> Tensor:
        """positions (B, N, 3) nm in any frame -> z (B, dim); stiff torsions within pi of their mean."""
        self.require_fit()
        raw = self._raw(positions)
        deviation = raw[:, : self.n_stiff] - self._work_mean
        rigid, torsions = deviation[:, : self._n_rigid], deviation[:, self._n_rigid :]
        deviation = torch.cat([rigid, wrap(torsions)], dim=1)
        soft = raw[:, self.n_stiff :] - deviation @ self._work_shear.T
        return torch.cat([deviation @ self._work_inverse.T, wrap(soft)], dim=1)

    def _raw(self, positions: Tensor) -> Tensor:
        """All raw coordinates (B, dim) in the order of z, torsions in [-pi, pi]."""
        return torch.cat(self.internal.to_internal(positions), dim=1)[:, self._raw_index.to(positions.device)]

    # The support

    def inside(self, z: Tensor, positions: Tensor | None = None) -> Tensor:
        """z (B, dim) -> (B,) bool: bonds positive, angles in (0, pi), stiff torsions within pi of their mean,
        stereochemistry as in the input structure. `positions` (B, N, 3), if given, are not computed again."""
        self.require_fit()
        if positions is None:
            positions = self.to_natural(z)[0]
        deviation = z[:, : self.n_stiff] @ self._work_scale.T
        rigid = deviation[:, : self._n_rigid] + self._work_mean[: self._n_rigid]
        bonds, angles = rigid[:, : self.n_atoms - 1], rigid[:, self.n_atoms - 1 :]
        narrow = deviation[:, self._n_rigid :].abs() < torch.pi
        regular = (bonds > 0).all(-1) & ((angles > 0) & (angles < torch.pi)).all(-1) & narrow.all(-1)
        return regular & self.stereo.matches(positions)

    # Keeping

    @property
    def affine(self) -> tuple[Tensor, Tensor, float]:
        """linear (3 N, dim), offset (3 N, 1) and log |det| of the map from z to the rows of `place_rows`."""
        self.require_fit()
        return self._linear, self._offset, self._log_scale

    def state_dict(self) -> dict:
        """The measurements and what they belong to: tensors and plain Python only."""
        self.require_fit()
        return {
            "mean": self.mean,
            "covariance": self.covariance,
            "shear": self.shear,
            "names": list(self.names),
            "n_soft": self.n_soft,
            "amides": self.stereo.amides.tolist(),
            "rotation": self.rotation,
            "spreads": self.spreads,
        }

    def load_state_dict(self, state: dict) -> None:
        """Takes over what `state_dict` gave; raises InputError where it belongs to other coordinates."""
        if list(state["names"]) != self.names or state["n_soft"] != self.n_soft:
            raise InputError("the stored chart is one of other coordinates: another molecule or other soft torsions")
        if state.get("amides", self.stereo.amides.tolist()) != self.stereo.amides.tolist():
            raise InputError(
                "the stored chart keeps the sides of other amides: `amides` in system.toml has changed since; put it "
                "back, or begin a new run"
            )
        self.rotation, self.spreads = state.get("rotation"), state.get("spreads", self.spreads)
        self.standardise(state["mean"], state["covariance"], state.get("shear"))


def _table(molecule: Molecule, z: ZMatrix, order: Tensor) -> list[Coordinate]:
    """What each coordinate is, in this order of them: its kind, its atoms in the order of the name, and the name."""
    rows = [("bond", row, True) for row in z.bond_atoms.tolist()]
    rows += [("angle", row, True) for row in z.angle_atoms.tolist()]
    for row, free in zip(z.torsion_atoms.tolist(), z.free, strict=True):
        rows.append(("torsion" if free else "relative torsion", row, bool(free)))
    table = []
    for kind, row, turns in (rows[i] for i in order):
        # measured the same both ways: told from the end with the lower index
        atoms = row[::-1] if turns and row[0] > row[-1] else row
        words = " ".join(molecule.atom_labels[i] for i in atoms)
        table.append(Coordinate(f"{kind} {words}", kind, tuple(atoms)))
    return table


def _oriented(quadruples: Tensor) -> Tensor:
    """Torsion atoms (n, 4), reversed where that puts the lower end first: a torsion is the same both ways."""
    flip = quadruples[:, 0] > quadruples[:, 3]
    return torch.where(flip[:, None], quadruples.flip(1), quadruples)
