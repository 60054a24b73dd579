"""Where systems and their references lie: in systems/ here, in the installed package, in the source tree."""

from __future__ import annotations

from pathlib import Path

from molsampler.basis.errors import InputError
from molsampler.molecules.loading.settings import FILE

PACKAGED = Path(__file__).resolve().parents[2] / "systems"
"""What a wheel brings along; not there in the source tree."""
SOURCE_TREE = Path(__file__).resolve().parents[3] / "systems"
SHELF = "systems"  # under the current directory
REFERENCE = "reference"


def find_system_folder(name_or_path: str | Path) -> Path:
    """The folder that holds the system.toml meant by `name_or_path`: a folder, a system.toml, or a name in systems/.

    Names are looked up under the current directory, then in the installed package, then beside the source tree.
    Raises InputError where there is none.
    """
    given = Path(name_or_path)
    if given.name == FILE and given.is_file():
        return given.parent
    shelves = [Path.cwd() / SHELF, PACKAGED, SOURCE_TREE]
    for folder in [given, *(shelf / given for shelf in shelves)]:
        if (folder / FILE).is_file():
            return folder
    known = sorted({p.parent.name for shelf in shelves for p in shelf.glob(f"*/{FILE}")})
    raise InputError(
        f"no {FILE} found for molecule '{name_or_path}': give a folder that holds one, or one of the names in systems/ "
        f"({', '.join(known) or 'none here'})"
    )


def reference_folders(name_or_path: str | Path) -> list[Path]:
    """Folders where a system's reference may lie, in the order of looking; a new one is stored in the first.

    Beside the system.toml. But an installed package is not written to: the reference of a system that came with it is
    stored in systems/NAME/reference under the current directory. Raises InputError where there is no such system.
    """
    folder = find_system_folder(name_or_path)
    own = folder / REFERENCE
    resolved = folder.resolve()
    return [Path.cwd() / SHELF / resolved.name / REFERENCE, own] if resolved.parent == PACKAGED else [own]
