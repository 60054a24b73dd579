"""Where systems and references are looked for: here, in the installed package, in the source tree."""

from __future__ import annotations

from pathlib import Path

import pytest

from molsampler.basis.errors import InputError
from molsampler.molecules.loading import folders
from molsampler.molecules.loading.folders import find_system_folder, reference_folders


def placed(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "system.toml").write_text("temperature = 300.0\n")
    return folder


@pytest.fixture
def shelves(tmp_path, monkeypatch) -> tuple[Path, Path, Path]:
    """systems/ of the current directory, of an installed package, of a source tree; none of them is made."""
    here, packaged, tree = (tmp_path / name / "systems" for name in ("here", "site-packages/molsampler", "tree"))
    here.parent.mkdir()
    monkeypatch.chdir(here.parent)
    monkeypatch.setattr(folders, "PACKAGED", packaged)
    monkeypatch.setattr(folders, "SOURCE_TREE", tree)
    return here, packaged, tree


def test_a_name_is_looked_up_here_then_in_the_package_then_in_the_source_tree(shelves):
    for shelf in reversed(shelves):
        folder = placed(shelf / "mine")
        assert find_system_folder("mine") == folder


def test_the_names_on_all_shelves_are_told(shelves):
    for shelf, name in zip(shelves, ("one", "two", "three"), strict=True):
        placed(shelf / name)
    with pytest.raises(InputError, match=r"molecule 'four'.*\(one, three, two\)"):
        find_system_folder("four")


def test_a_reference_lies_beside_its_system(shelves):
    here, _, tree = shelves
    assert reference_folders(placed(tree / "mine")) == reference_folders("mine") == [tree / "mine" / "reference"]
    placed(here / "mine")
    assert reference_folders("mine") == [here / "mine" / "reference"]


def test_the_reference_of_a_system_in_the_package_is_stored_here(shelves):
    """A folder that holds nothing but a reference does not hide the system."""
    here, packaged, _ = shelves
    folder = placed(packaged / "mine")
    (here / "mine" / "reference").mkdir(parents=True)
    expected = [here / "mine" / "reference", folder / "reference"]
    for name in ("mine", folder, folder / "system.toml"):
        assert reference_folders(name) == expected
