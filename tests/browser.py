"""A real browser that looks at a page and uses it: headless Chromium, whose findings come back as JSON."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium or google-chrome on the PATH")
WEBGL = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist")
NO_WEBGL = ("--disable-gpu", "--disable-3d-apis")

_PROBE = """<!doctype html><title>not ready</title><body>
{frames}
<script>
const looked = async (frame) => {{
  const window = frame.contentWindow, page = frame.contentDocument;
  {script}
}};
addEventListener("load", async () => {{
  try {{
    const found = [];
    for (const frame of document.querySelectorAll("iframe")) found.push(await looked(frame));
    document.title = JSON.stringify(found);
  }} catch (error) {{ document.title = JSON.stringify(["failed", String(error)]); }}
}});
</script>"""


def look(page: Path, script: str, widths: tuple[int, ...], flags: tuple[str, ...] = NO_WEBGL) -> tuple[Any, list[str]]:
    """What `script`, the body of an async function of `window` and `page` (its document), returns for the page at each
    of the widths, and what the browser says in its console.

    A headless window is never narrower than 500: frames of these widths stand for a desk and a telephone.
    """
    frames = "\n".join(
        f'<iframe src="{page.as_uri()}" style="width:{w}px;height:900px;border:0"></iframe>' for w in widths
    )
    probe = page.with_name("probe.html")
    probe.write_text(_PROBE.format(frames=frames, script=script), encoding="utf-8")
    command = [BROWSER, "--headless", "--no-sandbox", "--allow-file-access-from-files", *flags]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--enable-logging=stderr", "--window-size=1400,2000"]
    command += ["--virtual-time-budget=10000", "--dump-dom", probe.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    title = re.search("<title>(.*?)</title>", done.stdout, re.DOTALL).group(1)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(title)), console
