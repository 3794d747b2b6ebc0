// What is drawn, and how.
const data = JSON.parse(document.getElementById("data").textContent);
const attended = new Attended(data);
const { width, height, rounds } = attended;
const element = (id) => document.getElementById(id);
const source = new Image();
const shown = { pinned: 0, hovered: null, round: 0 };
const maps = [];
let darkened = null;

// Pixels of the picture <-> pixels of the feature map, which may be coarser.
const toToken = (x, y) => {
  const inside = (value, corner, pixels, length) =>
    Math.min(Math.max(Math.floor(((value - corner) * length) / pixels), 0), length - 1);
  return inside(y, data.corner[1], data.picture.height, height) * width
    + inside(x, data.corner[0], data.picture.width, width);
};
const toPixel = (token) => [
  data.corner[0] + Math.floor((((token % width) + 0.5) * data.picture.width) / width),
  data.corner[1] + Math.floor(((Math.floor(token / width) + 0.5) * data.picture.height) / height),
];

const percent = (share) => `${(100 * share).toFixed(share < 0.0995 ? 2 : 1)} %`;
const short = (weight) => (weight >= 0.001 ? weight.toPrecision(2) : weight.toExponential(1).replace("e-", "·10⁻")
  .replace(/⁻(\d+)/, (_, digits) => `⁻${[...digits].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")}`));

function heat(share) {
  const place = share * (data.heat.length - 1);
  const low = Math.min(Math.floor(place), data.heat.length - 2);
  return data.heat[low].map((value, i) => value + (place - low) * (data.heat[low + 1][i] - value));
}

// Paints the map's pixels, each a colour or null for none, over what a canvas shows.
function paint(context, colour) {
  const small = new OffscreenCanvas(width, height);
  const image = new ImageData(width, height);
  for (let token = 0; token < width * height; token++) {
    const found = colour(token);
    if (found) image.data.set([...found, 255], 4 * token);
  }
  small.getContext("2d").putImageData(image, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, context.canvas.width, context.canvas.height);
}

function drawPicture(context) {
  context.imageSmoothingEnabled = false;
  context.drawImage(source, 0, 0, context.canvas.width, context.canvas.height);
}

// The picture without its colours, darkened: what weights are laid on.
function darken(like) {
  const canvas = new OffscreenCanvas(like.width, like.height);
  const context = canvas.getContext("2d");
  const level = Math.round(255 * data.dimmed);
  drawPicture(context);
  for (const [operation, style] of [["saturation", "#808080"], ["multiply", `rgb(${level},${level},${level})`]]) {
    context.globalCompositeOperation = operation;
    context.fillStyle = style;
    context.fillRect(0, 0, canvas.width, canvas.height);
  }
  return canvas;
}

function mark(context, token) {
  const small = context.canvas.clientWidth < 250;
  const cell = [context.canvas.width / width, context.canvas.height / height];
  const [x, y] = [(token % width) * cell[0], Math.floor(token / width) * cell[1]];
  const radius = Math.max(context.canvas.width / (small ? 25 : 40), cell[0]);
  const line = context.canvas.width / (small ? 50 : 100);
  for (const [style, thick] of [["#000", line], ["#fff", 0.4 * line]]) {
    context.strokeStyle = style;
    context.lineWidth = thick;
    if (!small) context.strokeRect(x, y, cell[0], cell[1]);
    context.beginPath();
    context.arc(x + cell[0] / 2, y + cell[1] / 2, radius, 0, 2 * Math.PI);
    context.stroke();
  }
}

function drawWeights(name, weights, token) {
  const context = element(name).getContext("2d");
  let high = 0;
  let low = Infinity;
  weights.forEach((weight) => {
    high = Math.max(high, weight);
    if (weight > 0) low = Math.min(low, weight);
  });
  // At least a factor of ten, so that even weights look even, and at most a thousand.
  const range = Math.min(Math.max(high / low, 10), 1000);
  context.drawImage(darkened, 0, 0);
  paint(context, (i) => (weights[i] > 0 ? heat(Math.max(0, 1 + Math.log(weights[i] / high) / Math.log(range))) : null));
  mark(context, token);
  element(`${name}-high`).textContent = short(high);
  element(`${name}-low`).textContent = (high / low > range * 1.001 ? "≤ " : "") + short(high / range);
}

function drawMaps(look, token) {
  maps.forEach(({ context, colours, figure }, r) => {
    const { counts, chunk } = look.rounds[r];
    paint(context, (i) => {
      if (attended.chunk(i, r) === chunk) return [255, 255, 255];
      return counts[i] ? colours[i] : colours[i].map((value) => value * data.rest);
    });
    mark(context, token);
    figure.classList.toggle("chosen", shown.round === r + 1);
  });
}
