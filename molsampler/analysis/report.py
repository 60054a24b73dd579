"""report.html: one file that needs no network, with the verdict in words, the pictures and all that repeats the run."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from molsampler.files import write_text

_TEMPLATES = Environment(
    loader=PackageLoader("molsampler.analysis", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class BasinRow:
    """Populations as fractions with standard errors; the reference's None where there is none.

    found : how many of the raw samples lie in the basin
    """

    name: str
    found: int
    value: float
    stderr: float
    reference: float | None = None
    reference_stderr: float | None = None
    deviation: float | None = None


@dataclass(frozen=True)
class Report:
    """All that the template shows; the texts are plain sentences, the pictures (title, sentence, path) in order."""

    title: str
    molecule: list[tuple[str, str]]
    method: str
    verdict: list[str]
    good: bool
    pictures: list[tuple[str, str, Path]]
    basins: list[BasinRow]
    figures: list[tuple[str, str, str]]
    repeat: list[tuple[str, str]]
    config: str
    notes: list[str] = field(default_factory=list)


def percent(value: float | None, stderr: float | None = None) -> str:
    """A fraction in per cent with its error, to two digits of the error: "27.31 ± 0.44 %"."""
    if value is None or value != value:
        return "–"
    if stderr is None or not 0 < stderr < 1:
        return f"{100 * value:.3g}\u00a0%"
    digits = max(0, min(4, 1 - _exponent(100 * stderr)))
    return f"{100 * value:.{digits}f} ± {100 * stderr:.{digits}f}\u00a0%"


def sigmas(deviation: float | None) -> str:
    """A deviation in standard errors: "+1.2 σ"; "–" where none is known."""
    return "–" if deviation is None else f"{deviation:+.1f}\u00a0σ".replace("-0.0", "+0.0").replace("-", "−")


def greek(name: str) -> str:
    """A basin's name with Greek letters: "alphaL" is "αL", "phi > 0" is "φ > 0"."""
    return name.replace("alpha", "α").replace("phi", "φ")


def number(value: float | int | str | None, stderr: float | None = None) -> str:
    """A number for a table, with as many digits as its error allows; "–" where there is none."""
    if value is None or value != value:
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


def write_report(report: Report, path: str | Path) -> None:
    """Renders the report with its pictures embedded."""
    template = _TEMPLATES.get_template("report.html")
    pictures = [(title, text, picture.read_bytes()) for title, text, picture in report.pictures if picture.is_file()]
    pictures = [(title, text, base64.b64encode(png).decode("ascii"), _is_wide(png)) for title, text, png in pictures]
    write_text(path, template.render(report=report, pictures=pictures, percent=percent, sigmas=sigmas, greek=greek))


def _is_wide(png: bytes) -> bool:
    """Whether a picture is too wide to be read on a telephone without scrolling; size as in its header."""
    return int.from_bytes(png[16:20], "big") > 2 * int.from_bytes(png[20:24], "big")
