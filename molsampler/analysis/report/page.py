"""report.html: one file that needs no network, with the verdict in words, the pictures and all that repeats the run."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from molsampler.analysis.pictures.figures import greek as greek_torsion
from molsampler.analysis.report.viewer_files import packed_library, viewer_file
from molsampler.analysis.study import Coverage
from molsampler.store.atomic import write_text

_TEMPLATES = Environment(
    loader=PackageLoader("molsampler.analysis.report", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


HEAVY = 0.01  # of all weight, by one sample: its chance draw moves populations of rare basins


@dataclass(frozen=True)
class Verdict:
    """headline : a short sentence;  level : "good", "care" or "poor";  sentences : the reasons"""

    headline: str
    level: str
    sentences: list[str]


@dataclass(frozen=True)
class BasinRow:
    """Populations as fractions, free energies in kJ/mol, each with its standard error; None where there is none.

    found : how many of the raw samples lie in the basin;  deviation : of the population, in standard errors
    span : one-sigma interval where few effective samples lie there;  heaviest : share of a single sample in all weight
    smoothed : population by Pareto-smoothed weights
    """

    name: str
    found: int
    value: float
    stderr: float
    free_energy: tuple[float, float] | None = None
    reference: float | None = None
    reference_stderr: float | None = None
    reference_free_energy: tuple[float, float] | None = None
    deviation: float | None = None
    span: tuple[float, float] | None = None
    heaviest: float = 0.0
    smoothed: float | None = None

    @property
    def heavy(self) -> bool:
        """Whether a single sample there carries a per cent or more of all weight, or of this basin's a third."""
        return self.heaviest >= HEAVY or (self.value > 0 and self.found > 1 and self.heaviest > self.value / 3)


@dataclass(frozen=True)
class ComparedRow:
    """One figure against the reference, as text: reweighted, raw, the floor, and whether it lies above it; rows of one
    group follow each other."""

    group: str
    label: str
    reweighted: str
    raw: str
    floor: str
    above: bool


@dataclass(frozen=True)
class Picture:
    """title and sentence; wide, and narrow for a telephone: PNG files as bytes"""

    title: str
    text: str
    wide: bytes
    narrow: bytes | None = None

    @property
    def width(self) -> int:
        """CSS pixels at which the text of all pictures has one size; the picture's own width stands in its header."""
        return int.from_bytes(self.wide[16:20], "big") * 96 // 150


@dataclass(frozen=True)
class TemperatureSection:
    """A policy for a range of temperatures. rows : cells as text, and whether the row is marked;  limit : standard
    errors beyond which it is;  first : the temperature that entropies are against, as text
    """

    rows: list[tuple[list[str], bool]]
    limit: float
    first: str
    picture: Picture | None


@dataclass(frozen=True)
class ViewerData:
    """data : what the page's script reads, see `viewer_data.viewer_data`
    scenes : number of the scene of each (label, state) that has one
    """

    data: dict[str, Any]
    scenes: dict[tuple[str, str], int] = field(default_factory=dict)

    def scene(self, label: str, state: str) -> int | None:
        """The scene of a row of a table; None where no sample of that state has weight."""
        return self.scenes.get((label, state))


@dataclass(frozen=True)
class Report:
    """All that the template shows; the texts are plain sentences."""

    title: str
    molecule: list[tuple[str, str]]
    method: str
    verdict: Verdict
    map: Picture | None
    residues: list[tuple[str, list[BasinRow]]]
    compared: list[ComparedRow]
    compared_text: str
    pictures: list[Picture]
    figures: list[tuple[str, str, str, str]]
    repeat: list[tuple[str, str]]
    config: str
    has_reference: bool
    notes: list[str] = field(default_factory=list)
    coverage: Coverage | None = None
    coverage_limit: float = 0.0
    smooths: bool = False
    conformations: Picture | None = None
    viewer: ViewerData | None = None
    temperatures: TemperatureSection | None = None


def percent(value: float | None, stderr: float | None = None) -> str:
    """A fraction in per cent with its error, to two digits of the error: "27.31 ± 0.44 %"."""
    if value is None or value != value:
        return "–"
    if stderr is None or not 0 < stderr < 1:
        return f"{100 * value:.3g}\u00a0%"
    digits = max(0, min(6, 1 - _exponent(100 * stderr)))
    return f"{100 * value:.{digits}f} ± {100 * stderr:.{digits}f}\u00a0%"


def percent_between(value: float, low: float, high: float) -> str:
    """A fraction in per cent with an interval that goes further one way: "0.042 (0.021 to 0.081) %"."""
    digits = max(0, min(6, 1 - _exponent(100 * (high - low) / 2))) if high > low else 3
    return f"{100 * value:.{digits}f} ({100 * low:.{digits}f} to {100 * high:.{digits}f})\u00a0%"


def population(estimate: tuple[float, float], span: tuple[float, float]) -> str:
    """A population with its error, or with its interval where that goes further one way."""
    value, stderr = estimate
    even = abs(span[1] + span[0] - 2 * value) < 0.02 * (span[1] - span[0])
    return percent(value, stderr) if even else percent_between(value, *span)


def sigmas(deviation: float | None) -> str:
    """A deviation in standard errors: "+1.2 σ"; "–" where none is known."""
    return "–" if deviation is None else f"{deviation:+.1f}\u00a0σ".replace("-0.0", "+0.0").replace("-", "−")


def greek(name: str) -> str:
    """A basin's name with Greek letters: "alphaL" is "αL", "phi > 0" is "φ > 0"."""
    return name.replace("alpha", "α").replace("phi", "φ")


def number(value: float | int | str | None, stderr: float | None = None) -> str:
    """A number for a table, with as many digits as its error allows; "–" where there is none."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return "–"
    if isinstance(value, str):
        return value
    if stderr is not None and stderr == stderr and stderr > 0:
        digits = max(0, 1 - _exponent(stderr))
        return f"{value:,.{digits}f} ± {stderr:.{digits}f}"
    if isinstance(value, int) or (float(value).is_integer() and abs(value) < 1e12):
        return f"{int(value):,}"
    return f"{value:.4g}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1])


def picture(title: str, text: str, path: Path, narrow: bytes | None = None) -> Picture | None:
    """A picture of the run directory; None where it is not there."""
    return Picture(title, text, path.read_bytes(), narrow) if path.is_file() else None


def write_report(report: Report, path: str | Path) -> None:
    """Renders the report with its pictures embedded."""
    write_page("report.html", path, report=report)


def write_page(template: str, path: str | Path, **shown: Any) -> None:
    """Renders a template of this room with what it shows, pictures embedded, into one file."""
    helpers = {"percent": percent, "number": number, "sigmas": sigmas, "greek": greek, "embedded": _embedded}
    helpers |= {"population": population, "greek_torsion": greek_torsion}
    helpers |= {"viewer_file": viewer_file, "packed_library": packed_library}
    write_text(path, _TEMPLATES.get_template(template).render(**shown, **helpers))


def _embedded(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
