"use strict";
// Draws the data of the page, which are JSON. Texts are inserted as text; nothing here parses HTML.

const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const unique = (values) => [...new Set(values)];
const SVG = new Set(["svg", "g", "path", "line", "text", "rect", "circle", "clipPath"]);

function make(tag, attributes = {}, ...children) {
  const node = SVG.has(tag) ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

// Return a number with four digits and a true minus sign.
function say(x) {
  if (x === null || x === undefined) return "–";
  if (typeof x === "string") return x;
  const size = Math.abs(x);
  const text = Number.isInteger(x) ? String(x) : size && (size < 1e-3 || size >= 1e6) ? x.toExponential(2) : String(+x.toPrecision(4));
  return text.replace(/-/g, "−");
}
const interval = (low, high) => (low === null || low === undefined ? "" : `[${say(low)}, ${say(high)}]`);

function choice(label, options, chosen, onchange) {
  const select = make("select", { onchange: () => onchange(options[select.selectedIndex][0]) });
  for (const [value, text] of options) select.append(make("option", { selected: value === chosen }, text));
  const set = (value) => (select.selectedIndex = options.findIndex(([other]) => other === value));
  return { node: make("label", {}, label, select), set };
}

// Plots

const SHAPES = {
  o: "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0Z",
  s: "M-3.5,-3.5h7v7h-7Z",
  "^": "M0,-4.5L4.2,3.3H-4.2Z",
  v: "M0,4.5L4.2,-3.3H-4.2Z",
  D: "M0,-4.8L4.8,0L0,4.8L-4.8,0Z",
  "": "M0,0",
  x: "M-3.5,-3.5L3.5,3.5M-3.5,3.5L3.5,-3.5",
  P: "M-1.6,-4.5h3.2v2.9h2.9v3.2h-2.9v2.9h-3.2v-2.9h-2.9v-3.2h2.9Z",
  "<": "M-4.5,0L3.3,-4.2V4.2Z",
  ">": "M4.5,0L-3.3,-4.2V4.2Z",
  p: "M0,-4.5L4.3,-1.4L2.6,3.6H-2.6L-4.3,-1.4Z",
  h: "M0,-4.5L3.9,-2.2V2.2L0,4.5L-3.9,2.2V-2.2Z",
  "+": "M-4.5,0H4.5M0,-4.5V4.5",
  "*": "M-4.5,0H4.5M-2.3,-3.9L2.3,3.9M2.3,-3.9L-2.3,3.9",
};
const mark = (shape, colour, x, y) =>
  make("path", { d: SHAPES[shape] || SHAPES.o, transform: `translate(${x},${y})`, fill: colour, stroke: colour, "stroke-width": 1.4 });

const swatch = (style) =>
  make("svg", { width: 36, height: 14, "aria-hidden": "true" },
    make("path", { d: "M0,7H36", stroke: style.colour, "stroke-width": 2, "stroke-dasharray": style.dash || null }), mark(style.marker, style.colour, 18, 7));

// Return the range of y. It begins at 0 unless all values are far from 0. Wide intervals are cut off, so that they do not
// flatten the curves.
function span(values, ends) {
  const least = Math.min(...values), most = Math.max(...values);
  const bottom = least >= 0 && least < 0.6 * most ? 0 : least - 0.15 * (most - least || Math.abs(most) || 1);
  const room = 0.5 * (most - bottom || 1);
  const low = Math.min(least, ...ends), high = Math.max(most, ...ends);
  return [least >= 0 ? Math.max(Math.min(bottom, low), bottom && bottom - room, 0) : Math.max(Math.min(bottom, low), bottom - room),
    Math.max(Math.min(high, most + room), most + 0.06 * (most - bottom || 1))];
}

function ticks(low, high) {
  const rough = (high - low) / 6, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((times) => times * power).find((size) => size >= rough);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + 1e-9 * step; at++) found.push(+(at * step).toPrecision(12));
  return found;
}

let plots = 0;

