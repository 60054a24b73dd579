"""Writes the pages of docs/ that are made from the package's registries: python scripts/make_docs.py"""

from __future__ import annotations

from pathlib import Path

from molsampler.cli.pages import write_pages

if __name__ == "__main__":
    changed = write_pages(Path(__file__).resolve().parents[1] / "docs")
    print(f"written: {', '.join(changed)}" if changed else "all pages were up to date")
