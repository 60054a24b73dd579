"""The report in a real browser: no error in the console, every picture shown, nothing wider than the window, and the
conformations turned, chosen and read by mouse, keyboard and screen reader."""

from __future__ import annotations

import pytest

from molsampler.store.run_directory import PICTURES  # and that of temperatures
from tests.browser import NO_WEBGL, WEBGL, look, needs_browser

WIDTHS = (1280, 400)

pytestmark = needs_browser

READ = """
  return {width: window.innerWidth, scroll: page.scrollingElement.scrollWidth,
          pictures: [...page.images].map(i => i.naturalWidth), text: page.body.innerText};
"""


def test_the_report_reads_well_on_a_desk_and_on_a_telephone(analysed_run) -> None:
    found, console = look(analysed_run[0] / "report.html", READ, WIDTHS)
    assert console == []
    assert [page["width"] for page in found] == list(WIDTHS)
    for page in found:
        assert page["scroll"] <= page["width"]
        assert len(page["pictures"]) == len(PICTURES) + 1 and min(page["pictures"]) > 0
        for said in (
            "This run can be trusted.",
            "Populations and free energies",
            "Distance from the reference",
            "Temperatures",
            "make aldp",
        ):
            assert said in page["text"]
    assert max(found[1]["pictures"]) < min(found[0]["pictures"])  # the telephone is shown pictures of one column


def test_what_would_be_wrong_is_seen(tmp_path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><img src="nowhere.png"><div style="width:600px">wide</div><script>console.error("oh")</script>'
    )
    found, console = look(page, READ, WIDTHS)
    assert found[1]["scroll"] > found[1]["width"] and found[0]["pictures"] == [0]
    assert any("oh" in line for line in console)


# A picture is a short text of the canvas' pixels: equal where the picture is.
USE = """
  const part = name => page.querySelector(`[data-part="${name}"]`);
  for (let k = 0; k < 200 && part("panel").hidden; k++) await new Promise(done => window.setTimeout(done, 20));
  const canvas = part("stage").querySelector("canvas");
  const sketch = page.createElement("canvas");
  sketch.width = canvas.width; sketch.height = canvas.height;
  const pixels = () => {
    const pen = sketch.getContext("2d", {willReadFrequently: true});
    pen.drawImage(canvas, 0, 0);
    return pen.getImageData(0, 0, sketch.width, sketch.height).data;
  };
  const picture = () => { let h = 0; for (const v of pixels()) h = (Math.imul(h, 31) + v) | 0; return h; };
  const inked = () => { let n = 0; const p = pixels(); for (let k = 0; k < p.length; k += 4) n += p[k + 1] < 250;
                        return n / (p.length / 4); };
  const set = (name, value) => { part(name).value = value;
                                 part(name).dispatchEvent(new window.Event(name === "scene" ? "change" : "input")); };
  const tick = name => part(name).click();
  const key = k => part("stage").dispatchEvent(new window.KeyboardEvent("keydown", {key: k, cancelable: true}));
  const buttons = [...page.querySelectorAll("button.state")];
  const options = [...part("scene").options].map(o => o.textContent);
"""


