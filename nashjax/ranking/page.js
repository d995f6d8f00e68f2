"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const all = JSON.parse($("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  let shown, order, sorted;

  const make = (tag, text) => {
    const element = document.createElement(tag);
    if (text !== undefined) element.textContent = text;
    return element;
  };
  // Control and direction characters are shown as their codes, so that a name cannot disturb the line it stands in.
  const plain = (name) => name.replace(/[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g,
    (c) => "\\u" + c.charCodeAt(0).toString(16).padStart(4, "0"));
  const short = (name) => { const text = plain(name); return text.length > 60 ? text.slice(0, 59) + "…" : text; };
  const fixed = (x, digits) => (x === null ? "–" : x.toFixed(digits));
  const listed = (names) => names.length > 12
    ? names.slice(0, 12).map(short).join(", ") + " and " + (names.length - 12) + " more"
    : names.map(short).join(", ");

  const COLUMNS = [
    ["rank", "Rank", (r) => r.rank + (r.rank_low === null ? "" : " (" + r.rank_low + " to " + r.rank_high + ")")],
    ["item", "Item", (r) => short(r.item)],
    ["mass", "Mass", (r) => fixed(r.mass, 4)],
    ["payoff", "Payoff", (r) => fixed(r.payoff, 4)],
    ["first_share", "First", (r) => (r.first_share === null ? "–" : (100 * r.first_share).toFixed(1) + " %")],
    ["win_rate", "Win rate", (r) => fixed(r.win_rate, 3)],
    ["comparisons", "Comparisons", (r) => String(Math.round(100 * r.comparisons) / 100)],
    ["bradley_terry", "Bradley-Terry", (r) => fixed(r.bradley_terry, 2) + " (#" + r.bradley_terry_rank + ")"],
  ];

  function interval(row, name, low, high) {
    const svg = document.createElementNS(SVG, "svg");
    const at = (x) => 4 + 92 * (x - low) / (high - low || 1);
    svg.setAttribute("width", 100); svg.setAttribute("height", 12); svg.setAttribute("role", "img");
    const add = (tag, values) => {
      const element = document.createElementNS(SVG, tag);
      for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
      svg.append(element);
    };
    add("path", { d: "M4 6H96" });
    if (row[name + "_low"] !== null) {
      add("line", { x1: at(row[name + "_low"]), x2: at(row[name + "_high"]) + 0.01, y1: 6, y2: 6 });
      svg.setAttribute("aria-label", fixed(row[name + "_low"], 4) + " to " + fixed(row[name + "_high"], 4));
    }
    add("circle", { cx: at(row[name]), cy: 6, r: 3 });
    return svg;
  }

  function range(name) {
    const values = shown.items.flatMap((r) => [r[name], r[name + "_low"], r[name + "_high"]]).filter((x) => x !== null);
    return [Math.min(...values), Math.max(...values)];
  }

  function fill() {
    const body = document.querySelector("#ranking tbody");
    const ends = { mass: range("mass"), payoff: range("payoff") };
    const wanted = $("filter").value.toLowerCase();
    body.replaceChildren(...order.filter((r) => r.item.toLowerCase().includes(wanted)).map((r) => {
      const line = make("tr");
      for (const [name, , show] of COLUMNS) {
        const cell = make("td", show(r));
        if (name === "item") cell.title = plain(r.item).slice(0, 1000);
        if (name in ends) cell.append(interval(r, name, ...ends[name]));
        line.append(cell);
      }
      return line;
    }));
  }

  function sort(name, falling) {
    sorted = [name, falling];
    const sign = falling ? -1 : 1;
    order = shown.items.map((r, i) => [r, i]).sort(([a, i], [b, j]) => {
      const x = a[name], y = b[name];
      if (x === null || y === null) return (x === null) - (y === null) || i - j;
      return sign * (typeof x === "string" ? (x < y ? -1 : x > y ? 1 : 0) : x - y) || i - j;
    }).map(([r]) => r);
    document.querySelectorAll("#ranking th").forEach((head, k) => {
      head.setAttribute("aria-sort", COLUMNS[k][0] !== name ? "none" : falling ? "descending" : "ascending");
    });
    fill();
  }

  function heads() {
    const line = make("tr");
    for (const [name, title] of COLUMNS) {
      const head = make("th"), button = make("button", title);
      head.scope = "col";
      const low = name === "rank" || name === "item";
      button.addEventListener("click", () => sort(name, sorted[0] === name ? !sorted[1] : !low));
      head.append(button);
      line.append(head);
    }
    document.querySelector("#ranking thead").replaceChildren(line);
  }

  // Dark is rarely, light is often: also without colour.
  const color = (p) => "hsl(" + (250 - 190 * p) + " 70% " + (18 + 72 * p) + "%)";

  function heat() {
    const n = shown.items.length, size = Math.max(3, Math.min(24, Math.floor(720 / n)));
    const canvas = $("heat"), pen = canvas.getContext("2d");
    canvas.width = canvas.height = n * size;
    canvas.dataset.size = size;
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) {
      const p = shown.preferences[i][j];
      if (p === null) {
        pen.strokeStyle = "#8888";
        pen.beginPath(); pen.moveTo(j * size, (i + 1) * size); pen.lineTo((j + 1) * size, i * size); pen.stroke();
      } else {
        pen.fillStyle = color(p);
        pen.fillRect(j * size, i * size, size, size);
      }
    }
  }

  function point(event) {
    const canvas = $("heat"), box = canvas.getBoundingClientRect(), n = shown.items.length;
    const [i, j] = [event.clientY - box.top, event.clientX - box.left].map((x, k) =>
      Math.max(0, Math.min(n - 1, Math.floor(n * x / (k ? box.width : box.height)))));
    const [a, b] = [shown.items[i].item, shown.items[j].item].map(short), p = shown.preferences[i][j];
    $("tip").textContent = i === j ? a : p === null ? a + " and " + b + " were never compared"
      : a + " over " + b + ": " + p.toFixed(2) + " in " + shown.pair_comparisons[i][j] + " comparisons";
  }

  function structure() {
    const s = shown.structure, list = $("structure");
    list.replaceChildren();
    const add = (term, ...texts) => { list.append(make("dt", term), ...texts.map((text) => make("dd", text))); };
    add("Condorcet winner", s.condorcet_winner !== null ? short(s.condorcet_winner)
      : s.weak_condorcet_winners.length ? "none; beaten by no other: " + listed(s.weak_condorcet_winners)
      : "none: every item is beaten by another");
    add("Smith set (" + s.smith_set.length + ")", listed(s.smith_set));
    add("Schwartz set (" + s.schwartz_set.length + ")", listed(s.schwartz_set));
    add("Largest cycle (" + s.largest_cycle.length + ")", s.largest_cycle.length ? listed(s.largest_cycle) : "none");
    add("Cyclic triples", s.cyclic_triples + " of " + s.triples);
    if (s.strongest_cycles.length) add("Surest cycles", ...s.strongest_cycles.map((c) =>
      [...c.items, c.items[0]].map(short).join(" > ") + " (" + c.preferences.map((p) => p.toFixed(2)).join(", ") + ")"));
    add("Pairs compared", s.pairs_compared + " of " + s.pairs + " (" + (100 * s.coverage).toFixed(1) + " %), in "
      + s.components.length + " connected part" + (s.components.length === 1 ? "" : "s"));
    add("Plain equilibrium (beta = 0)", s.unique_at_beta_0 ? "unique" : "not unique");
    if (shown.disagreements.length) add("Farthest from Bradley-Terry", shown.disagreements.map((d) =>
      short(d.item) + " (#" + d.rank + ", there #" + d.bradley_terry_rank + ")").join(", "));
    if (s.compare_next.length) add("Compare next", ...s.compare_next.map((c) =>
      short(c.item_a) + " – " + short(c.item_b) + ", so far " + c.comparisons + ": one more takes away "
      + (100 * c.reduction).toFixed(2) + " % of the payoffs' variance"));
  }

  function path() {
    $("path").hidden = !shown.path;
    if (!shown.path) return;
    const table = $("along"), head = make("tr"), top = shown.items.slice(0, 20);
    head.append(make("th", "beta"), ...top.map((r) => make("th", short(r.item))));
    table.replaceChildren(head, ...shown.path.beta.map((beta, k) => {
      const line = make("tr");
      line.append(make("th", String(beta)), ...top.map((_, i) => make("td", shown.path.mass[k][i].toFixed(4))));
      return line;
    }));
  }

  function show(content) {
    shown = content;
    const how = content.resampling;
    $("summary").textContent = content.items.length + " items, " + Math.round(content.comparisons) + " comparisons, beta = "
      + content.beta + (content.bootstrap ? ", " + 100 * how.level + " % intervals by " + content.bootstrap + " resamples of "
      + (how.cluster === null ? "comparisons" : "clusters (" + short(how.cluster) + ")") : ", no intervals");
    $("warnings").replaceChildren(...content.warnings.map((text) => make("li", plain(text))));
    sort("rank", false);
    heat(); structure(); path();
  }

  heads();
  $("filter").addEventListener("input", fill);
  $("heat").addEventListener("pointermove", point);
  $("heat").addEventListener("pointerdown", point);
  const pen = $("scale").getContext("2d");
  for (let x = 0; x < 160; x++) { pen.fillStyle = color(x / 159); pen.fillRect(x, 0, 1, 12); }
  if (all.groups) {
    const names = Object.keys(all.groups);
    $("groups").hidden = false;
    $("group").append(...names.map((name) => { const option = make("option", short(name)); option.value = name; return option; }));
    $("group").addEventListener("change", () => show(all.groups[$("group").value]));
    show(all.groups[names[0]]);
  } else show(all);
})();
