"""What every step of an analysis works on: samples, reference, their bootstrap, and the figures found so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import mdtraj as md
import numpy as np
from scipy.special import logsumexp

from molsampler.analysis.observables.basins import POSITIVE_PHI, ResidueBasins
from molsampler.analysis.observables.pieces import Pieces
from molsampler.analysis.observables.torsions import BackbonePair
from molsampler.analysis.pictures.figures import Ensemble
from molsampler.analysis.reference_ensemble import Reference
from molsampler.analysis.statistics import estimates
from molsampler.analysis.statistics.bootstrap import (
    Draw,
    Measure,
    Weighting,
    compare,
    floor_draws,
    resampled,
)
from molsampler.analysis.statistics.estimates import Estimate
from molsampler.analysis.statistics.pareto import smoothed
from molsampler.analysis.statistics.thermodynamics import Thermodynamics
from molsampler.basis.log_weights import effective_groups, normalised
from molsampler.store.run_directory import RunDirectory, Samples

PIECES = "pieces"  # what tables and figures call the pieces of a molecule
SEED = 0  # of the bootstrap: two analyses of one run agree to the last digit


@dataclass(frozen=True)
class Independent:
    """States of the Boltzmann distribution that the policy did not make, to hold it against.

    trajectory : n frames;  weights : (n,) normalised;  groups : (n,) int, what is independent of each other
    log_weights : (n, k) log w of k trajectories noised from each state, +inf where the policy gives one no density
    log_z : estimate of log Z by them alone;  origin : what they are, for sentences
    """

    trajectory: md.Trajectory
    weights: np.ndarray
    groups: np.ndarray
    log_weights: np.ndarray
    log_z: float
    origin: str = "annealed states"

    @property
    def effective(self) -> float:
        """Independent states that they are worth: Kish's number of their groups."""
        return effective_groups(self.weights, self.groups)

    @property
    def log_excess(self) -> np.ndarray:
        """(n,) log of R over the policy's density at each state, the latter averaged over its k trajectories."""
        k = self.log_weights.shape[1]
        with np.errstate(divide="ignore"):
            return -(logsumexp(-self.log_weights, axis=1) - np.log(k))


@dataclass(frozen=True)
class Subject:
    """What an analysis needs to know of the molecule beside the files.

    temperature : K;  input_positions : (N, 3) nm;  soft_quadruples : the soft torsions, (k, 4) atom indices
    minimise : structures (k, N, 3) nm to the minima below them, for "nearest basin minimum"; without it the frames of
        lowest energy stand for the minima
    reference_log_weights : (k,), log-weights of trajectories noised from reference frames, for the EUBO; +inf where the
        policy gives one no density. reference_frames : (k,) int, the frame of the stored reference that each began from
    details : (name, text) rows on the molecule for the report;  method : a paragraph;  command : what repeats the run
    cautions : sentences on what the samples cannot hold, for the verdict
    independent : states that the policy did not make, by which it is judged where there is no reference, and beside one
    pieces : what the molecule falls into, such as the conformers of its rings; None of one in one piece
    temperatures : what the policy's samples at other temperatures say, in rising order; None of a policy for one only
    """

    name: str
    temperature: float
    input_positions: np.ndarray
    soft_quadruples: Sequence[Sequence[int]] = ()
    minimise: Callable[[np.ndarray], np.ndarray] | None = None
    reference_log_weights: np.ndarray | None = None
    reference_frames: np.ndarray | None = None
    details: Sequence[tuple[str, str]] = ()
    method: str = ""
    command: str = ""
    cautions: Sequence[str] = ()
    independent: Independent | None = None
    pieces: Pieces | None = None
    temperatures: Sequence[Thermodynamics] | None = None