// Add a figure of curves over N, and return a function that draws series: {name, colour, dash, marker, flat,
// points: [{n, value, low, high, text}]}. A `flat` series has a single value, which applies to every N.
function plot(holder, title, note, scale, band = null) {
  const id = `clip-${plots++}`, height = 250;
  const svg = make("svg", { class: "plot", tabindex: 0, role: "img" });
  const readout = make("output", {}, "\u00a0");
  holder.append(make("figure", {}, make("figcaption", {}, title, make("span", {}, note)), svg, readout));
  let series = [], places = [], ring = null, current = null;

  function draw() {
    const width = Math.max(200, svg.clientWidth || 400);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.replaceChildren();
    places = [];
    current = null;
    readout.textContent = "\u00a0";
    const shown = series.filter((one) => one.points.length);
    svg.setAttribute("aria-label", `${title}${note} against N: ${shown.map((one) => one.name).join(", ") || "nothing to show"}`);
    const points = shown.flatMap((one) => one.points);
    if (!points.length) return void svg.append(make("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing to show"));
    const curved = shown.filter((one) => !one.flat).flatMap((one) => one.points.map((point) => point.n));
    const ns = unique(curved.length ? curved : points.map((point) => point.n)).sort((a, b) => a - b);
    const ends = points.flatMap((point) => [point.low, point.high]).filter((x) => x !== null && x !== undefined);
    const [low, high] = span(points.map((point) => point.value).concat(band || []), ends);
    const marks = ticks(low, high);
    const left = 14 + 7 * Math.max(...marks.map((tick) => say(tick).length)), right = 14, top = 10, bottom = 40;
    const [first, last] = [scale(ns[0]), scale(ns[ns.length - 1])];
    const x = (n) => (first === last ? (left + width - right) / 2 : left + 16 + ((scale(n) - first) / (last - first)) * (width - right - left - 32));
    const y = (value) => height - bottom - ((value - low) / (high - low)) * (height - bottom - top);

    svg.append(make("clipPath", { id }, make("rect", { x: left, y: top - 6, width: width - left - right, height: height - top - bottom + 12 })));
    for (const tick of marks) {
      svg.append(make("line", { class: "rule", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }));
      svg.append(make("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, say(tick)));
    }
    let free = -Infinity;
    for (const n of ns) {
      if (x(n) - free < 10 + 7 * String(n).length) continue;
      svg.append(make("text", { x: x(n), y: height - bottom + 20, "text-anchor": "middle" }, say(n)));
      free = x(n);
    }
    svg.append(make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, "latents mixed, N"));
    const inside = make("g", { "clip-path": `url(#${id})` });
    svg.append(inside);
    if (band) inside.append(make("rect", { class: "band", x: left, width: width - left - right, y: y(band[1]), height: y(band[0]) - y(band[1]) }));
    shown.forEach((one, row) => {
      const shift = 2.5 * (row - (shown.length - 1) / 2) * Math.min(1, 7 / shown.length); // so that bars don't hide each other
      const spots = one.points.map((point) => ({ one, point, row, x: one.flat ? width - right - 12 : x(point.n) + shift, y: y(point.value) }));
      const path = one.flat ? `M${left},${spots[0].y}H${width - right}` : `M${spots.map((spot) => `${spot.x},${spot.y}`).join("L")}`;
      const group = make("g", { "data-name": one.name });
      group.append(make("path", { class: "curve", d: path, stroke: one.colour, "stroke-dasharray": one.dash || null }));
      for (const spot of spots) {
        const { low: from, high: to } = spot.point;
        if (from !== null && from !== undefined)
          group.append(make("line", { class: "bar", x1: spot.x, x2: spot.x, y1: y(from), y2: y(to), stroke: one.colour }));
        group.append(mark(one.marker, one.colour, spot.x, spot.y));
      }
      inside.append(group);
      places.push(...spots);
    });
    ring = make("circle", { class: "ring", r: 8, visibility: "hidden" });
    svg.append(ring);
  }

  function point(spot) {
    current = spot;
    for (const group of svg.querySelectorAll("[data-name]")) group.classList.toggle("faint", Boolean(spot) && group.dataset.name !== spot.one.name);
    if (!spot) {
      if (ring) ring.setAttribute("visibility", "hidden");
      return void (readout.textContent = "\u00a0");
    }
    ring.setAttribute("cx", spot.x);
    ring.setAttribute("cy", spot.y);
    ring.setAttribute("visibility", "visible");
    const at = spot.one.flat ? "" : `, N = ${spot.point.n}`;
    readout.textContent = [`${spot.one.name}${at}: ${say(spot.point.value)}`, interval(spot.point.low, spot.point.high), spot.point.text].filter(Boolean).join(" ");
  }

  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), at = { x: event.clientX - box.left, y: event.clientY - box.top };
    const far = (spot) => Math.hypot(spot.x - at.x, spot.y - at.y);
    const nearest = places.reduce((best, spot) => (!best || far(spot) < far(best) ? spot : best), null);
    point(nearest && far(nearest) < 60 ? nearest : null);
  });
  svg.addEventListener("pointerleave", () => point(null));
  svg.addEventListener("blur", () => point(null));
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key];
    if (event.key === "Escape") return point(null);
    if (!step || !places.length) return;
    event.preventDefault();
    if (!current) return point(places[0]);
    const rows = unique(places.map((spot) => spot.row)), count = rows.length;
    const row = rows[(rows.indexOf(current.row) + step[0] + count) % count];
    const along = places.filter((spot) => spot.row === row);
    const near = along.reduce((best, spot) => (Math.abs(spot.x - current.x) < Math.abs(best.x - current.x) ? spot : best));
    const place = along.indexOf(near) + step[1];
    point(along[Math.max(0, Math.min(along.length - 1, place))]);
  });
  let drawn = 0;
  new ResizeObserver(() => {
    if (svg.clientWidth === drawn) return;
    drawn = svg.clientWidth;
    draw();
  }).observe(svg);
  return (wanted) => {
    series = wanted;
    draw();
  };
}

