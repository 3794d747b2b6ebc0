// What people do: they choose a pixel and a round.
function tableRows(look) {
  return rounds > 1 ? [look.all, ...look.rounds] : look.rounds;
}

function draw(done = false) {
  const token = shown.hovered ?? shown.pinned;
  const look = attended.look(token, shown.round);
  const [x, y] = toPixel(token);
  const context = element("picture").getContext("2d");
  drawPicture(context);
  mark(context, token);
  drawWeights("sparse", look.weights, token);
  drawWeights("dense", look.dense, token);
  drawMaps(look, token);
  const pixels = (count) => `: ${count.toLocaleString("en")} pixel${count === 1 ? "" : "s"}`;
  element("sparse-note").textContent = (shown.round ? `, round ${shown.round}` : "") + pixels(look.chosen.attended);
  element("dense-note").textContent = pixels(attended.tokens);
  // What somebody is typing is left alone until it is done.
  for (const [name, value] of [["x", x], ["y", y]]) {
    if (done || document.activeElement !== element(name)) element(name).value = value;
  }
  element("kept-note").textContent = shown.round ? ` by round ${shown.round}` : "";
  element("kept").textContent = percent(look.chosen.kept);
  tableRows(look).forEach((row, r) => {
    const cells = element("rows").rows[r].cells;
    cells[1].textContent = row.code < 0 || row.code === 255 ? "–" : row.code;
    cells[2].textContent = row.chunk < 0 ? "–" : row.chunk;
    cells[3].textContent = row.attended.toLocaleString("en");
    cells[4].textContent = percent(row.kept);
    cells[0].querySelector("input").checked = r === shown.round;
  });
  return { look, x, y };
}

function drawSoon() {
  if (!shown.waiting) requestAnimationFrame(() => { shown.waiting = false; draw(); });
  shown.waiting = true;
}

function choose(token, round = shown.round) {
  Object.assign(shown, { pinned: token, hovered: null, round });
  const { look, x, y } = draw(true);
  element("spoken").textContent = `Pixel ${x}, ${y}: attends to ${look.chosen.attended} pixels, `
    + `${percent(look.chosen.kept)} of dense attention's mass is kept.`;
  // Browsers allow few changes of the address: a held key must not make one for each step.
  clearTimeout(shown.address);
  shown.address = setTimeout(
    () => history.replaceState(null, "", `#x=${x}&y=${y}${round ? `&round=${round}` : ""}`), 200);
}

function fromAddress() {
  const wanted = new URLSearchParams(location.hash.slice(1));
  const number = (name, other) => (/^\d+$/.test(wanted.get(name) ?? "") ? Number(wanted.get(name)) : other);
  const round = number("round", 0);
  choose(toToken(number("x", data.at[0]), number("y", data.at[1])), isRound(round) ? round : 0);
}

function isRound(round) {
  return round === 0 || (rounds > 1 && round <= rounds);
}

const between = (value, length) => Math.min(Math.max(Math.floor(value), 0), length - 1);

function tokenUnder(event) {
  const box = event.currentTarget.getBoundingClientRect();
  return between(((event.clientY - box.top) / box.height) * height, height) * width
    + between(((event.clientX - box.left) / box.width) * width, width);
}

function listen(canvas) {
  const longest = Math.max(data.picture.width, data.picture.height);
  const scale = longest < 640 ? Math.ceil(640 / longest) : Math.min(1, 768 / longest);
  canvas.width = Math.round(data.picture.width * scale);
  canvas.height = Math.round(data.picture.height * scale);
  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "mouse") return;
    shown.hovered = tokenUnder(event);
    drawSoon();
  });
  canvas.addEventListener("pointerleave", () => {
    shown.hovered = null;
    drawSoon();
  });
  canvas.addEventListener("click", (event) => {
    choose(tokenUnder(event));
    element("picker").focus({ preventScroll: true });
  });
}

function onArrow(event) {
  const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
  if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
  const far = event.shiftKey ? 8 : 1;
  const row = between(Math.floor(shown.pinned / width) + far * step[1], height);
  choose(row * width + between((shown.pinned % width) + far * step[0], width));
  event.preventDefault();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.type === "number" || rounds === 1) return;
  if (event.key === "r") choose(shown.pinned, (shown.round + 1) % (rounds + 1));
  else if (/^\d$/.test(event.key) && isRound(Number(event.key))) choose(shown.pinned, Number(event.key));
}

function onNumber() {
  const [x, y] = ["x", "y"].map((name) => element(name).valueAsNumber);
  if (Number.isFinite(x) && Number.isFinite(y)) choose(toToken(x, y));
}

function addRows() {
  const names = rounds > 1 ? ["all rounds", ...maps.map((_, r) => `round ${r + 1}`)] : ["all"];
  names.forEach((name, round) => {
    const row = element("rows").insertRow();
    row.innerHTML = `<th scope="row"><label><input type="radio" name="round">${name}</label></th>`;
    for (let cell = 0; cell < 4; cell++) row.insertCell();
    row.querySelector("input").addEventListener("change", () => choose(shown.pinned, round));
  });
}

function addMaps() {
  for (let r = 0; r < rounds; r++) {
    const figure = document.createElement("figure");
    const name = rounds > 1 ? `round ${r + 1}` : "the only round";
    figure.innerHTML = `<figcaption>${name}</figcaption><div class="canvas">`
      + `<canvas role="img" aria-label="The buckets of ${name}"></canvas></div>`;
    element("maps").append(figure);
    const codes = attended.codes?.subarray(r * attended.tokens, (r + 1) * attended.tokens);
    const colours = Array.from({ length: attended.tokens }, (_, token) => {
      const bucket = codes && codes[token] < 255 ? codes[token] : Math.max(attended.chunk(token, r), 0);
      return data.colours[bucket % data.colours.length];
    });
    maps.push({ figure, colours, context: figure.querySelector("canvas").getContext("2d") });
  }
  element("colours-note").textContent = attended.codes
    ? "Pixels of one colour have the same hash code." : "Pixels of one colour are in the same chunk.";
  // Lists of keys have no chunks, and of a single chunk there is nothing to see.
  element("round-keys").hidden = rounds === 1;
  element("maps-section").hidden = !(attended.chunkCount > 1);
}

source.addEventListener("load", () => {
  addMaps();
  addRows();
  document.querySelectorAll("canvas").forEach(listen);
  darkened = darken(element("picture"));
  document.documentElement.style.setProperty(
    "--heat", `linear-gradient(to right, ${data.heat.map((colour) => `rgb(${colour})`).join(", ")})`);
  for (const [name, corner, length] of [["x", data.corner[0], data.picture.width], ["y", data.corner[1], data.picture.height]]) {
    Object.assign(element(name), { min: corner, max: corner + length - 1 });
    element(name).addEventListener("change", onNumber);
  }
  element("place").addEventListener("submit", (event) => {
    event.preventDefault();
    onNumber();
  });
  element("picker").addEventListener("keydown", onArrow);
  document.addEventListener("keydown", onKey);
  addEventListener("hashchange", fromAddress);
  fromAddress();
});
source.src = data.picture.source;
