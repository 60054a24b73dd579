"""docs/GALLERY.md: what runs look like. An entry is a JSON file and small pictures in docs/gallery/; the page is made
of all entries that are there."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import mdtraj as md
from PIL import Image

from molsampler.analysis.report.page import number, percent
from molsampler.basis.errors import InputError
from molsampler.store.atomic import atomic_path, write_json, write_text
from molsampler.store.config_file import load_toml
from molsampler.store.run_directory import RunDirectory

WIDTH = 900  # pixels of a small picture
SHOWN = {
    "conformations.png": "Conformations, the central one of each state in front of others drawn by weight",
    "ramachandran.png": "Free energy over φ and ψ",
    "torsions.png": "Marginals of the soft torsions",
}
_PAGE = """# Gallery

What runs look like. Made by `make docs` from the entries in `docs/gallery/`; each of them by the commands above its
pictures, the last of which adds a finished run to this page or replaces it. The pictures are those of the run's
`report.html`, made smaller; there the molecule can be turned as well, and a row of the table of states shows the frames
of its state.
"""


def add_to_gallery(run: Path, docs: Path, title: str, command: str, name: str = "") -> list[str]:
    """Adds a run's pictures and figures to docs/gallery and writes the page anew; returns the files that it wrote.

    title : of the molecule, for people;  command : what made the run;  name : of the entry, by default the system's.
    Raises InputError where the folder holds no analysed run.
    """
    directory = RunDirectory(run)
    metrics = directory.load_metrics()
    second = "ramachandran.png" if (run / "ramachandran.png").is_file() else "torsions.png"
    pictures = [picture for picture in ("conformations.png", second) if (run / picture).is_file()]
    if not metrics or not pictures or not (run / "config.toml").is_file():
        raise InputError(f"'{run}' holds no analysed run: name one with a report.html, such as runs/aldp.")
    name = name or Path(str(load_toml(run / "config.toml")["system"])).name
    gallery = docs / "gallery"
    gallery.mkdir(parents=True, exist_ok=True)
    topology = md.load_topology(str(run / "topology.pdb"))
    entry = {
        "title": title,
        "name": name,
        "run": f"runs/{name}",
        "command": command,
        "atoms": topology.n_atoms,
        "pictures": pictures,
        **{key: metrics.get(key) for key in ("samples", "ess", "training_seconds", "evaluations")},
    }
    write_json(gallery / f"{name}.json", entry)
    for picture in pictures:
        with atomic_path(gallery / f"{name}_{picture}") as path:
            _shrink(run / picture, path)
    write_text(docs / "GALLERY.md", gallery_page(docs))
    return [f"gallery/{name}.json", *(f"gallery/{name}_{picture}" for picture in pictures), "GALLERY.md"]


def _shrink(picture: Path, path: Path) -> None:
    """A PNG of at most WIDTH pixels across."""
    with Image.open(picture) as image:
        small = image.convert("RGB")
        small.thumbnail((WIDTH, 10 * WIDTH))
        small.save(path, format="PNG", optimize=True)


def gallery_page(docs: Path) -> str:
    """docs/GALLERY.md: every entry of docs/gallery, the smallest molecule first."""
    entries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((docs / "gallery").glob("*.json"))]
    entries.sort(key=lambda entry: (entry["atoms"], entry["name"]))
    return "\n".join([_PAGE, *(_section(entry) for entry in entries)])


def _section(entry: dict[str, Any]) -> str:
    name, ess = entry["name"], entry["ess"]
    said = [
        f"{entry['atoms']} atoms",
        f"ESS {percent(ess['value'], ess['stderr'])} of {number(entry['samples']['value'])} samples",
    ]
    for key, text, unit in (
        ("training_seconds", "{:,.0f} s of training", 1),
        ("evaluations", "{:.2g} million energies", 1e6),
    ):
        if entry[key] is not None and entry[key]["value"] is not None:
            said.append(text.format(entry[key]["value"] / unit))
    title, command = shlex.quote(entry["title"]), shlex.quote(entry["command"])
    add = f"python scripts/make_gallery.py {entry['run']} --title {title} --command {command}"
    lines = [
        f"## {entry['title'][:1].upper()}{entry['title'][1:]}",
        "",
        f"{', '.join(said)}.",
        "",
        f"    {entry['command']}",
        f"    {add}",
        "",
    ]
    for picture in entry["pictures"]:
        lines += [f"![{SHOWN[picture]}](gallery/{name}_{picture})", ""]
    return "\n".join(lines)
