"""The gallery: a finished run becomes an entry with small pictures, and the page shows every entry there is."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from molsampler.basis.errors import InputError
from molsampler.cli.gallery import WIDTH, add_to_gallery, gallery_page
from molsampler.store.run_directory import RunDirectory

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def finished(tmp_path, peptide) -> Path:
    """A run directory with what the gallery takes."""
    run = RunDirectory(tmp_path / "somewhere")
    run.path.mkdir()
    zeros = np.zeros(3)
    run.write_samples(np.repeat(peptide.positions[None], 3, 0), peptide.topology, zeros, zeros, zeros)
    run.write_metrics({"ess": (0.9051, 0.0024), "samples": 10_000, "evaluations": 7_832_448, "training_seconds": 861.8})
    (run / "config.toml").write_text('system = "systems/aldp"\n')
    pixels = np.random.default_rng(0).random((600, 1500, 3))
    for name in ("conformations.png", "ramachandran.png", "torsions.png"):
        matplotlib.image.imsave(run / name, pixels)
    return run.path


def test_a_run_is_added_and_shown(finished, tmp_path):
    docs = tmp_path / "docs"
    written = add_to_gallery(finished, docs, "alanine dipeptide", "molsampler train aldp")
    assert all((docs / name).is_file() for name in written)
    page = (docs / "GALLERY.md").read_text()
    assert page == gallery_page(docs)
    assert "## Alanine dipeptide" in page and "    molsampler train aldp\n" in page
    assert "22 atoms, ESS 90.51 ± 0.24\u00a0% of 10,000 samples, 862 s of training, 7.8 million energies." in page
    shown = re.findall(r"!\[(.+)\]\((.+)\)", page)
    assert [path for _, path in shown] == ["gallery/aldp_conformations.png", "gallery/aldp_ramachandran.png"]
    for _, path in shown:
        assert matplotlib.image.imread(docs / path).shape[:2] == (WIDTH * 600 // 1500, WIDTH)


def test_a_molecule_without_backbone_shows_its_torsions(finished, tmp_path):
    (finished / "ramachandran.png").unlink()
    add_to_gallery(finished, tmp_path / "docs", "ACE-GLY-NME, in a 'box'", "molsampler train gly", name="gly")
    page = (tmp_path / "docs" / "GALLERY.md").read_text()
    assert "## ACE-GLY-NME, in a 'box'\n" in page
    assert re.findall(r"\((gallery/.*)\)", page) == ["gallery/gly_conformations.png", "gallery/gly_torsions.png"]
    words = shlex.split(next(line for line in page.splitlines() if "make_gallery" in line))
    assert words[2:] == ["runs/gly", "--title", "ACE-GLY-NME, in a 'box'", "--command", "molsampler train gly"]


def test_the_smallest_molecule_comes_first_and_a_run_is_replaced(finished, tmp_path):
    docs = tmp_path / "docs"
    add_to_gallery(finished, docs, "alanine dipeptide", "molsampler train aldp")
    entry = json.loads((docs / "gallery" / "aldp.json").read_text())
    (docs / "gallery" / "water.json").write_text(json.dumps({**entry, "atoms": 3, "title": "water", "name": "water"}))
    (docs / "gallery" / "big.json").write_text(json.dumps({**entry, "atoms": 60, "title": "a big one", "name": "big"}))
    add_to_gallery(finished, docs, "alanine dipeptide", "molsampler train aldp --minutes 5")
    page = (docs / "GALLERY.md").read_text()
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["Water", "Alanine dipeptide", "A big one"]
    assert page.count("    molsampler train aldp --minutes 5\n") == 1


def test_the_command_on_the_page_adds_the_entry(finished, tmp_path):
    docs = tmp_path / "docs"
    add_to_gallery(finished, docs, "alanine dipeptide", "molsampler train aldp")
    command = next(line for line in (docs / "GALLERY.md").read_text().splitlines() if "make_gallery" in line)
    shutil.copytree(finished, tmp_path / "runs" / "aldp")
    words = [*shlex.split(command)[1:], "--docs", "again"]
    words[0] = str(ROOT / words[0])
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "again" / "GALLERY.md").read_text() == (docs / "GALLERY.md").read_text()


def test_a_folder_without_an_analysed_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty' holds no analysed run: name one with a report.html"):
        add_to_gallery(tmp_path / "empty", tmp_path, "nothing", "true")
    assert not (tmp_path / "gallery").exists()