// Tables. A cell is a number, a text, [value, low, high], or null.

const worth = (cell) => (Array.isArray(cell) ? cell[0] : cell);

function table(holder, label, columns) {
  const body = make("tbody"), heads = columns.map(() => make("th", { scope: "col" }));
  let rows = [], by = null, down = false;
  heads.forEach((head, column) => {
    head.append(make("button", { type: "button", onclick: () => sort(column, by === column && !down) }, columns[column]));
  });
  holder.append(make("div", { class: "wide tall", tabindex: 0, role: "region", "aria-label": label }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)));

  function sort(column, downwards) {
    [by, down] = [column, downwards];
    heads.forEach((head, place) => (place === by ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    fill();
  }
  function compare(a, b) {
    const [one, other] = [worth(a[by]), worth(b[by])];
    if (one === null || other === null) return (one === null) - (other === null); // unknown values come last
    const order = typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true });
    return down ? -order : order;
  }
  function fill() {
    const sorted = by === null ? rows : [...rows].sort(compare);
    body.replaceChildren(...sorted.map((row) => make("tr", {}, ...row.map(show))));
  }
  function show(cell) {
    if (!Array.isArray(cell)) return make("td", { class: typeof cell === "string" ? "name" : null, "data-value": cell }, say(cell));
    const known = interval(cell[1], cell[2]);
    return make("td", { "data-value": cell[0] }, say(cell[0]), ...(known ? [make("small", {}, known)] : []));
  }
  return (wanted) => {
    rows = wanted;
    fill();
  };
}

// Curves, and the table of their numbers

const hidden = new Set();
let classId = data.classes[0].id;

function curves() {
  const several = data.classes.length > 1;
  if (several) {
    const options = data.classes.map((one) => [one.id, one.id === "all" ? "all (average)" : one.title]);
    byId("choose-curves").append(choice("Class", options, classId, (chosen) => ((classId = chosen), update())).node);
  }
  const measured = data.methods.filter((method) => data.rows.some((row) => row.method === method.name));
  for (const method of measured) {
    const toggle = (event) => (hidden[event.target.checked ? "delete" : "add"](method.name), update());
    byId("legend").append(make("label", { title: method.description }, make("input", { type: "checkbox", checked: true, onchange: toggle }), swatch(method), method.name));
  }
  const log = (n) => Math.log(Math.max(n, 0.5));
  const draw = data.metrics.map((metric) => plot(byId("plots"), metric.label, metric.better ? `, ${metric.better} is better` : "", log));
  const fill = table(byId("numbers"), "Table of all metrics", ["method", "N", ...data.metrics.map((metric) => metric.label)]);

  function update() {
    const rows = data.rows.filter((row) => row.class === classId && !hidden.has(row.method));
    const rowsOf = (name) => rows.filter((row) => row.method === name).sort((a, b) => a.n - b.n);
    const unit = classId === "all" ? ["class", "classes"] : ["draw", "draws"];
    const ns = unique(data.rows.filter((row) => !data.methods.find((method) => method.name === row.method).control).map((row) => row.n));
    data.metrics.forEach((metric, place) => {
      draw[place](measured.map((method) => {
        const points = rowsOf(method.name).filter((row) => row.metric === metric.name && row.value !== null)
          .map((row) => ({ ...row, text: `over ${row.count} ${unit[row.count === 1 ? 0 : 1]}` }));
        return { ...method, flat: method.control && points.length === 1 && (points[0].n < 1 || ns.length > 1), points };
      }));
    });
    fill(measured.flatMap((method) => unique(rowsOf(method.name).map((row) => row.n)).map((n) => [
      method.name, n || null, // a control has none
      ...data.metrics.map((metric) => {
        const row = rows.find((one) => one.method === method.name && one.n === n && one.metric === metric.name);
        return row && row.value !== null ? [row.value, row.low, row.high] : null;
      }),
    ])));
    pair(classId);
  }
  update();
}

