"""What the report says of coverage: the verdict's sentences, and the table of two independent estimates."""

from __future__ import annotations

from collections.abc import Callable

from scipy import stats

from molsampler.analysis.pictures.figures import greek as greek_torsion
from molsampler.analysis.report.page import greek, population, sigmas
from molsampler.analysis.study import Coverage, CoverageRow

FALSE_ALARM = 0.01  # of all states of a healthy run together
FEWEST = 50.0  # independent states below which nothing is judged
GRAVE = 0.05  # of all weight: what is short by as much spoils every average
RARELY = 5.0  # times too seldom, from where a state costs more samples than weights should make up for
UNCOVERED = 0.002  # share of weight that may lie where the policy hardly goes
REMEDY = (
    "Train for longer with a larger share of explorers (train.explorers.share) or more chains "
    "(train.anneal.particles), and until then take averages over it from the annealed states."
)
Say = Callable[..., None]


def limit(coverage: Coverage) -> float:
    """Standard errors beyond which a state is named: by Bonferroni over all of them."""
    return float(stats.norm.isf(FALSE_ALARM / (2 * max(len(coverage.rows), 1))))


def judge_coverage(say: Say, coverage: Coverage) -> bool:
    """Says what independent states tell of the policy, by `say(sentence, level)`; whether they were enough to judge."""
    if coverage.effective < FEWEST:
        say(
            f"Annealed states that the policy did not make are worth only {coverage.effective:.0f} independent ones, "
            "too few to judge its coverage by: raise coverage.",
            "care",
        )
        return False
    bound = limit(coverage)
    off = [row for row in coverage.rows if row.z is not None and abs(row.z) > bound]
    short = sorted((row for row in off if row.z < 0), key=lambda row: row.samples.value - row.independent.value)
    over = [row for row in off if row.z > 0]
    for row in short[:3]:
        grave = row.independent.value - row.samples.value > GRAVE
        say(f"{_named(row)} is short: {_both(row)}. {REMEDY}", "poor" if grave else "care")
    if over and not short:
        row = max(over, key=lambda row: row.z)
        say(f"{_named(row)} has more weight than annealed states give it: {_both(row)}.", "care")
    rare = [row for row in coverage.rows if row not in short and _rarely(row, bound)]
    for row in sorted(rare, key=lambda row: -row.independent.value)[:3]:
        say(
            f"{_named(row)} is drawn too seldom: {100 * row.drawn.share:.2g}\u00a0% of the samples for a population of "
            f"{population(row.independent, row.independent_span)} by annealed states. Its weight is right but rests "
            f"on {row.found:,} samples: draw more, or train for longer.",
            "care",
        )
    low, _ = coverage.uncovered_span
    uncovered = low > UNCOVERED
    if uncovered:
        named = [greek(greek_torsion(where)) for where in coverage.where[:2]]
        place = f", mostly in {' and '.join(named)}" if named else ""
        say(
            f"{100 * coverage.uncovered.value:.2g}\u00a0% of the annealed states' weight lies where the policy has "
            f"less than a hundredth of the density that it should{place}. {'' if short else REMEDY}".strip(),
            "poor" if low > GRAVE else "care",
        )
    if not off and not rare and not uncovered:
        say(
            f"Annealed states that the policy did not make, worth {coverage.effective:,.0f} independent ones, agree "
            f"with it on all {len(coverage.rows)} populations; where it hardly goes they have at most "
            f"{100 * coverage.uncovered_span[1]:.1g}\u00a0% of their weight."
        )
    return True


def _rarely(row: CoverageRow, bound: float) -> bool:
    """Whether the policy draws a state less than a fifth as often as it should, beyond doubt."""
    drawn = row.drawn
    if drawn is None or drawn.z is None:
        return False
    return drawn.z < -bound and RARELY * drawn.share < row.independent.value


def _named(row: CoverageRow) -> str:
    return f"{greek(row.state)} of {greek_torsion(row.label)}"


def _both(row: CoverageRow) -> str:
    ratio = row.independent.value / row.samples.value if row.samples.value > 0 else None
    times = f", {ratio:.2g} times as much" if ratio is not None and ratio > 1.5 else ""
    return (
        f"{population(row.samples, row.samples_span)} by the policy's weights ({row.found:,} samples), "
        f"{population(row.independent, row.independent_span)} by annealed states{times} ({sigmas(row.z)})"
    )
