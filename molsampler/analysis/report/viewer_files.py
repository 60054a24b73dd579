"""The files of the report's interactive view: the page's own script, 3Dmol.js and its licences."""

from __future__ import annotations

import base64
import gzip
from functools import cache
from importlib import resources


@cache
def viewer_file(name: str) -> str:
    """The text of a file of the folder viewer/."""
    return (resources.files("molsampler.analysis.report") / "viewer" / name).read_text(encoding="utf-8")


@cache
def packed_library() -> str:
    """3Dmol.js as gzip in base64: 0.2 MB in place of 0.5."""
    return base64.b64encode(gzip.compress(viewer_file("3Dmol-min.js").encode("utf-8"), mtime=0)).decode("ascii")