@dataclass(frozen=True)
class StateFindings:
    """States of one thing, a residue's basins or the molecule's pieces: populations and free energies of the samples by
    suffix of the weighting ("" reweighted, "_raw" as drawn), of the reference, and by name how many samples lie in
    each; the share in all weight of the heaviest sample there, and the population by Pareto-smoothed weights."""

    samples: dict[str, ResidueBasins]
    reference: ResidueBasins | None
    found: dict[str, int]
    heaviest: dict[str, float] = field(default_factory=dict)
    smoothed: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ResidueFindings(StateFindings):
    """The basins of one residue's map."""

    pair: BackbonePair


@dataclass(frozen=True)
class Drawn:
    """How often the policy draws a state. share : of its samples, without weights;  z : of the share above the
    independent estimate of the state's population, in standard errors, None where none is known
    """

    share: float
    z: float | None


@dataclass(frozen=True)
class CoverageRow:
    """One state by two independent estimates. label : residue or torsion;  z : of the samples' above the other's, in
    standard errors, None where none is known;  drawn : None where the samples are not the policy's own
    inside : (m,) bool, which of the independent states lie there
    """

    label: str
    state: str
    found: int
    samples: Estimate
    samples_span: tuple[float, float]
    independent: Estimate
    independent_span: tuple[float, float]
    z: float | None
    drawn: Drawn | None
    inside: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class Coverage:
    """What states that the policy did not make say of it.

    rows : all states of residues and torsions;  uncovered : share of their weight where the policy has less than a
    hundredth of the density that it should, and its one-sigma interval;  where : the states that most of it lies in
    effective : independent states that they are worth
    """

    rows: list[CoverageRow]
    uncovered: Estimate
    uncovered_span: tuple[float, float]
    where: list[str]
    effective: float


@dataclass(frozen=True)
class State:
    """A basin of a residue or a well of a torsion, in the samples. label : residue or torsion;  inside : (n,) bool"""

    label: str
    name: str
    inside: np.ndarray


@dataclass(frozen=True)
class Shown:
    """Frames of one state to look at, as rows of `Conformations.frames`.

    label, name : as of `State`, "" for all states together;  colour : of its frames;  population : by weight
    drawn : (m,) int, distinct rows, by weight;  central : the one of them that is nearest to the others
    """

    label: str
    name: str
    colour: str
    population: float
    drawn: np.ndarray
    central: int


@dataclass(frozen=True)
class Conformations:
    """Frames to look at, superposed. trajectory : k frames;  frames : (k,) int, their places in samples.dcd
    colours : k of them, of the states of the first residue or torsion
    states : all together first, then those of which a sample has weight
    """

    trajectory: md.Trajectory
    frames: np.ndarray
    colours: list[str]
    states: list[Shown]

    @property
    def labels(self) -> list[str]:
        """Residues and torsions that have states."""
        return list(dict.fromkeys(state.label for state in self.states[1:]))

    def basins(self, label: str) -> list[Shown]:
        """The states of a residue or torsion that share no frame: without phi > 0, which is several of them."""
        return [state for state in self.states[1:] if state.label == label and state.name != POSITIVE_PHI]


