"""What a run says in words: the verdict, the meaning of every figure, and the rows of the report."""

from __future__ import annotations

import math
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from molsampler.analysis.estimates import Estimate
from molsampler.analysis.ramachandran import POSITIVE_PHI
from molsampler.analysis.reference import Reference
from molsampler.analysis.report import BasinRow, Report, greek, number, percent
from molsampler.analysis.run_directory import RunDirectory, Samples

if TYPE_CHECKING:
    from molsampler.analysis.analyse import Findings, Subject

METHOD = (
    "A diffusion policy turns a draw from a simple prior into a conformation in a fixed number of steps. It was trained"
    " from the potential energy alone, by trajectory balance on states that it found itself, that sequential Monte"
    " Carlo with a learnt twist found, and that were replayed. Every sample carries the importance weight"
    " w = R(x) p_B / p_F of its whole trajectory, so that weighted averages are averages over the Boltzmann"
    " distribution, however imperfect the policy; the effective sample size says how many independent samples the"
    " weights leave."
)

MEANINGS = {
    "samples": "how many samples were drawn",
    "ess": "effective sample size as a fraction of the samples, out-of-support samples counted with weight 0",
    "runs": "independent runs of sequential Monte Carlo that the samples come from",
    "log_z": "the learnt scalar log Z",
    "log_z_estimate": "logarithm of the mean weight: the estimate of log Z",
    "elbo": "mean log-weight of the samples on the support: a lower bound of log Z",
    "eubo": "mean log-weight of noised reference states: an upper bound of log Z",
    "fraction_outside_support": "samples with another stereochemistry or impossible geometry; their weight is 0",
    "largest_weight": "share of the largest single weight; 1/samples would be ideal",
    "mean_energy": "weighted mean of the potential energy (kJ/mol)",
    "median_energy_raw": "median potential energy of the raw samples (kJ/mol)",
    "reference_mean_energy": "mean potential energy of the reference (kJ/mol)",
    "energy_w1": "Wasserstein-1 distance of the weighted energies to the reference's (kJ/mol)",
    "energy_w2": "Wasserstein-2 distance of the weighted energies to the reference's (kJ/mol)",
    "rmsd_input": "weighted mean RMSD of heavy atoms to the input structure (nm)",
    "rmsd_nearest_minimum": "weighted mean RMSD of heavy atoms to the nearest basin minimum (nm)",
    "torsion_jsd_mean": "Jensen-Shannon divergence to the reference, mean over the soft torsions",
    "ramachandran_kl": "Kullback-Leibler divergence of the Ramachandran map, reference to samples",
    "ramachandran_jsd": "Jensen-Shannon divergence of the Ramachandran maps",
    "ramachandran_tv": "total variation distance of the Ramachandran maps",
    "ramachandran_w2": "Wasserstein-2 distance of the Ramachandran maps on the torus (radians)",
}


def meaning(name: str) -> str:
    """A phrase on a figure of metrics.json; empty for names that say it themselves."""
    if name in MEANINGS:
        return MEANINGS[name]
    if name.endswith("_reference_halves"):
        return "the same between two halves of the reference: what is left when both are right"
    if name.startswith("torsion_jsd_"):
        return "Jensen-Shannon divergence of one torsion's marginals"
    if name.startswith("reference_population_"):
        return "the reference's population (fraction)"
    if name.startswith("population_"):
        return "weighted population (fraction)"
    return ""


def deviation(found: Estimate, known: Estimate) -> float | None:
    """Difference in units of its standard error; None where no error is known."""
    error = math.hypot(found.stderr, known.stderr)
    return (found.value - known.value) / error if math.isfinite(error) and error > 0 else None


def basin_rows(findings: Findings, reference: Reference | None) -> list[BasinRow]:
    """One row a basin and one for phi > 0, with the reference beside it."""
    rows = []
    for name, estimate in findings.populations.items():
        row = {"name": name, "found": findings.found[name], "value": estimate.value, "stderr": estimate.stderr}
        if reference is not None and name in reference.populations:
            known = reference.populations[name]
            row |= {"reference": known.value, "reference_stderr": known.stderr, "deviation": deviation(estimate, known)}
        rows.append(BasinRow(**row))
    return rows


