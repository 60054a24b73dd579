"""The figures of metrics.json: stable names, units, meanings. docs/METRICS.md has the same table."""

from __future__ import annotations

import re
from functools import cache
from typing import NamedTuple


class Figure(NamedTuple):
    """One name, or a pattern of names with <placeholders>; its unit, "" for pure numbers; what it means."""

    name: str
    unit: str
    meaning: str


SIZES = (
    Figure("samples", "", "samples drawn"),
    Figure(
        "effective_samples",
        "",
        "independent draws from the Boltzmann distribution that they are worth: ess times samples",
    ),
    Figure("reference_frames", "", "frames of the stored reference that the samples are compared with"),
    Figure("runs", "", "independent SMC passes that the samples come from"),
)

WEIGHTS = (
    Figure(
        "ess", "", "effective sample size as a fraction of the samples, those off the support counted with weight 0"
    ),
    Figure("pareto_k", "", "Pareto shape k-hat of the largest weights: the heavier their tail, the larger"),
    Figure("pareto_k_threshold", "", "k-hat below which averages over so many weights can be trusted"),
    Figure("largest_weight", "", "share of the largest single weight; 1/samples would be ideal"),
    Figure(
        "fraction_outside_support", "", "samples of another stereochemistry or impossible geometry; their weight is 0"
    ),
    Figure("log_z_estimate", "", "logarithm of the mean weight: the estimate of log Z"),
    Figure(
        "log_z_running", "", "log of the running mean weight of training rollouts and SMC passes: an estimate of log Z"
    ),
    Figure(
        "log_z_learnt",
        "",
        "the learnt scalar: what minimises the residuals of balance over all that was trained on; it ends between elbo "
        "and eubo, for molecules 0.1 to 0.5 above log Z",
    ),
    Figure("elbo", "", "mean log-weight of the samples on the support: a lower bound of log Z"),
    Figure("eubo", "", "mean log-weight of trajectories noised from reference frames: an upper bound of log Z"),
    Figure(
        "eubo_trajectories", "", "how many trajectories noised from reference frames eubo and ess_forward come from"
    ),
    Figure("ess_forward", "", "effective sample size seen from the reference: low where the policy misses states"),
)

BASINS = (
    Figure("population_<residue>_<basin>", "", "population of a basin of the Ramachandran map, or of phi > 0"),
    Figure("free_energy_<residue>_<basin>", "kJ/mol", "free energy of a basin against the most populated one"),
    Figure("population_pieces_<piece>", "", "population of a piece: a conformer of the rings, a cis or trans amide"),
    Figure("free_energy_pieces_<piece>", "kJ/mol", "free energy of a piece against the most populated one"),
)

COVERAGE = (
    Figure("annealed_states", "", "annealed states that the policy did not make, which it is judged by"),
    Figure("annealed_effective_samples", "", "independent states that they are worth"),
    Figure("annealed_log_z", "", "log Z by their annealing"),
    Figure("annealed_eubo", "", "mean log-weight of trajectories noised from them: an upper bound of log Z"),
    Figure("annealed_ess_forward", "", "effective sample size seen from them: low where the policy misses states"),
    Figure(
        "annealed_uncovered",
        "",
        "share of their weight where the policy's density is less than a hundredth of what it should be",
    ),
    Figure(
        "annealed_population_<residue>_<basin>", "", "population of a basin, or of a torsion's well, by their weights"
    ),
    Figure(
        "coverage_z_<residue>_<basin>",
        "",
        "by how many standard errors the population by the policy's weights lies above the one by annealed states",
    ),
)

TEMPERATURES = (
    Figure("temperature_<K>_samples", "", "samples drawn at this temperature, of a policy for a range of them"),
    Figure("temperature_<K>_ess", "", "effective sample size as a fraction of these samples"),
    Figure("temperature_<K>_log_z", "", "logarithm of their mean weight"),
    Figure("temperature_<K>_mean_energy", "kJ/mol", "mean potential energy"),
    Figure(
        "temperature_<K>_heat_capacity",
        "kJ/mol/K",
        "configurational heat capacity, without the kinetic share: the variance of the potential energy over RT^2",
    ),
    Figure(
        "temperature_<K>_free_energy",
        "kJ/mol",
        "configurational free energy -RT log Z; it holds RT times the logarithm of a unit of volume",
    ),
    Figure(
        "temperature_<K>_entropy_change",
        "kJ/mol/K",
        "configurational entropy against the lowest temperature's: (U - A) / T here less the same there",
    ),
    Figure("temperature_<K>_log_z_change", "", "log Z less that of the next lower temperature, both by mean weights"),
    Figure(
        "temperature_<K>_log_z_change_by_energies",
        "",
        "the same by mean energies: minus their integral over 1 / RT between the two temperatures",
    ),
    Figure(
        "temperature_<K>_log_z_change_z",
        "",
        "by how many standard errors the change by weights lies above the one by mean energies",
    ),
)

