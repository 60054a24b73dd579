"""The pages of docs/ that are made from registries: every setting, every column of metrics.csv, every figure; and the
gallery, of its entries.

`make docs` writes them; a test holds the pages in the tree against what would be written.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from molsampler.analysis.report.metric_names import GROUPS
from molsampler.basis.settings import POSITIVE, About, about, walk
from molsampler.cli.gallery import gallery_page
from molsampler.runs.density import DensityConfig
from molsampler.runs.molecule import RunConfig
from molsampler.runs.presets import PRESETS
from molsampler.runs.synthetic_config import SyntheticConfig
from molsampler.store.atomic import write_text
from molsampler.training.config import TrainConfig
from molsampler.training.rows import COLUMNS

_SETTINGS = """# Settings

Made by `make docs` from the package. A run is told all of this by one configuration: a preset, then a TOML file
(`--config`), then options of the command line. What came out of it is in the run's `config.toml`, which can be given to
`--config` again. A value of a wrong type or out of range is refused before anything is done; a setting that was changed
and has no effect with the others chosen is told when a run begins.

In a file, a setting is a key of its table; numbers of updates that are left out are decided by `minutes`:

    samples = 2000
    [train]
    minutes = 30.0
    [train.policy]
    width = 128

The same from Python:

    config = molsampler.change(
        molsampler.preset("cpu"), samples=2000, train={"minutes": 30.0, "policy": {"width": 128}}
    )
"""
_OWN = (
    ("A molecule", "`molsampler train`, `scripts/run_aldp.py`, `molsampler.start(system)`", RunConfig),
    ("A density of one's own", "`molsampler.start(target=...)`, see [DENSITIES.md](DENSITIES.md)", DensityConfig),
    (
        "A synthetic target",
        "`scripts/run_synthetic.py`; `molsampler/runs/synthetic_config.py` has what a target changes of these and of "
        "[train]",
        SyntheticConfig,
    ),
)
_COLUMNS = """# Columns of metrics.csv

