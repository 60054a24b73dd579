"""Adds a finished run to docs/GALLERY.md, or replaces it there:

    python scripts/make_gallery.py runs/aldp --title "alanine dipeptide" --command "molsampler train aldp"

What is kept of it is in docs/gallery: a JSON file, and its pictures made small.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from molsampler.cli.gallery import add_to_gallery
from molsampler.cli.output import guarded

DOCS = Path(__file__).resolve().parents[1] / "docs"


def main() -> None:
    parser = argparse.ArgumentParser(description="Adds a finished run to docs/GALLERY.md.")
    parser.add_argument("run", type=Path, help="its folder, with a report.html in it")
    parser.add_argument("--title", required=True, help="what the molecule is called")
    parser.add_argument("--command", required=True, help="what made the run")
    parser.add_argument("--name", default="", help="of its entry in docs/gallery; by default the system's")
    parser.add_argument("--docs", type=Path, default=DOCS, help="where GALLERY.md is")
    words = parser.parse_args()
    print("written:", ", ".join(add_to_gallery(words.run, words.docs, words.title, words.command, words.name)))


if __name__ == "__main__":
    sys.exit(guarded("make_gallery.py", main))