// Pictures

function images() {
  const shown = data.images;
  if (!shown.length) {
    for (const id of ["choose-pictures", "grid", "choose-pair", "compare"]) byId(id).hidden = true;
    for (const node of byId("pictures").querySelectorAll("h3, .hint")) node.hidden = true;
    return;
  }
  const key = (c, n, method, draw) => JSON.stringify([c, n, method, draw]);
  const kept = new Map(shown.map((one) => [key(one.class, one.n, one.method, one.draw), one]));
  const all = (name) => unique(shown.map((one) => one[name]));
  const [classes, draws] = [all("class"), all("draw").sort((a, b) => a - b)];
  const ns = all("n").filter((n) => n > 0).sort((a, b) => a - b); // controls have 0, and are shown beside every N
  const methods = data.methods.map((method) => method.name).filter((name) => all("method").includes(name));
  const mixing = methods.filter((name) => shown.some((one) => one.method === name && one.n > 0));
  const find = (c, n, method, draw) => kept.get(key(c, n, method, draw)) || kept.get(key(c, 0, method, draw));
  const titles = new Map(shown.map((one) => [one.class, one.title]));
  const prefer = (name, otherwise) => (methods.includes(name) ? name : otherwise);
  const now = { class: classes[0], draw: draws[0], method: null, n: null, left: prefer("fix/0", mixing[0]), right: prefer("fix/chm", mixing[mixing.length - 1]), at: ns[ns.length - 1] };

  const say_ = (values, text = String) => values.map((value) => [value, text(value)]);
  const chooser = (name, label, options) => choice(label, options, now[name], (chosen) => ((now[name] = chosen), update()));
  const draw_ = (draw) => `draw ${draw + 1}`;
  const n_ = (n) => `N = ${n}`;
  const grid = [
    chooser("class", "Class", say_(classes, (c) => titles.get(c))),
    chooser("method", "Method", [[null, "every method"], ...say_(methods)]),
    chooser("n", "N", [[null, "every N"], ...say_(ns, n_)]),
    chooser("draw", "Draw", say_(draws, draw_)),
  ];
  const pair = { left: chooser("left", "Left", say_(mixing)), right: chooser("right", "Right", say_(mixing)), at: chooser("at", "N", say_(ns, n_)) };
  byId("choose-pictures").append(...grid.map((one) => one.node));
  byId("choose-pair").append(...Object.values(pair).map((one) => one.node));

  const alt = (one) => [one.title, ...(one.n ? [n_(one.n)] : []), one.method, draw_(one.draw)].join(", ");
  function image(one, extra = {}) {
    const node = make("img", { src: one.src, alt: alt(one), ...extra });
    node.addEventListener("load", () => node.classList.toggle("small", node.naturalWidth <= 128));
    return node;
  }

  // What is not chosen spans the rows and columns: methods and N, draws, or classes.
  function axes() {
    const cell = (given) => [given.class ?? now.class, given.n ?? now.n, given.method ?? now.method, given.draw ?? now.draw];
    const rowsOf = (name, values, text = String) => values.map((value) => [text(value), { [name]: value }]);
    const [byMethod, byN, byDraw] = [rowsOf("method", methods), rowsOf("n", ns, n_), rowsOf("draw", draws, draw_)];
    const byClass = rowsOf("class", classes, (c) => titles.get(c));
    if (now.method === null) return { cell, rows: byMethod, columns: now.n === null ? byN : byDraw };
    return { cell, rows: now.n === null ? byDraw : byClass, columns: now.n === null ? byN : byDraw };
  }

  function bring(one) {
    [now.class, now.draw] = [one.class, one.draw];
    if (one.n) {
      if (now.right === one.method) now.right = now.left;
      [now.left, now.at] = [one.method, one.n];
    }
    update();
    byId("side").scrollIntoView({ block: "start" });
  }

  const over = make("input", { type: "range", min: 0, max: 100, step: 1, value: 50, "aria-label": "Share of the left image that is shown, in percent" });
  const frame = make("div", { class: "slider" });
  const sides = make("div", { class: "sides" });
  over.addEventListener("input", () => frame.style.setProperty("--at", `${over.value}%`));
  byId("compare").append(frame, sides);

  function update() {
    ["class", "method", "n", "draw"].forEach((name, place) => grid[place].set(now[name]));
    for (const name of Object.keys(pair)) pair[name].set(now[name]);
    const { rows, columns, cell } = axes();
    const head = make("tr", {}, make("td"), ...columns.map(([name]) => make("th", { scope: "col" }, name)));
    const body = rows.map(([name, chosen]) => make("tr", {}, make("th", { scope: "row" }, name), ...columns.map(([, more], place) => {
      const one = find(...cell({ ...chosen, ...more }));
      if (one && !one.n && more.n && place) return make("td"); // a control has no N, and is shown once
      return make("td", {}, one ? make("button", { type: "button", title: alt(one), onclick: () => bring(one) }, image(one)) : make("div", { class: "none" }));
    })));
    byId("grid").replaceChildren(make("table", { class: "grid" }, make("thead", {}, head), make("tbody", {}, ...body)));
    const [left, right] = [now.left, now.right].map((method) => find(now.class, now.at, method, now.draw));
    frame.replaceChildren(...(right ? [image(right)] : []), ...(left ? [image(left, { class: "over" })] : []), over);
    sides.replaceChildren(make("span", {}, `← ${now.left}`), make("span", {}, `${titles.get(now.class)}, ${n_(now.at)}, ${draw_(now.draw)}`), make("span", {}, `${now.right} →`));
  }
  update();
}