def verdict(rows: list[BasinRow], metrics: dict[str, Any], samples: Samples) -> tuple[list[str], bool]:
    """Sentences on whether the run can be used, and whether all is well."""
    n = len(samples.log_weights)
    ess = _estimate(metrics["ess"])
    if samples.weights is None:
        return [f"Not one of the {n:,} samples lies on the support: this run cannot be used. Train for longer."], False
    if math.isnan(ess.value):
        return ["The effective sample size needs at least two independent runs of sequential Monte Carlo."], False
    worth = ess.value * n
    words = [
        f"The effective sample size is {percent(ess.value, ess.stderr)}: {n:,} weighted samples are worth about "
        f"{number(round(worth))} independent draws from the Boltzmann distribution."
    ]
    good = worth >= 100 and ess.value >= 0.05
    share = float(samples.weights.max())
    if not good:
        words.append(
            "That is low: averages rest on few samples, and their errors may be understated. Train for longer or draw "
            "more."
        )
    if share > 0.05:
        words.append(f"A single sample carries {percent(share)} of all weight, so the effective sample size flatters.")
        good = False
    known = [row for row in rows if row.reference is not None]
    if not known:
        if rows:
            words.append("There is no reference to compare with: a state that was never visited would not show.")
        return words, good
    missing = [greek(row.name) for row in known if row.found == 0 and row.reference]
    off = [row for row in known if row.deviation is not None and abs(row.deviation) > 3]
    if missing:
        words.append(f"The samples miss {_list(missing)}, which the reference has.")
    off = [row for row in off if greek(row.name) not in missing]
    if off:
        words.append(
            "More than three standard errors from the reference: "
            + _list([f"{greek(row.name)} ({percent(row.value)} for {percent(row.reference)})" for row in off])
            + "."
        )
    if not off and not missing:
        words.append(f"All {len(known)} populations agree with the reference within three standard errors.")
    positive = next((row for row in known if row.name == POSITIVE_PHI), None)
    if positive is not None and positive.found:
        words.append(
            f"The rare states with φ > 0 were found: {positive.found:,} samples, "
            f"{percent(positive.value, positive.stderr)} by weight, "
            f"{percent(positive.reference, positive.reference_stderr)} in the reference."
        )
    return words, good and not off and not missing


def build_report(
    run: RunDirectory,
    subject: Subject,
    samples: Samples,
    reference: Reference | None,
    findings: Findings,
    metrics: dict[str, Any],
) -> Report:
    """The report of an analysed run; `metrics` as in metrics.json."""
    rows = basin_rows(findings, reference)
    words, good = verdict(rows, metrics, samples)
    topology = samples.trajectory.topology
    residues = "-".join(residue.name for residue in topology.residues)
    molecule = [("name", subject.name), ("residues", residues), ("atoms", str(topology.n_atoms))]
    molecule += [("temperature", f"{subject.temperature:g} K"), *subject.details]
    config = run / "config.toml"
    return Report(
        title=f"{subject.name}: {len(samples.log_weights):,} samples",
        molecule=molecule,
        method=subject.method or METHOD,
        verdict=words,
        good=good,
        pictures=_pictures(run, findings, reference),
        basins=rows,
        figures=[(name, number(*_estimate(metric)), meaning(name)) for name, metric in metrics.items()],
        repeat=_repeat(subject, reference),
        config=config.read_text(encoding="utf-8") if config.is_file() else "",
        notes=findings.notes,
    )


def _pictures(run: RunDirectory, findings: Findings, reference: Reference | None) -> list[tuple]:
    beside = "" if reference is None else ", with the reference of long simulations beside them"
    return [
        (
            "Ramachandran map",
            f"Free energy over φ and ψ: reweighted and raw samples{beside}, on one colour scale. Blank cells hold no "
            "frame.",
            run / "ramachandran.png",
        ),
        ("Torsions", f"Marginals of the soft torsions{beside}.", run / "torsions.png"),
        (
            "Energy",
            f"Potential energies by weight{beside}. The raw samples show what the weights have to correct.",
            run / "energy.png",
        ),
        (
            "RMSD",
            "RMSD of the heavy atoms after superposition. " + findings.captions.get("minima", ""),
            run / "rmsd.png",
        ),
        (
            "Training",
            "The effective sample size here is that of the small evaluation batches, which flatter.",
            run / "training.png",
        ),
    ]


def _repeat(subject: Subject, reference: Reference | None) -> list[tuple[str, str]]:
    rows = [("command", subject.command)] if subject.command else []
    if reference is not None and reference.summary.get("command"):
        rows.append(("reference", str(reference.summary["command"])))
    packages = ("molsampler", "torch", "openmm", "openmmtools", "mdtraj", "numpy")
    rows.append(("versions", ", ".join(f"{name} {_version(name)}" for name in packages)))
    rows.append(("Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"))
    return rows


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(not installed)"


def _estimate(metric: Any) -> Estimate:
    """Value and error of an entry of metrics.json, NaN for null."""
    value, error = metric.get("value"), metric.get("stderr")
    return Estimate(math.nan if value is None else value, math.nan if error is None else error)


def _list(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
