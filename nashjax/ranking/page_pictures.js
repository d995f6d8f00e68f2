// Intervals, the heat map, and masses along beta.
// From dark blue over grey to yellow (cividis): evenly from dark to light, and the same to colour-blind eyes.
const SHADES = ["00224e", "1a386f", "434e6c", "61656f", "7d7c78", "9b9476", "bcae6c", "dec958", "fee838"];
// Of lines: apart also without colour vision, and by their dashes without any colour.
const LINES = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9", "#8c6bb1", "#888"];

function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  element.append(...children);
  return element;
}

/** A value and its interval on the scale of its column: masses as bars, payoffs as dots beside 1/2. */
function interval(row, key, [low, high]) {
  const at = (x) => 4 + (82 * (x - low)) / (high - low || 1);
  const picture = svg("svg", { width: 90, height: 14, "aria-hidden": true });
  const [value, from, to] = [row[key], row[`${key}_low`], row[`${key}_high`]];
  if (key === "payoff") picture.append(svg("path", { class: "half", d: `M${at(0.5)} 0V14` }));
  else if (known(value)) picture.append(svg("rect", { class: "bar", x: 4, y: 3, width: at(value) - 3.5, height: 8 }));
  if (known(from)) picture.append(svg("path", { class: "whisker", d: `M${at(from)} 4v6m0-3H${at(to)}m0-3v6` }));
  if (key === "payoff" && known(value)) picture.append(svg("circle", { class: "dot", cx: at(value), cy: 7, r: 3.5 }));
  return picture;
}

function shade(p) {
  const k = Math.min(Math.floor(8 * p), 7);
  const [from, to] = [k, k + 1].map((i) => [0, 2, 4].map((c) => parseInt(SHADES[i].slice(c, c + 2), 16)));
  return from.map((x, c) => x + (8 * p - k) * (to[c] - x));
}

/** One pixel a pair; those of pairs that were never compared are left clear, and show the lines behind. */
function heatMap($, { items, preferences, pair_comparisons: comparisons }) {
  const n = items.length;
  const [box, canvas, mark, tip, values] = [".heat", "canvas", ".mark", ".tip", ".values"].map($);
  const met = (i, j) => known(preferences[i][j]) && comparisons[i][j] > 0;
  box.style.setProperty("--n", n);
  $(".scale").style.background = `linear-gradient(to right, ${SHADES.map((code) => `#${code}`)})`;
  canvas.width = canvas.height = n;
  const pen = canvas.getContext("2d");
  const image = pen.createImageData(n, n);
  const every = [1, 2, 5, 10, 25, 50].find((k) => 20 * k >= n) ?? 100;
  items.forEach((row, i) => {
    const number = (i + 1) % every ? "" : i + 1;
    $(".columns").append(make("span", number));
    $(".rows").append(make("span", n > 60 ? number : [label(row.item, 28), make(number ? "b" : "i", i + 1)]));
    preferences[i].forEach((p, j) => {
      if (i === j || met(i, j)) image.data.set([...shade(p ?? 0.5), 255], 4 * (i * n + j));
      if (n < 13) values.append(make(p > 0.55 ? "span.light" : "span", met(i, j) ? fixed(p, 2) : ""));
    });
  });
  pen.putImageData(image, 0, 0);

  let at = [0, 0];
  const within = (x) => Math.max(0, Math.min(n - 1, Math.floor(x)));
  const hide = () => { mark.hidden = tip.hidden = true; };
  function say(i, j) {
    at = [i, j];
    const [a, b] = [label(items[i].item), label(items[j].item)];
    const often = () => `: ${fixed(preferences[i][j], 2)} in ${count(comparisons[i][j], "comparison")}`;
    if (i === j) tip.replaceChildren(a, " with itself");
    else tip.replaceChildren(a, " over ", b, met(i, j) ? often() : ": never compared");
    mark.hidden = tip.hidden = false;
    const part = (k) => `${(100 * k) / n}%`;
    Object.assign(mark.style, { left: part(j), top: part(i), width: part(1), height: part(1) });
    const below = 2 * i < n;
    const move = `translate(-${part(j + 0.5)}, ${below ? "8px" : "calc(-100% - 8px)"})`;
    Object.assign(tip.style, { left: part(j + 0.5), top: part(below ? i + 1 : i), transform: move });
  }
  function point({ clientX, clientY }) {
    const place = canvas.getBoundingClientRect();
    say(within((n * (clientY - place.top)) / place.height), within((n * (clientX - place.left)) / place.width));
  }
  const on = (event, act) => canvas.addEventListener(event, act);
  on("pointermove", point);
  on("pointerdown", point);
  on("pointerleave", ({ pointerType }) => { if (pointerType === "mouse") hide(); });
  on("blur", hide);
  on("keydown", (event) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    say(...at.map((k, side) => (tip.hidden ? k : within(k + step[side]))));
  });
}

/** Lines of the masses from the largest beta to the smallest, one step each; a table names those of the most mass. */
function masses($, { items, path }) {
  const order = path.beta.map((_, k) => k).sort((i, j) => path.beta[j] - path.beta[i]);
  const lines = items.map(({ item }, i) => ({ item, mass: order.map((k) => path.mass[k][i]) }));
  for (const line of lines) line.peak = Math.max(...line.mass);
  lines.sort((a, b) => b.peak - a.peak);
  const top = lines[0].peak || 1;
  const step = 100 / Math.max(1, order.length - 1);
  const inside = { x: 44, width: "calc(100% - 70px)" };
  const inner = svg("svg", { ...inside, height: "85%", viewBox: "0 0 100 100", preserveAspectRatio: "none" });
  const ticks = svg("svg", { ...inside, overflow: "visible" });
  const picture = svg("svg", { role: "img", "aria-label": "Masses along beta" }, inner, ticks);
  for (const part of [0, 0.5, 1]) {
    inner.append(svg("polyline", { points: `0,${100 - 100 * part} 100,${100 - 100 * part}` }));
    picture.append(svg("text", { x: 38, y: `${85 - 85 * part}%`, dy: 4 }, fixed(part * top, 2)));
  }
  const heads = order.map((k, i) => {
    ticks.append(svg("text", { x: `${i * step}%`, y: "93%" }, path.beta[k]));
    return make("th", `beta = ${path.beta[k]}`);
  });
  const table = $(".path table");
  table.append(make("tr", make("th.name", "Item"), heads));
  [...lines.entries()].reverse().forEach(([i, { item, mass }]) => {
    const points = [...mass, ...mass.slice(0, mass.length < 2)].map((m, k) => [k * step, 100 - (100 * m) / top]);
    const line = svg("polyline", { points: points.join(" ") });
    inner.append(line);
    if (i >= LINES.length) return;
    Object.assign(line.style, { stroke: LINES[i], strokeWidth: 2, strokeDasharray: ["none", "8 3", "2 3"][i % 3] });
    const swatch = make("i.swatch");
    Object.assign(swatch.style, { borderColor: LINES[i], borderTopStyle: ["solid", "dashed", "dotted"][i % 3] });
    table.firstChild.after(make("tr", make("td.name", swatch, label(item)), mass.map((m) => make("td", fixed(m, 3)))));
  });
  $(".chart").append(picture);
  $(".path").hidden = false;
}