// Diagnosis, and comparisons of methods

function diagnosis() {
  const found = data.diagnosis, section = byId("diagnosis");
  if (!found) return section.remove();
  section.append(
    make("p", {}, "A bias that all latents share grows by about √N if the norm of their mean is restored. The plots show the mean of a channel of ",
      make("code", {}, "fix/0"), " mixtures; the grey band holds 95 % of what random latents would give."),
    make("ul", {}, ...found.verdicts.map((one) => make("li", {}, `${one.title}: ${one.verdict}`))));
  const holder = make("div", { class: "plots" });
  section.append(holder, make("div", { class: "key" }, ...found.growth[0].series.map((one) => make("span", {}, swatch(one), one.name))));
  for (const channel of found.growth) {
    plot(holder, channel.title, ", mean in mixtures (by √N)", Math.sqrt, channel.band)(
      channel.series.map((one) => ({ ...one, points: one.points.map(([n, value]) => ({ n, value })) })));
  }
  const rows = make("div");
  section.append(make("h3", {}, "Numbers"), rows);
  table(rows, "Diagnosis of the latents", found.columns)(found.rows);
}

// Return a function that shows the pairs of a class.
function pairs() {
  const found = data.pairs;
  if (!found) return byId("pairs").remove(), () => {};
  const fill = table(byId("compared"), "Comparisons of methods on the same draws", found.columns);
  return (chosen) => fill(found.rows.filter((_, place) => found.classes === null || found.classes[place] === chosen));
}

if (!byId("short").textContent.trim()) byId("short").remove();
for (const section of document.querySelectorAll("section[data-title]")) section.prepend(make("h2", {}, section.dataset.title));
const pair = pairs();
curves();
images();
diagnosis();
for (const section of document.querySelectorAll("section[data-title]"))
  document.querySelector("nav").append(make("a", { href: `#${section.id}` }, section.dataset.title));