@dataclass
class Study:
    """One run beside its reference.

    weightings : reweighted (where any sample has weight), then raw
    draws : by suffix of the weighting, pairs of finite samples of the reference, for floors
    metrics : figures by stable name;  residues : in order of the chain;  notes, captions : sentences for the report
    states : of residues, then of torsions, as the steps find them
    """

    run: RunDirectory
    subject: Subject
    samples: Samples
    reference: Reference | None
    generator: np.random.Generator
    weightings: list[Weighting]
    reference_replicates: np.ndarray
    draws: dict[str, list[Draw]]
    metrics: dict[str, Any] = field(default_factory=dict)
    residues: list[ResidueFindings] = field(default_factory=list)
    pieces: StateFindings | None = None
    captions: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    narrow: dict[str, bytes] = field(default_factory=dict)
    coverage: Coverage | None = None
    states: list[State] = field(default_factory=list)
    conformations: Conformations | None = None

    @classmethod
    def of(cls, run: RunDirectory, subject: Subject, samples: Samples, reference: Reference | None) -> Study:
        """Resamples everything that the steps are going to need."""
        generator = np.random.default_rng(SEED)
        n, weights = len(samples.log_weights), samples.weights
        weightings = []
        if weights is not None:
            effective = None
            if samples.group is not None:
                share = estimates.run_estimates(samples.log_weights, samples.group)[0].value
                effective = max(1.0, share * n) if np.isfinite(share) else None
            weightings.append(Weighting.of("", weights, n, generator, samples.group, effective))
        weightings.append(Weighting.of("_raw", None, n, generator, samples.group))
        replicates, draws = np.zeros((0, 0)), {}
        if reference is not None:
            blocks = estimates.independent_blocks(reference.ladder)
            frames = len(blocks)
            replicates = resampled(np.full(frames, 1.0 / frames), generator, blocks)
            draws = {w.suffix: floor_draws(w.effective, blocks, generator) for w in weightings}
        return cls(run, subject, samples, reference, generator, weightings, replicates, draws)

    @property
    def reweighted(self) -> Weighting | None:
        return self.weightings[0] if self.weightings[0].suffix == "" else None

    @cached_property
    def smoothed_log_weights(self) -> np.ndarray | None:
        """(n,) Pareto-smoothed log-weights; None where none has weight, or for dependent samples."""
        if self.reweighted is None or self.samples.group is not None:
            return None
        return smoothed(self.samples.log_weights)

    @cached_property
    def smoothed(self) -> np.ndarray | None:
        """(n,) the same as normalised weights."""
        return None if self.smoothed_log_weights is None else normalised(self.smoothed_log_weights)

    def of_each(self, angles: Callable[[md.Trajectory], np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Angles, (n, d) of a trajectory, and weights (n,) of the samples and, where there are any, of the independent
        states: what basins are found in, so that a state which the samples miss is there."""
        ensembles = [(self.samples.trajectory, self.weightings[0].weights)]
        other = self.subject.independent
        if other is not None:
            ensembles.append((other.trajectory, other.weights))
        return [angles(frames) for frames, _ in ensembles], [weights for _, weights in ensembles]

    def compare(self, measure: Measure) -> None:
        """The measure's figures, reweighted and raw, with errors and floors."""
        for w in self.weightings:
            found = compare(measure, w, self.reference_replicates, self.draws[w.suffix], self.generator)
            self.metrics |= {name + w.suffix: figure.as_dict() for name, figure in found.items()}

    def mean(self, name: str, values: np.ndarray, reference: np.ndarray | None) -> None:
        """Means of values (n,) of the samples, reweighted and raw, and of the reference's (m,) where there is one."""
        for w in self.weightings:
            values_in = np.where(w.weights > 0, values, 0.0)
            finite = np.isfinite(values_in).all()
            value = float(w.weights @ values_in) if finite else float("inf")
            self.metrics[name + w.suffix] = (value, w.stderr(values_in) if finite else float("nan"))
        if reference is not None and self.reference is not None:
            self.metrics[f"reference_{name}"] = estimates.grouped_mean(reference, self.reference.ladder)

    def ensembles(self, raw: np.ndarray, reference: np.ndarray | None) -> list[Ensemble]:
        """What a picture shows, in order: reweighted samples where there are weights, raw ones, the reference where
        there is one."""
        shown = [Ensemble("reweighted", raw, self.reweighted.weights)] if self.reweighted is not None else []
        shown.append(Ensemble("raw", raw))
        return shown if reference is None else [*shown, Ensemble("reference", reference)]


def slug(name: str) -> str:
    """A name fit for metrics.json: "phi > 0" is "phi_positive", "phi ALA2" is "phi_ALA2", "(60, -120)" is "60_-120"."""
    kept = "".join(c if c.isalnum() or c == "-" else "_" for c in name.replace("> 0", "positive"))
    return "_".join(part for part in kept.split("_") if part)