DIVERGENCES = (
    Figure("ramachandran_kl_<residue>", "nat", "KL divergence of the maps, reference to samples, 100 x 100 bins"),
    Figure("ramachandran_jsd_<residue>", "nat", "Jensen-Shannon divergence of the maps, 100 x 100 bins"),
    Figure("ramachandran_tv_<residue>", "", "total variation of the maps, 100 x 100 bins (as CMT and TA-BG)"),
    Figure("ramachandran_kl_64_<residue>", "nat", "KL divergence of the maps, reference to samples, 64 x 64 bins"),
    Figure("ramachandran_jsd_64_<residue>", "nat", "Jensen-Shannon divergence of the maps, 64 x 64 bins"),
    Figure("ramachandran_tv_64_<residue>", "", "total variation of the maps, 64 x 64 bins (as FAB's code)"),
    Figure(
        "ramachandran_w2_<residue>", "rad", "2-Wasserstein distance of (phi, psi) on the torus, cells of 7.5 degrees"
    ),
    Figure(
        "ramachandran_kl",
        "nat",
        "KL divergence of the maps, reference to samples, 100 x 100 bins, mean over the residues",
    ),
    Figure("ramachandran_jsd", "nat", "Jensen-Shannon divergence of the maps, 100 x 100 bins, mean over the residues"),
    Figure("ramachandran_tv", "", "total variation of the maps, 100 x 100 bins, mean over the residues"),
    Figure(
        "ramachandran_kl_64",
        "nat",
        "KL divergence of the maps, reference to samples, 64 x 64 bins, mean over the residues",
    ),
    Figure("ramachandran_jsd_64", "nat", "Jensen-Shannon divergence of the maps, 64 x 64 bins, mean over the residues"),
    Figure("ramachandran_tv_64", "", "total variation of the maps, 64 x 64 bins, mean over the residues"),
    Figure("ramachandran_w2", "rad", "2-Wasserstein distance of (phi, psi) on the torus, mean over the residues"),
    Figure("torsion_kl_<torsion>", "nat", "KL divergence of one torsion, reference to samples, 100 bins"),
    Figure("torsion_jsd_<torsion>", "nat", "Jensen-Shannon divergence of one torsion, 100 bins"),
    Figure("torsion_kl_mean", "nat", "KL divergence of a torsion, mean over those shown"),
    Figure("torsion_jsd_mean", "nat", "Jensen-Shannon divergence of a torsion, mean over those shown"),
    Figure("energy_w1", "kJ/mol", "1-Wasserstein distance of the potential energies"),
    Figure("energy_w2", "kJ/mol", "2-Wasserstein distance of the potential energies"),
    Figure("distance_w1_mean", "nm", "1-Wasserstein distance of an interatomic distance, mean over the pairs"),
    Figure("distance_w1_largest", "nm", "1-Wasserstein distance of an interatomic distance, the largest of all pairs"),
    Figure(
        "distance_pairs", "", "pairs of heavy atoms three or more bonds apart that distance_w1 is over, at most 100"
    ),
)

AVERAGES = (
    Figure("mean_energy", "kJ/mol", "mean potential energy"),
    Figure("median_energy", "kJ/mol", "median potential energy"),
    Figure("energies_not_finite", "", "samples whose energy is infinite or not a number"),
    Figure("rmsd_input", "nm", "mean RMSD of heavy atoms to the input structure"),
    Figure("rmsd_nearest_minimum", "nm", "mean RMSD of heavy atoms to the nearest basin minimum"),
    Figure("stereocentres", "", "atoms with four different neighbours"),
    Figure("amides", "", "amides whose nitrogen carries more than hydrogens"),
    Figure("fraction_inverted", "", "frames with a stereocentre of the other hand than in the input structure"),
    Figure("fraction_cis", "", "frames with a cis amide"),
    Figure("count_inverted", "", "how many samples have a stereocentre of the other hand"),
    Figure("count_cis", "", "how many samples have a cis amide"),
)

RUN = (
    Figure("training_seconds", "s", "wall time of training"),
    Figure("seconds_<stage>", "s", "wall time of another stage of the run: set-up, sampling"),
    Figure("updates", "", "updates made, of denoising and of the objective"),
    Figure("skipped_updates", "", "updates left out because their loss or a gradient was not finite"),
    Figure("evaluations", "", "evaluations of the molecule's energy that training cost; looking does not count"),
    Figure("evaluations_<purpose>", "", "of these, for one purpose: md, prefill, rollout, smc, local_moves, guidance"),
    Figure("guide_scores", "", "scores of the policy's guide in training, a cheaper energy than the molecule's"),
    Figure("smc_distinct_ancestors", "", "prior draws of a pass that have descendants among its particles, mean"),
)

GROUPS = {
    "Sizes": SIZES,
    "Weights": WEIGHTS,
    "Basins": BASINS,
    "Coverage, without a reference": COVERAGE,
    "Temperatures, of a policy for a range of them": TEMPERATURES,
    "Divergences from the reference": DIVERGENCES,
    "Averages and geometry": AVERAGES,
    "The run": RUN,
}


def find(name: str) -> Figure | None:
    """The entry of a name of metrics.json, a suffix _raw or a prefix reference_ aside; None where there is none."""
    plain = (name, *map(name.removesuffix, ("_raw", "_smoothed")), *map(name.removeprefix, ("reference_", "annealed_")))
    for expression, figure in _expressions():
        if any(expression.fullmatch(each) for each in plain):
            return figure
    return None


@cache
def _expressions() -> list[tuple[re.Pattern[str], Figure]]:
    """Names first, then patterns, so that a name that fits both is found as itself; the more text the earlier."""
    entries = [figure for group in GROUPS.values() for figure in group]
    entries.sort(key=lambda figure: ("<" in figure.name, -len(re.sub("<.*?>", "", figure.name))))
    return [(re.compile(re.sub("<.*?>", ".+", figure.name)), figure) for figure in entries]
