"""The report in a real browser: no error in the console, every picture shown, nothing wider than the window."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from molsampler.store.run_directory import PICTURES

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
WIDTHS = (1280, 400)  # a headless window is never narrower than 500: a frame of that width stands for a telephone

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH")

PROBE = """<!doctype html><title>not ready</title><body>
{frames}
<script>
addEventListener("load", () => {{
  document.title = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument;
    return {{width: frame.contentWindow.innerWidth, scroll: page.scrollingElement.scrollWidth,
            pictures: [...page.images].map(i => i.naturalWidth), text: page.body.innerText}};
  }}));
}});
</script>"""


def look(page: Path) -> tuple[list[dict], list[str]]:
    """What a browser makes of a page at each of WIDTHS, and what it says in its console."""
    frames = "\n".join(
        f'<iframe src="{page.as_uri()}" style="width:{w}px;height:900px;border:0"></iframe>' for w in WIDTHS
    )
    probe = page.with_name("probe.html")
    probe.write_text(PROBE.format(frames=frames))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", "--window-size=1400,2000"]
    command += ["--virtual-time-budget=10000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL).group(1)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title)), console


def test_the_report_reads_well_on_a_desk_and_on_a_telephone(analysed_run) -> None:
    found, console = look(analysed_run[0] / "report.html")
    assert console == []
    assert [page["width"] for page in found] == list(WIDTHS)
    for page in found:
        assert page["scroll"] <= page["width"]
        assert len(page["pictures"]) == len(PICTURES) and min(page["pictures"]) > 0
        for said in (
            "This run can be trusted.",
            "Populations and free energies",
            "Distance from the reference",
            "make aldp",
        ):
            assert said in page["text"]
    assert max(found[1]["pictures"]) < min(found[0]["pictures"])  # the telephone is shown pictures of one column


def test_what_would_be_wrong_is_seen(tmp_path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><img src="nowhere.png"><div style="width:600px">wide</div><script>console.error("oh")</script>'
    )
    found, console = look(page)
    assert found[1]["scroll"] > found[1]["width"] and found[0]["pictures"] == [0]
    assert any("oh" in line for line in console)
