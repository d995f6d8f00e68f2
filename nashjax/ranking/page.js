// The page: its sections, the table and the words. The pictures are in the other file.
const data = JSON.parse(document.getElementById("data").textContent);

/** An element such as `p.muted`, of elements, texts and lists of these; texts become text nodes, never markup. */
function make(kind, ...children) {
  const [tag, name] = kind.split(".");
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children.flat(9));
  return element;
}

/** The text with control, format and other characters that print nothing as their codes. */
function visible(text) {
  return text.replace(/(?! )[\p{C}\p{Z}]/gu, (c) => {
    const code = c.codePointAt(0).toString(16);
    const [mark, width] = code.length < 3 ? ["x", 2] : code.length < 5 ? ["u", 4] : ["U", 8];
    return { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[c] ?? `\\${mark}${code.padStart(width, "0")}`;
  });
}

/** Visible and short: a long name keeps its beginning and its end. */
function short(name, limit = 48) {
  const text = [...visible(name.length > 4 * limit ? name.slice(0, limit) + name.slice(-limit) : name)];
  if (text.length > limit) text.splice(limit / 1.5, text.length - limit + 1, "…");
  return text.join("");
}

/** A name as an element that keeps its direction to itself; a cut one has the whole, to a limit, as its title. */
function label(name, limit) {
  const element = make("bdi", short(name, limit));
  if (element.textContent !== name) element.title = visible(name.slice(0, 1000));
  return element;
}

/** Names with commas between; of many, the rest is folded. */
function list(names) {
  const joined = (some) => some.flatMap((name, k) => [k ? ", " : "", label(name)]);
  if (names.length <= 15) return joined(names);
  const rest = make("summary", `and ${names.length - 12} more`);
  return [joined(names.slice(0, 12)), make("details", rest, joined(names.slice(12)))];
}

const known = (x) => x !== null && x !== undefined;
const fixed = (x, digits) => (known(x) ? x.toFixed(digits).replace(/^-([0.]+)$/, "$1") : "–");
const percent = (x, digits = 1) => (known(x) ? `${(100 * x).toFixed(digits)}\u00a0%` : "–");
const whole = (x) => (known(x) ? x.toLocaleString("en-US", { maximumFractionDigits: 2 }) : "–");
const count = (x, thing) => `${whole(x)} ${thing}${x === 1 ? "" : "s"}`;
const range = (row, key, digits) => {
  const ends = ["low", "high"].map((end) => row[`${key}_${end}`]);
  return make("span.range", known(ends[0]) ? ends.map((x) => fixed(x, digits)).join("–") : "");
};

// Key, title, what a cell shows (masses and payoffs are drawn), and a note below the title.
const COLUMNS = [
  ["rank", "Rank", (row) => [fixed(row.rank, 0), " ", range(row, "rank", 0)]],
  ["item", "Item"],
  ["mass", "Mass"],
  ["payoff", "Payoff"],
  ["first_share", "First", (row) => percent(row.first_share), "of resamples"],
  ["win_rate", "Win rate", (row) => fixed(row.win_rate, 3)],
  ["comparisons", "Comparisons", (row) => whole(row.comparisons)],
  ["bradley_terry", "Bradley-Terry", (row) => {
    return [fixed(row.bradley_terry, 2), " ", make("span.range", `(${row.bradley_terry_rank})`)];
  }, "score (rank)"],
];

/** Smallest and largest value of a column, its intervals included; masses start at 0, payoffs include 1/2. */
function extent(items, key) {
  const values = items.flatMap((row) => [row[key], row[`${key}_low`], row[`${key}_high`]]).filter(known);
  return values.reduce(([low, high], x) => [Math.min(low, x), Math.max(high, x)], key === "mass" ? [0, 0] : [0.5, 0.5]);
}

/** Rows in the order of a column: equal ones stay in the order of ranks, unknown ones come last both ways. */
function sorted(items, key, rising) {
  const words = new Intl.Collator("en", { numeric: true });
  return items.map((_, i) => i).sort((i, j) => {
    const [x, y] = [items[i][key], items[j][key]];
    if (!known(x) || !known(y)) return known(y) - known(x) || i - j;
    return (rising ? 1 : -1) * (key === "item" ? words.compare(x, y) : x - y) || i - j;
  });
}

function table($, { items, bootstrap }) {
  const extents = { mass: extent(items, "mass"), payoff: extent(items, "payoff") };
  const cell = (row, key, show) => {
    if (key === "item") return make("th.name", label(row.item));
    if (show) return make("td", show(row));
    return make("td.wide", fixed(row[key], 3), " ", interval(row, key, extents[key]), range(row, key, 3));
  };
  const cells = (row) => COLUMNS.map(([key, , show]) => cell(row, key, show));
  const rows = items.map((row) => make(row.rank_low === 1 ? "tr.top" : "tr", cells(row)));
  let now = [];
  const heads = COLUMNS.map(([key, title, , note]) => {
    const button = make("button", title);
    const rising = key === "rank" || key === "item";
    button.addEventListener("click", () => sort(key, now[0] === key ? !now[1] : rising));
    const scale = extents[key] && `drawn from ${extents[key].map((x) => fixed(x, 2)).join(" to ")}`;
    return make(key === "item" ? "th.name" : "th", button, make("small", note ?? scale ?? ""));
  });
  function sort(key, rising) {
    now = [key, rising];
    heads.forEach((head, k) => {
      head.ariaSort = COLUMNS[k][0] !== key ? null : rising ? "ascending" : "descending";
    });
    $("tbody").replaceChildren(...sorted(items, key, rising).map((i) => rows[i]));
  }
  const names = items.map(({ item }) => visible(item).toLowerCase());
  $("input").addEventListener("input", ({ target }) => {
    rows.forEach((row, i) => { row.hidden = !names[i].includes(target.value.toLowerCase()); });
    const found = rows.filter((row) => !row.hidden).length;
    $(".found").textContent = target.value && `${found} of ${count(rows.length, "item")}`;
  });
  $("thead").append(make("tr", heads));
  $(".box").classList.toggle("tall", items.length > 60);
  $(".tint").hidden = !bootstrap;
  sort("rank", true);
}

function summary($, content) {
  const { items, structure: s, bootstrap, resampling: how, warnings, comparisons, ties } = content;
  const put = (name, ...nodes) => $(name).append(...nodes.flat(9));
  const level = `${whole(100 * how.level)}\u00a0%`;
  const drawn = () => [
    `${level} intervals from ${whole(bootstrap)} ${how.kind === "bayesian" ? "Bayesian " : ""}resamples, `,
    known(how.cluster) ? ["all of one ", label(how.cluster), " drawn together"] : "each comparison drawn alone",
  ];
  const sizes = `${count(items.length, "item")}, ${count(comparisons, "comparison")}`;
  put(".summary", sizes, ties ? ` (${whole(ties)} of them ties)` : "", `, beta = ${content.beta}, `);
  put(".summary", bootstrap ? drawn() : "without intervals", ".");
  const fact = (term, text, note) => {
    put(".facts", make("div", make("dt", term), make("dd", text, make("small", note))));
  };
  const first = items[0];
  fact("Leader", label(first.item, 40), `mass ${fixed(first.mass, 3)}, payoff ${fixed(first.payoff, 3)}`);
  if (bootstrap) {
    const able = items.filter((row) => row.rank_low === 1).length;
    const often = `the leader is first in ${percent(first.first_share)} of the resamples`;
    fact("May be first", `${able} of ${items.length}`, `rank 1 in their ${level} interval; ${often}`);
  }
  const best = s.condorcet_winner;
  const smith = `the Smith set holds ${s.smith_set.length} of ${items.length}`;
  fact("Condorcet winner", known(best) ? label(best, 40) : "none", known(best) ? "beats every other item" : smith);
  fact("Pairs compared", percent(s.coverage, 0), `${whole(s.pairs_compared)} of ${whole(s.pairs)}`);
  const cut = (text) => visible(text.slice(0, 1500)) + (text.length > 1500 ? "…" : "");
  put(".warnings ul", warnings.map((text) => make("li", cut(text))));
  $(".warnings").hidden = !warnings.length;
  if (bootstrap) put(".intervals", drawn(), ". First: the share of resamples in which the item has rank 1.");
  else put(".intervals", "None were asked for: the numbers do not say how sure they are.");
}

/** The Condorcet winner, or why there is none. */
function winner({ items, structure, preferences }) {
  const { condorcet_winner: best, weak_condorcet_winners: weak } = structure;
  if (known(best)) return [label(best), " beats every other item."];
  if (weak.length) return ["None. Beaten by no other, but not better than all (tied, or never compared): ", list(weak)];
  const better = items.map((_, j) => j).filter((j) => preferences[j][0] > 0.5);
  const beater = (j, k) => [k ? ", " : "; the leader by ", label(items[j].item), ` (${fixed(preferences[j][0], 2)})`];
  const more = better.length > 3 ? ` and ${better.length - 3} more` : "";
  return ["None: every item is beaten by some other", ...better.slice(0, 3).map(beater), more, "."];
}

function cycle({ items, preferences, comparisons }) {
  return make("div", items.map((item, k) => {
    const step = make("span.step", `> ${fixed(preferences[k], 2)}`);
    step.title = `in ${count(comparisons[k], "comparison")}`;
    return [label(item), " ", step, " "];
  }), label(items[0]));
}

function structure($, content) {
  const { disagreements, structure: s } = content;
  const parts = s.components;
  const add = (term, ...nodes) => $(".structure").append(make("dt", term), make("dd", nodes));
  const set = (names) => {
    if (names.length === s.items && s.items > 12) return `all ${s.items} items`;
    return [`${count(names.length, "item")}: `, ...list(names)];
  };
  add("Condorcet winner", ...winner(content));
  add("Smith set", set(s.smith_set), make("small", "The smallest set each of which beats every item outside."));
  add("Schwartz set", set(s.schwartz_set), make("small", "The smallest sets that nothing outside beats."));
  add("Largest cycle", s.largest_cycle.length ? set(s.largest_cycle) : "none: no majorities go in a circle");
  const share = s.triples ? ` (${percent(s.cyclic_triples / s.triples)})` : "";
  add("Cyclic triples", `${whole(s.cyclic_triples)} of ${whole(s.triples)}${share}`);
  if (s.strongest_cycles.length) add("Surest cycles", s.strongest_cycles.map(cycle));
  if (parts.length === 1) add("Connected", "all items, by chains of comparisons");
  else add("Connected", `no, in ${parts.length} parts`, parts.slice(0, 5).map((names) => make("div", set(names))));
  add("At beta = 0", `The equilibrium is ${s.unique_at_beta_0 ? "" : "not "}unique.`);
  const far = disagreements.flatMap((d, k) => [
    k ? ", " : "", label(d.item), ` (rank ${d.rank}, there ${d.bradley_terry_rank})`,
  ]);
  if (far.length) add("Farthest from Bradley-Terry", far);
  const line = (kind, texts) => make("tr", texts.map((text, k) => make(k < 2 ? `${kind}.name` : kind, text)));
  $(".next table").append(
    line("th", ["Item", "with", "Compared so far", "Variance one more takes away"]),
    ...s.compare_next.map((c) =>
      line("td", [label(c.item_a), label(c.item_b), whole(c.comparisons), percent(c.reduction, 2)])),
  );
  $(".next").hidden = !s.compare_next.length;
}

const built = new Map();

/** Show one ranking, made when it is first asked for, and hide the others. */
function show(name, content) {
  for (const section of built.values()) section.hidden = true;
  if (!built.has(name)) {
    const section = document.querySelector("template").content.cloneNode(true).firstElementChild;
    const $ = (name) => section.querySelector(name);
    for (const part of [summary, table, heatMap, structure, ...(content.path ? [masses] : [])]) part($, content);
    document.querySelector("main").append(section);
    built.set(name, section);
  }
  built.get(name).hidden = false;
}

if (data.groups) {
  const choice = document.getElementById("groups");
  const select = choice.querySelector("select");
  const groups = Object.entries(data.groups);
  select.append(...groups.map(([name]) => make("option", short(name))));
  choice.querySelector("span").textContent = short(data.by ?? "Group");
  choice.hidden = false;
  select.addEventListener("change", () => show(...groups[select.selectedIndex]));
  show(...groups[0]);
} else show("", data);
