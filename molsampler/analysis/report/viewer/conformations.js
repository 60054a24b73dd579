// The interactive view of report.html: draws the scenes of the page's JSON with 3Dmol.js, and links them to its tables.
"use strict";
(async () => {
  const section = document.getElementById("conformations");
  if (!section) return;
  const part = (name) => section.querySelector(`[data-part="${name}"]`);
  const stage = part("stage"), choice = part("scene"), slider = part("frame"), said = part("said");
  const STICK = 0.13, BALL = 0.24, THIN = 0.035, TURN = 15, ZOOM = 1.25;

  const bytesOf = (text) => Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));

  async function loadLibrary() {
    const packed = new Blob([bytesOf(document.getElementById("viewer-library").textContent)]);
    const stream = packed.stream().pipeThrough(new DecompressionStream("gzip"));
    const script = document.createElement("script");
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  }

  function hasWebGL() {
    const canvas = document.createElement("canvas");
    const context = canvas.getContext("webgl2") || canvas.getContext("webgl");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return Boolean(context);
  }

  // Half of a colour and half of the white background: thin frames stand behind thick ones.
  const pale = (colour) =>
    "#" + [1, 3, 5].map((k) => Math.round((parseInt(colour.slice(k, k + 2), 16) + 255) / 2).toString(16)).join("");

  if (!hasWebGL() || !("DecompressionStream" in window)) return; // the page stays as it is without a view
  await loadLibrary();
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const picometres = new Int16Array(bytesOf(data.positions).buffer);
  const n = data.elements.length;
  const bonds = data.elements.map(() => []);
  for (const [i, j] of data.bonds) { bonds[i].push(j); bonds[j].push(i); }

  part("panel").hidden = false; // first: a stage without a size has no view
  let viewer = null, scene = null, home = null;
  try {
    viewer = $3Dmol.createViewer(stage, { backgroundColor: "white", antialias: true });
  } catch {
    part("panel").hidden = true;
    return;
  }
  part("without").hidden = true;

  // Atoms of one frame for 3Dmol.js, in angstroms, numbered from `first`.
  function atomsOf(frame, first, hydrogens) {
    const kept = (k) => hydrogens || data.elements[k] !== "H";
    return data.elements.flatMap((elem, k) => {
      if (!kept(k)) return [];
      const [x, y, z] = picometres.subarray(3 * (frame * n + k), 3 * (frame * n + k) + 3);
      return [{ elem, x: x / 100, y: y / 100, z: z / 100, index: first + k,
                bonds: bonds[k].filter(kept).map((m) => first + m) }];
    });
  }

  function addThick(frame, colour, balls) {
    const model = viewer.addModel();
    model.addAtoms(atomsOf(frame, 0, part("hydrogens").checked));
    const style = (color) => ({ stick: { radius: STICK, color }, ...(balls && { sphere: { scale: BALL, color } }) });
    model.setStyle({}, style(colour));
    for (const [elem, color] of Object.entries(data.colours)) model.setStyle({ elem }, style(color));
  }

  function addThin(frames) {
    for (const colour of new Set(frames.map(([, colour]) => colour))) { // one model a colour: a hundred would be slow
      const members = frames.filter((item) => item[1] === colour);
      const model = viewer.addModel();
      model.addAtoms(members.flatMap(([frame], k) => atomsOf(frame, k * n, false)));
      model.setStyle({}, { stick: { radius: THIN, color: pale(colour) } });
    }
  }

  function draw() {
    const at = Number(slider.value);
    const thick = at ? [scene.thin[at - 1]] : scene.thick;
    viewer.removeAllModels();
    if (part("others").checked) addThin(scene.thin.filter(([frame]) => thick.every(([other]) => other !== frame)));
    for (const [frame, colour] of thick) addThick(frame, colour, thick.length === 1);
    if (home) viewer.render();
    else { viewer.zoomTo(); viewer.zoom(1.15); viewer.render(); home = viewer.getView(); }
    const which = thick.length > 1 ? "" : ` ${at ? "Thick" : "Thick, the central one"}: ${data.said[thick[0][0]]}.`;
    said.textContent = scene.said + which;
    part("count").textContent = at ? `${at} of ${scene.thin.length}` : scene.thin.length ? "the central one" : "–";
    slider.setAttribute("aria-valuetext", at ? `frame ${at} of ${scene.thin.length}` : "the central frame");
  }

  function choose(number) {
    scene = data.scenes[number];
    choice.value = String(number);
    slider.max = String(scene.thin.length);
    slider.value = "0";
    slider.disabled = scene.thin.length < 2;
    part("legend").replaceChildren(...scene.legend.map(([colour, name]) => {
      const item = document.createElement("li");
      item.append(swatch(colour), name);
      return item;
    }));
    for (const button of document.querySelectorAll("button[data-scene]")) {
      const chosen = button.dataset.scene === String(number);
      button.setAttribute("aria-pressed", String(chosen));
      button.closest("tr").classList.toggle("chosen", chosen);
    }
    draw();
  }

  function swatch(colour) {
    const mark = document.createElement("i");
    mark.className = "swatch";
    mark.style.background = colour;
    return mark;
  }

  function fillChoice() {
    const groups = new Map([["", choice]]);
    data.scenes.forEach(({ group, name }, number) => {
      if (!groups.has(group)) {
        const made = document.createElement("optgroup");
        made.label = group;
        choice.append(made);
        groups.set(group, made);
      }
      groups.get(group).append(new Option(name, number));
    });
  }

  // A row of a table gets a button in place of its state's name; the rest of the row can be clicked as well.
  function linkTables() {
    for (const cell of document.querySelectorAll("td[data-scene]")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "state";
      button.dataset.scene = cell.dataset.scene;
      button.setAttribute("aria-pressed", "false");
      button.title = "show its frames";
      button.append(swatch(data.scenes[cell.dataset.scene].thick[0][1]), cell.textContent.trim());
      cell.replaceChildren(button);
      const row = cell.closest("tr");
      row.classList.add("linked");
      row.addEventListener("click", () => {
        if (!getSelection().isCollapsed) return; // somebody marks a number to copy it
        choose(Number(cell.dataset.scene));
        const { top, bottom } = stage.getBoundingClientRect();
        if (bottom < 80 || top > innerHeight - 80) stage.scrollIntoView({ block: "nearest" });
      });
    }
  }

  const turn = (x, y) => { viewer.rotate(TURN * x, "vx"); viewer.rotate(TURN * y, "vy"); viewer.render(); };
  const ACTIONS = {
    left: () => turn(0, -1), right: () => turn(0, 1), up: () => turn(-1, 0), down: () => turn(1, 0),
    closer: () => viewer.zoom(ZOOM), farther: () => viewer.zoom(1 / ZOOM), home: () => viewer.setView(home),
  };
  const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down",
                 "+": "closer", "=": "closer", "-": "farther", Home: "home", 0: "home" };

  stage.addEventListener("keydown", (event) => {
    const action = KEYS[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    ACTIONS[action]();
  });
  // The wheel scrolls the page, and zooms only where the view was chosen first or with Ctrl, as in a map.
  stage.addEventListener("pointerdown", () => stage.focus({ preventScroll: true }), { capture: true });
  stage.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && document.activeElement !== stage) event.stopPropagation();
  }, { capture: true });
  for (const button of section.querySelectorAll("button[data-action]"))
    button.addEventListener("click", ACTIONS[button.dataset.action]);
  choice.addEventListener("change", () => choose(Number(choice.value)));
  for (const input of [slider, part("others"), part("hydrogens")]) input.addEventListener("input", draw);
  new ResizeObserver(() => viewer.resize()).observe(stage);

  fillChoice();
  linkTables();
  choose(0);
})();
