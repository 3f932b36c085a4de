"use strict";
// Draws the data of the page, which are JSON. Texts are inserted as text; nothing here parses HTML.

const byId = (id) => document.getElementById(id);
const page = JSON.parse(byId("data").textContent);
const chosen = Math.min(Number(/^#run-([0-9]+)$/.exec(location.hash)?.[1] || 0), page.runs.length - 1);
const data = page.runs[chosen];
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

// Return the range of y. It begins at 0 unless all values are far from 0. There is room for the median interval; wider ones
// may be cut off, so that they do not flatten the curves.
function span(values, points) {
  const known = points.filter((point) => point.low !== null && point.low !== undefined);
  const ends = known.flatMap((point) => [point.low, point.high]);
  const reach = known.map((point) => Math.max(point.high - point.value, point.value - point.low)).sort((a, b) => a - b);
  const least = Math.min(...values), most = Math.max(...values);
  const bottom = least >= 0 && least < 0.6 * most ? 0 : least - 0.15 * (most - least || Math.abs(most) || 1);
  const room = Math.max(0.5 * (most - bottom || 1), 1.1 * (reach[Math.floor(reach.length / 2)] || 0));
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

// Return a button that saves a plot as a file of its own, with the styles that it has now, its title and its legend.
function saver(svg, title) {
  const save = () => {
    const copy = svg.cloneNode(true), [from, to] = [svg, copy].map((node) => [node, ...node.querySelectorAll("*")]);
    from.forEach((node, place) => {
      const style = getComputedStyle(node);
      for (const name of ["fill", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-family", "text-anchor"])
        to[place].setAttribute(name, style.getPropertyValue(name));
    });
    const words = (x, y, text) => make("text", { x, y, fill: getComputedStyle(document.body).color, "font-size": 12, "font-family": "sans-serif" }, text);
    const { width, height } = svg.viewBox.baseVal, curves = [...copy.querySelectorAll("[data-name] .curve")];
    copy.setAttribute("viewBox", `0 -24 ${width} ${height + 32 + 18 * curves.length}`);
    copy.append(words(8, -8, title));
    curves.forEach((curve, row) => {
      const line = curve.cloneNode(), y = height + 18 * row + 16;
      line.setAttribute("d", `M8,${y - 4}h32`);
      copy.append(line, words(48, y, curve.parentNode.dataset.name));
    });
    copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
    copy.setAttribute("style", `background: ${getComputedStyle(document.body).backgroundColor}`);
    const href = `data:image/svg+xml,${encodeURIComponent(copy.outerHTML)}`;
    make("a", { href, download: `${title.replace(/[^\p{L}\p{N}]+/gu, "-")}.svg` }).click();
  };
  return make("button", { type: "button", class: "save", onclick: save }, "save as SVG");
}

let plots = 0;

// Add a figure of curves over N, and return a function that draws series: {name, colour, dash, marker, flat,
// points: [{n, value, low, high, text}]}. A `flat` series has a single value, which applies to every N.
function plot(holder, title, note, scale, { band = null, says = [] } = {}) {
  const id = `clip-${plots++}`, height = 250;
  const svg = make("svg", { class: "plot", tabindex: 0, role: "img" });
  const readout = make("output", {}, "\u00a0");
  const below = says.map((sentence) => make("p", { class: "says" }, sentence));
  holder.append(make("figure", {}, make("figcaption", {}, title, make("span", {}, note)), svg, readout, ...below, saver(svg, title)));
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
    const [low, high] = span(points.map((point) => point.value).concat(band || []), points);
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
  holder.append(make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": label }, make("table", {}, make("thead", {}, make("tr", {}, ...heads)), body)));

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

const hidden = new Set(data.methods.filter((method) => method.name.startsWith("gauss:")).map((method) => method.name));
let classId = data.classes[0].id;
const log = (n) => Math.log(Math.max(n, 0.5));
const over = (row) => `over ${row.count} ${row.count === 1 ? row.over.replace(/(ss)?e?s$/, "$1") : row.over}`;
const better = (metric) => (metric.direction ? `, ${metric.direction}` : "");

function curves() {
  const update = () => (refill(), pair(), undefined);
  if (data.classes.length > 1) {
    const options = data.classes.map((one) => [one.id, one.id === "all" ? "all (average)" : one.title]);
    byId("choose-curves").append(choice("Class", options, classId, (value) => ((classId = value), update())).node);
  }
  const measured = data.methods.filter((method) => data.rows.some((row) => row.method === method.name));
  for (const method of measured) {
    const toggle = (event) => (hidden[event.target.checked ? "delete" : "add"](method.name), update());
    byId("legend").append(make("label", { title: method.description }, make("input", { type: "checkbox", checked: !hidden.has(method.name), onchange: toggle }), swatch(method), method.name));
  }
  const first = data.metrics.some((metric) => metric.plotted) ? data.metrics.filter((metric) => metric.plotted) : data.metrics.slice(0, 2);
  const place = (metric) => byId(first.indexOf(metric) > 1 ? "beside" : first.includes(metric) ? "plots" : "more-plots");
  const draw = data.metrics.map((metric) => plot(place(metric), metric.label, better(metric), log, { says: metric.notes }));
  const fill = table(byId("numbers"), "Table of all metrics", ["method", "N", ...data.metrics.map((metric) => metric.label)]);

  function refill() {
    const rows = data.rows.filter((row) => row.class === classId && !hidden.has(row.method));
    const found = new Map(rows.map((row) => [JSON.stringify([row.method, row.n, row.metric]), row]));
    const shown = measured.filter((method) => !hidden.has(method.name));
    data.metrics.forEach((metric, place) => {
      draw[place](shown.map((method) => {
        const points = rows.filter((row) => row.method === method.name && row.metric === metric.name && row.value !== null);
        return { ...method, flat: points.every((row) => !row.n), points: points.map((row) => ({ ...row, text: over(row) })).sort((a, b) => a.n - b.n) };
      }));
    });
    const cells = shown.flatMap((method) => unique(rows.filter((row) => row.method === method.name).map((row) => row.n)).sort((a, b) => a - b).map((n) => [method.name, n]));
    fill(cells.map(([method, n]) => [
      method, n || null,
      ...data.metrics.map((metric) => {
        const row = found.get(JSON.stringify([method, n, metric.name]));
        return row && row.value !== null ? [row.value, row.low, row.high] : null;
      }),
    ]));
  }
  refill();
}

// Pictures

const key = (...parts) => JSON.stringify(parts);
const kept = new Map(data.images.map((one) => [key(one.class, one.n, one.method, one.draw), one]));
const find = (c, n, method, draw) => kept.get(key(c, n, method, draw)) || kept.get(key(c, 0, method, draw)); // controls have no N
const about = (one) => [one.title, ...(one.n ? [`N = ${one.n}`] : []), one.method, `draw ${one.draw + 1}`].join(", ");

function image(one, extra = {}) {
  const node = make("img", { src: one.src, alt: about(one), ...extra });
  node.addEventListener("load", () => node.classList.toggle("small", node.naturalWidth <= 128));
  return node;
}

// The worst and the best method, and real images, of the first draw.
function strip() {
  const all = unique(data.images.filter((one) => one.n).map((one) => one.n)).sort((a, b) => a - b);
  if (!all.length || !data.strip) return;
  const ns = all.length <= 6 ? all : unique([0, 1, 2, 3, 4, 5].map((place) => all[Math.round((place * (all.length - 1)) / 5)]));
  const { class: c, draw } = data.images.find((one) => one.n);
  const reals = unique(data.images.filter((one) => one.method === "real").map((one) => one.draw));
  const box = make("div", { class: "strip", style: `--columns: ${ns.length}` }, make("span", { class: "corner" }), ...ns.map((n) => make("span", { class: "head" }, `N = ${n}`)));
  const cell = (one) => (one ? image(one) : make("div", { class: "none" }));
  for (const [kind, method] of [["worst", data.strip.worst], ["best", data.strip.best]])
    box.append(make("span", { class: "label" }, method, make("small", {}, kind)), ...ns.map((n) => cell(find(c, n, method, draw))));
  if (reals.length) box.append(make("span", { class: "label" }, "real"), ...ns.map((_, place) => (reals.length > place ? cell(find(c, 0, "real", reals[place])) : make("span"))));
  byId("strip").append(box);
}

function pictures() {
  const shown = data.images;
  if (!shown.length) {
    for (const node of byId("pictures").querySelectorAll("#choose-pictures, #grid, .hint")) node.hidden = true;
    return;
  }
  const all = (name) => unique(shown.map((one) => one[name]));
  const [classes, draws] = [all("class"), all("draw").sort((a, b) => a - b)];
  const ns = all("n").filter((n) => n > 0).sort((a, b) => a - b);
  const methods = data.methods.map((method) => method.name).filter((name) => all("method").includes(name));
  const titles = new Map(shown.map((one) => [one.class, one.title]));
  const inputs = new Map(data.inputs.map((one) => [key(one.class, one.draw), one.src]));
  const now = { class: classes[0], draw: draws[0], method: null, n: null };
  const options = (values, say = String) => values.map((value) => [value, say(value)]);
  const chooser = (name, label, values) => choice(label, values, now[name], (value) => ((now[name] = value), update()));
  const [draw_, n_] = [(draw) => `draw ${draw + 1}`, (n) => `N = ${n}`];
  byId("choose-pictures").append(...[
    chooser("class", "Class", options(classes, (c) => titles.get(c))),
    chooser("method", "Method", [[null, "every method"], ...options(methods)]),
    chooser("n", "N", [[null, "every N"], ...options(ns, n_)]),
    chooser("draw", "Draw", options(draws, draw_)),
  ].map((one) => one.node));

  // What is not chosen spans the rows and columns: methods and N, draws, or classes.
  function axes() {
    const cell = (given) => [given.class ?? now.class, given.n ?? now.n, given.method ?? now.method, given.draw ?? now.draw];
    const along = (name, values, say = String) => values.map((value) => [say(value), { [name]: value }]);
    const [byMethod, byN, byDraw] = [along("method", methods), along("n", ns, n_), along("draw", draws, draw_)];
    const byClass = along("class", classes, (c) => titles.get(c));
    if (now.method === null) return { cell, rows: byMethod, columns: now.n === null ? byN : byDraw };
    return { cell, rows: now.n === null ? byDraw : byClass, columns: now.n === null ? byN : byDraw };
  }

  // Show an image and what it mixes.
  function enlarge(one) {
    const mixed = (one.n && inputs.get(key(one.class, one.draw))) || [], first = mixed.slice(0, one.n);
    const more = one.n > first.length && first.length ? `, of which the first ${first.length} are shown` : "";
    const list = first.map((src, place) => make("img", { src, alt: `input ${place + 1}` }));
    const of = first.length ? [make("p", {}, `Mixed from ${one.n} image${one.n > 1 ? "s" : ""}${more}:`), make("div", { class: "inputs" }, ...list)] : [];
    byId("chosen").replaceChildren(make("div", { class: "large" }, image(one), make("div", {}, make("h3", {}, about(one)), ...of)));
  }

  function update() {
    const { rows, columns, cell } = axes();
    const head = make("tr", {}, make("td"), ...columns.map(([name]) => make("th", { scope: "col" }, name)));
    const body = rows.map(([name, given]) => make("tr", {}, make("th", { scope: "row" }, name), ...columns.map(([, more], place) => {
      const one = find(...cell({ ...given, ...more }));
      if (one && !one.n && more.n && place) return make("td"); // a control has no N, and is shown once
      return make("td", {}, one ? make("button", { type: "button", title: about(one), onclick: () => enlarge(one) }, image(one)) : make("div", { class: "none" }));
    })));
    byId("grid").replaceChildren(make("table", { class: "grid" }, make("thead", {}, head), make("tbody", {}, ...body)));
  }
  update();
  enlarge(find(classes[0], ns[ns.length - 1], data.strip ? data.strip.best : methods[0], draws[0]) || shown[0]);
}

// Diagnosis

function diagnosis() {
  const found = data.diagnosis, section = byId("diagnosis");
  if (!found) return section.remove();
  section.append(
    make("p", {}, "A bias that all latents share grows by about √N if the norm of their mean is restored. The plots show the mean of a channel of ",
      make("code", {}, "fix/0"), " mixtures, averaged over draws. In 95 % of single mixtures of random latents, all channels are within the grey band."),
    make("ul", {}, ...found.verdicts.map((one) => make("li", {}, `${one.title}: ${one.verdict}`))));
  const holder = make("div", { class: "plots" });
  section.append(holder, make("div", { class: "key" }, ...found.growth[0].series.map((one) => make("span", {}, swatch(one), one.name))));
  for (const channel of found.growth) {
    plot(holder, channel.title, ", mean in mixtures (by √N)", Math.sqrt, { band: channel.band })(
      channel.series.map((one) => ({ ...one, points: one.points.map(([n, value]) => ({ n, value })) })));
  }
  const rows = make("div");
  section.append(make("h3", {}, "Numbers"), rows);
  table(rows, "Diagnosis of the latents", found.columns)(found.rows);
}

// Comparisons of methods: a row for each, with its difference from the reference and the interval.

function pairs() {
  const numeric = data.pairs.filter((row) => typeof row.difference === "number");
  if (!numeric.length) return byId("pairs").remove(), () => {};
  const metrics = unique(numeric.map((row) => row.metric)), ns = unique(numeric.map((row) => row.n)).sort((a, b) => a - b);
  const named = (name) => data.metrics.find((metric) => metric.name === name) || { label: name, better: "" };
  const order = data.metrics.map((metric) => metric.name).filter((name) => metrics.includes(name));
  const now = { metric: order[0] || metrics[0], n: ns[ns.length - 1] };
  const update = () => fill();
  byId("choose-pairs").append(
    choice("Metric", (order.length ? order : metrics).map((name) => [name, named(name).label]), now.metric, (value) => ((now.metric = value), update())).node,
    choice("N", ns.map((n) => [n, `N = ${n}`]), now.n, (value) => ((now.n = value), update())).node);
  const svg = make("svg", { class: "forest", role: "img" }), numbers = make("div");
  byId("forest").append(svg, saver(svg, "differences"), numbers);
  const tabulate = table(numbers, "Differences on the same draws", ["method", "difference", "draws won"]);

  function fill() {
    const rows = numeric.filter((row) => row.class === classId && row.metric === now.metric && row.n === now.n);
    const metric = named(now.metric), several = unique(rows.map((row) => row.reference)).length > 1;
    const width = Math.max(280, svg.parentNode.clientWidth || 700), step = 30, top = 34, height = top + step * rows.length + 34;
    const left = Math.min(0.4 * width, 20 + 7.2 * Math.max(8, ...rows.map((row) => name(row).length))), right = 16;
    const ends = rows.flatMap((row) => [row.low, row.high, row.difference, 0]).filter((x) => typeof x === "number");
    const [low, high] = [Math.min(...ends, -1e-9), Math.max(...ends, 1e-9)], room = 0.04 * (high - low);
    const x = (value) => left + ((value - low + room) / (high - low + 2 * room)) * (width - left - right);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    svg.setAttribute("aria-label", `Differences by ${metric.label} at N = ${now.n}`);
    function name(row) {
      return several ? `${row.method} − ${row.reference}` : row.method;
    }
    const good = metric.better === "lower" ? [left, x(0)] : [x(0), width - right];
    svg.replaceChildren(
      ...(metric.better && rows.length ? [make("rect", { class: "better", x: good[0], width: good[1] - good[0], y: top - 8, height: step * rows.length + 8 })] : []),
      make("text", { class: "quiet", x: 0, y: 14 }, rows.length ? `${width > 500 ? `${metric.label}, ` : ""}difference from ${several ? "the reference" : rows[0].reference}` : "nothing to compare here"),
      ...ticks(low, high).filter((_, place, all) => width > 500 || !(place % Math.ceil(all.length / 4))).flatMap((tick) => [
        make("line", { class: "rule", x1: x(tick), x2: x(tick), y1: top - 8, y2: height - 30 }),
        make("text", { class: "quiet", x: x(tick), y: height - 14, "text-anchor": "middle" }, say(tick))]),
      make("line", { class: "zero", x1: x(0), x2: x(0), y1: top - 8, y2: height - 30 }),
      ...rows.flatMap((row, place) => {
        const style = data.methods.find((method) => method.name === row.method) || { colour: "currentColor", marker: "o" };
        const y = top + step * (place + 0.5) - 4, known = typeof row.low === "number", sure = known && (row.low > 0 || row.high < 0);
        const point = mark(style.marker, style.colour, x(row.difference), y);
        if (!sure) point.setAttribute("fill", "var(--paper)");
        const says = `${name(row)}: ${say(row.difference)} ${known ? interval(row.low, row.high) : ""}, ${over(row)}`;
        return [
          make("text", { x: left - 10, y: y + 4, "text-anchor": "end" }, name(row)),
          make("g", {}, make("title", {}, says), ...(known ? [make("line", { x1: x(row.low), x2: x(row.high), y1: y, y2: y, stroke: style.colour, "stroke-width": 2 })] : []), point)];
      }));
    tabulate(rows.map((row) => [name(row), [row.difference, row.low, row.high], row.won]));
  }
  byId("pairs").addEventListener("toggle", fill);
  addEventListener("resize", fill);
  return fill;
}

// Several runs beside each other: one method in all of them.

function runs() {
  if (page.runs.length < 2) return byId("runs").remove();
  const hues = page.hues;
  const names = unique(page.runs.flatMap((run) => run.methods.filter((method) => !method.control).map((method) => method.name)));
  const metrics = page.runs[0].metrics.filter((metric) => page.runs.every((run) => run.metrics.some((other) => other.name === metric.name)));
  const first = metrics.filter((metric) => metric.plotted).slice(0, 2);
  const styles = page.runs.map((run, place) => ({ name: run.name, ...hues[place % hues.length], dash: "" }));
  const draw = (first.length ? first : metrics.slice(0, 2)).map((metric) => [metric, plot(byId("run-plots"), metric.label, better(metric), log)]);
  let method = page.runs[0].strip ? page.runs[0].strip.best : names[0];
  const differ = (run, row) => page.compared.find((d) => d.run === run.name && d.method === row.method && d.metric === row.metric && d.n === row.n);
  function fill() {
    for (const [metric, fillOne] of draw) {
      fillOne(page.runs.map((run, place) => {
        const rows = run.rows.filter((row) => row.class === "all" && row.method === method && row.metric === metric.name && row.value !== null);
        const points = rows.map((row) => {
          const d = differ(run, row);
          return { ...row, text: [over(row), ...(d ? [`; on the same draws ${say(d.value)} ${interval(d.low, d.high)} from ${page.runs[0].name}`] : [])].join("") };
        });
        return { ...styles[place], flat: false, points: points.sort((a, b) => a.n - b.n) };
      }));
    }
  }
  byId("choose-runs").append(choice("Method", names.map((name) => [name, name]), method, (value) => ((method = value), fill())).node);
  byId("run-key").append(...styles.map((one) => make("span", {}, swatch(one), one.name)));
  const go = (value) => ((location.hash = `#run-${value}`), location.reload());
  byId("choose-run").append(choice("Run", page.runs.map((run, place) => [place, run.name]), chosen, go).node);
  fill();
}

for (const part of document.querySelectorAll("[data-run]")) part.hidden = Number(part.dataset.run) !== chosen;
for (const section of document.querySelectorAll("section[data-title]")) section.prepend(make("h2", {}, section.dataset.title));
const pair = pairs();
runs();
strip();
curves();
pictures();
diagnosis();
pair();
