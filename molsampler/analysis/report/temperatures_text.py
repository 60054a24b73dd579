"""What the report says of a policy for a range of temperatures: figures, the verdict's sentences, rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from scipy import stats

from molsampler.analysis.report.page import Picture, TemperatureSection, number, percent, sigmas
from molsampler.analysis.statistics.thermodynamics import Consistency, Thermodynamics, consistencies
from molsampler.analysis.study import slug

FALSE_ALARM = 0.01  # of all pairs of a healthy run together
LOW = 0.05  # of the samples: an effective size below it says little
Say = Callable[..., None]


def limit(pairs: int) -> float:
    """Standard errors beyond which a pair of temperatures is named: by Bonferroni over all of them."""
    return float(stats.norm.isf(FALSE_ALARM / (2 * max(pairs, 1))))


def temperature_metrics(rows: Sequence[Thermodynamics]) -> dict[str, Any]:
    """Entries of metrics.json, temperature by temperature in order; entropies are against the first."""
    metrics: dict[str, Any] = {}
    compared: list[Consistency | None] = [None, *consistencies(rows)]
    for row, pair in zip(rows, compared, strict=False):
        found = {
            "samples": row.samples,
            "ess": row.ess,
            "log_z": row.log_z,
            "mean_energy": row.mean_energy,
            "heat_capacity": row.heat_capacity,
            "free_energy": row.free_energy,
            "entropy_change": row.entropy_change(rows[0]),
        }
        if pair is not None:
            found["log_z_change"] = pair.by_weights
            found["log_z_change_by_energies"] = pair.by_energies
            found["log_z_change_z"] = pair.z
        metrics |= {f"temperature_{slug(f'{row.temperature:g}')}_{name}": value for name, value in found.items()}
    return metrics


def judge_temperatures(say: Say, rows: Sequence[Thermodynamics]) -> None:
    """Says by `say(sentence, level)` how good the samples are over the range, and whether they fit together."""
    worst, best = (pick(rows, key=lambda row: row.ess.value) for pick in (min, max))
    if len(rows) > 1:
        say(
            f"At {len(rows)} temperatures from {_kelvin(rows[0])} to {_kelvin(rows[-1])}, the effective sample size "
            f"lies between {percent(*worst.ess)} ({_kelvin(worst)}) and {percent(*best.ess)} ({_kelvin(best)})."
        )
    if worst.ess.value < LOW:
        say(
            f"At {_kelvin(worst)} it is low: averages there rest on few samples. Train for longer, or over a smaller "
            "range of temperatures.",
            "care",
        )
    pairs = consistencies(rows)
    compared = [pair for pair in pairs if pair.z is not None]
    bound = limit(len(pairs))
    off = [pair for pair in compared if abs(pair.z) > bound]
    for pair in sorted(off, key=lambda pair: -abs(pair.z))[:3]:
        say(
            f"From {pair.low:g} to {pair.high:g}\u00a0K log Z changes by {number(*pair.by_weights)} by the weights and "
            f"by {number(*pair.by_energies)} by mean energies ({sigmas(pair.z)}): the samples at one of the two miss "
            "states, or their weights are of another density.",
            "care",
        )
    if compared and not off:
        said = "How log Z changes from one temperature to the next agrees with the mean energies"
        if len(compared) < len(pairs):
            said += f" in {len(compared)} of {len(pairs)} steps; in the others too few samples count to tell"
        say(f"{said}.")


def temperature_section(rows: Sequence[Thermodynamics], shown: Picture | None) -> TemperatureSection:
    """The table of all temperatures, beside its picture."""
    bound = limit(len(rows) - 1)
    return TemperatureSection(
        [_cells(row, rows[0], pair, bound) for row, pair in zip(rows, [None, *consistencies(rows)], strict=True)],
        bound,
        _kelvin(rows[0]),
        shown,
    )


def _cells(
    row: Thermodynamics, first: Thermodynamics, pair: Consistency | None, bound: float
) -> tuple[list[str], bool]:
    cells = [f"{row.temperature:g}", f"{row.samples:,}", percent(*row.ess), number(*row.mean_energy)]
    cells += [number(*row.heat_capacity), number(*row.free_energy)]
    cells.append("" if row is first else number(*row.entropy_change(first)))
    if pair is None:
        return [*cells, "", "", ""], False
    cells += [number(*pair.by_weights), number(*pair.by_energies), sigmas(pair.z)]
    return cells, pair.z is not None and abs(pair.z) > bound


def _kelvin(row: Thermodynamics) -> str:
    return f"{row.temperature:g}\u00a0K"