Made by `make docs` from the package. One row an evaluation: by default 60 over a run, evenly spread over the updates.
An evaluation draws samples of the averaged policy with random numbers of its own and keeps nothing of them, so that
looking more often changes no number that is trained. A cell is empty where a value is unknown or not finite. Of a
target with conditions, ESS, ELBO, EUBO and both kinds of log Z are means over 32 held-out conditions; of a run at
several temperatures, over those that it is looked at. There `smc_log_z` alone is of Z(T) over the guess that training
starts from, and near 0.
"""


def pages(docs: Path) -> dict[str, str]:
    """Each page's text by its name; of METRICS.md the table of names alone is made, the rest stays as it is in
    `docs`."""
    return {
        "SETTINGS.md": settings_page(),
        "METRICS_CSV.md": columns_page(),
        "GALLERY.md": gallery_page(docs),
        "METRICS.md": metrics_page((docs / "METRICS.md").read_text(encoding="utf-8")),
    }


def write_pages(docs: Path) -> list[str]:
    """Write them into `docs`; returns the names of those that changed."""
    changed = []
    for name, text in pages(docs).items():
        path = docs / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            changed.append(name)
    return changed


def settings_page() -> str:
    """docs/SETTINGS.md."""
    parts = [_SETTINGS]
    for title, where, config in _OWN:
        parts.append(f"## {title}\n\n{where}\n")
        parts += [_table_of(path, kind) for path, kind in _tables(config) if not path.startswith("train")]
    changed = ", ".join(_changes(RunConfig().train, TrainConfig(), "train."))
    parts.append(f"## Training\n\nThe same for all of them, but a run on a molecule begins with {changed}.\n")
    parts += [_table_of(path, kind) for path, kind in _tables(RunConfig) if path.startswith("train")]
    parts.append(_presets())
    return "\n".join(parts)


def columns_page() -> str:
    """docs/METRICS_CSV.md."""
    rows = ((f"`{column.name}`", column.unit, column.meaning) for column in COLUMNS)
    return f"{_COLUMNS}\n{_markdown(('column', 'unit', 'meaning'), rows)}"


def metrics_page(text: str) -> str:
    """docs/METRICS.md, whose table of names is made anew."""
    parts = ["## All names\n"]
    for title, figures in GROUPS.items():
        rows = ((f"`{figure.name}`", figure.unit, figure.meaning) for figure in figures)
        parts.append(f"### {title}\n\n{_markdown(('name', 'unit', 'meaning'), rows)}")
    made = "\n".join(parts) + "\n"
    return re.sub(r"^## All names\n.*?(?=^## Convergence)", lambda match: made, text, flags=re.MULTILINE | re.DOTALL)


def _tables(kind: type, path: str = "") -> Iterator[tuple[str, type]]:
    """(path with dots, dataclass) of a configuration and of every table in it, in the order of a file."""
    yield path, kind
    for field, inner in _fields(kind):
        if dataclasses.is_dataclass(inner):
            yield from _tables(inner, f"{path}.{field.name}" if path else field.name)


def _fields(kind: type) -> Iterator[tuple[dataclasses.Field, Any]]:
    hints = get_type_hints(kind)
    return ((field, hints[field.name]) for field in dataclasses.fields(kind))


def _table_of(path: str, kind: type) -> str:
    """One TOML table: its heading, what it is, and a row a setting."""
    rows = (
        (
            f"`{field.name}`",
            _value(field.default),
            about(field).unit,
            _range(about(field), hint),
            about(field).text,
            _needs(about(field)),
        )
        for field, hint in _fields(kind)
        if not dataclasses.is_dataclass(hint)
    )
    heads = ("setting", "default", "unit", "may be", "what it is", "has an effect only where")
    heading = f"### [{path}]\n\n{' '.join(kind.__doc__.split())}\n\n" if path else ""
    return heading + _markdown(heads, rows)


def _value(value: Any) -> str:
    """As a file says it; what cannot be said there is left out of it."""
    if value is None:
        return "left out"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else f"{value:_}" if isinstance(value, int) else f"{value:g}"


def _range(said: About, hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(_value(choice) for choice in get_args(hint))
    if hint is bool:
        return "true, false"
    words = [
        text.format(bound)
        for text, bound in (
            ("at least {:g}", said.low),
            ("more than {:g}", said.above),
            ("at most {:g}", said.high),
            ("less than {:g}", said.below),
        )
        if bound is not None
    ]
    whole = "whole, " if int in (get_args(hint) or (hint,)) else ""
    return f"{whole}{', '.join(words)}" if words else {str: "text"}.get(hint, "any")


def _needs(said: About) -> str:
    return "; ".join(f"`{name}` is {_wanted(wanted)}" for name, wanted in said.needs)


def _wanted(wanted: Any) -> str:
    choices = wanted if isinstance(wanted, tuple) else (wanted,)
    return " or ".join(choice if choice is POSITIVE else _value(choice) for choice in choices)


def _presets() -> str:
    """What each preset changes of the defaults."""
    parts = ["## Presets\n\nOf a run on a molecule; what they change of what it begins with.\n"]
    for name, make in PRESETS.items():
        changed = _changes(make(), RunConfig())
        parts.append(f"- **{name}**: {make.__doc__} {', '.join(changed) or 'The defaults themselves'}.")
    return "\n".join(parts) + "\n"


def _changes(config: Any, defaults: Any, path: str = "") -> list[str]:
    """What a configuration has that its defaults have not."""
    known = {name: value for name, _, _, value in walk(defaults)}
    return [f"`{path}{name}` {_value(value)}" for name, _, _, value in walk(config) if value != known[name]]


def _markdown(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table; a bar inside a cell is escaped."""
    heads = tuple(heads)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"