@pytest.fixture(scope="module")
def used(analysed_run):
    """Every step of a visit, at both widths: its picture and what is said."""
    script = (
        USE
        + """
  const steps = {};
  const note = name => { steps[name] = {picture: picture(), said: part("said").textContent, inked: inked(),
                                        count: part("count").textContent, scene: part("scene").value,
                                        pressed: buttons.filter(b => b.ariaPressed === "true").map(b => b.textContent),
                                        max: part("frame").max}; };
  note("first");
  key("ArrowLeft"); note("turned");
  page.querySelector("[data-action=right]").click(); note("turned back");
  key("+"); note("closer");
  key("Home"); note("home");
  tick("others"); note("alone"); tick("others");
  tick("hydrogens"); note("no hydrogens"); tick("hydrogens");
  set("scene", "1"); note("representatives");
  buttons[0].click(); note("basin");
  set("frame", "3"); note("third frame");
  buttons.at(-1).closest("tr").querySelector("td.n").click(); note("row");
  const named = [...page.querySelectorAll("#conformations button, #conformations select, #conformations input")];
  return {steps, options, tables: buttons.map(b => b.textContent),
          unnamed: named.filter(e => !(e.ariaLabel || e.textContent.trim() || e.labels?.length)).length,
          small: named.filter(e => e.type !== "checkbox" && e.getBoundingClientRect().height < 24).length,
          role: part("stage").getAttribute("role"), label: part("stage").ariaLabel, tab: part("stage").tabIndex,
          live: part("said").getAttribute("role"), shown: !part("panel").hidden, without: part("without").hidden,
          width: window.innerWidth, scroll: page.scrollingElement.scrollWidth, stage: part("stage").clientWidth,
          fetched: window.performance.getEntriesByType("resource").map(e => e.name).filter(n => !/^data:/.test(n))};
"""
    )
    found, console = look(analysed_run[0] / "report.html", script, WIDTHS, WEBGL)
    assert found[0] != "failed", found
    return found, [line for line in console if "GPU stall" not in line and "GL Driver" not in line]


def test_the_view_opens_fetches_nothing_and_fits(used) -> None:
    found, console = used
    assert console == []
    for page in found:
        assert page["shown"] and page["without"] and page["fetched"] == []
        assert page["scroll"] <= page["width"] and page["stage"] < page["width"] - 20  # a finger beside it scrolls
        assert 0.01 < page["steps"]["first"]["inked"] < 0.5


def test_the_view_turns_and_comes_back(used) -> None:
    for page in used[0]:
        steps = {name: step["picture"] for name, step in page["steps"].items()}
        assert steps["turned"] != steps["first"] and steps["closer"] != steps["first"]
        assert steps["turned back"] == steps["home"] == steps["first"]
        assert len({steps[name] for name in ("first", "alone", "no hydrogens", "representatives", "basin")}) == 5
        assert page["steps"]["alone"]["inked"] < page["steps"]["first"]["inked"]


def test_a_row_of_the_table_shows_its_state(used, analysed_run) -> None:
    for page in used[0]:
        steps = page["steps"]
        assert "frames of all states" in steps["first"]["said"]
        assert steps["first"]["pressed"] == [] and steps["first"]["scene"] == "0"
        assert steps["basin"]["pressed"] == [page["tables"][0]] and page["tables"][0] in steps["basin"]["said"]
        assert steps["basin"]["said"] in steps["third frame"]["said"] or steps["third frame"]["count"].startswith(
            "3 of"
        )
        assert steps["third frame"]["picture"] != steps["basin"]["picture"]
        assert steps["row"]["pressed"] == ["φ > 0"] and steps["row"]["count"] == "the central one"
        assert page["tables"][-1] == "φ > 0" and len(page["options"]) == len(page["tables"]) + 2


def test_the_view_can_be_used_by_keyboard_and_screen_reader(used) -> None:
    for page in used[0]:
        assert page["unnamed"] == 0 and page["small"] == 0
        assert page["role"] == "application" and "Arrow keys" in page["label"] and page["tab"] == 0
        assert page["live"] == "status"


def test_without_webgl_the_page_is_as_before_and_says_so(analysed_run) -> None:
    script = """
  await new Promise(done => window.setTimeout(done, 500));
  const part = name => page.querySelector(`[data-part="${name}"]`);
  return {panel: part("panel").hidden, without: part("without").innerText,
          buttons: page.querySelectorAll("td button").length, pictures: [...page.images].map(i => i.naturalWidth)};
"""
    (page,), console = look(analysed_run[0] / "report.html", script, (1280,), NO_WEBGL)
    assert console == [] and page["panel"] and "WebGL" in page["without"] and page["buttons"] == 0
    assert len(page["pictures"]) == len(PICTURES) + 1 and min(page["pictures"]) > 0
