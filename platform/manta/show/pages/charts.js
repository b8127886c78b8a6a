// Draws the figures of a page into its places, as SVG. What a figure may say is in charts.py.
"use strict";
(() => {
const SVG = "http://www.w3.org/2000/svg";
const SUFFIXES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"]];
const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "12px " + getComputedStyle(document.body).fontFamily;
const widthOf = text => ruler.measureText(text).width;

function cut(text, width) {
  if (widthOf(text) <= width) return text;
  let end = text.length;
  while (end > 1 && widthOf(text.slice(0, end) + "…") > width) end--;
  return text.slice(0, end) + "…";
}

function node(name, attributes, parent, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

function tag(name, kind, parent, text) {
  const made = document.createElement(name);
  made.className = kind;
  if (text !== undefined) made.textContent = text;
  parent.append(made);
  return made;
}

// Numbers.

function count(value, digits = 3) {
  const [size, suffix] = SUFFIXES.find(([size]) => Math.abs(value) >= size) || [1, ""];
  return Number((value / size).toPrecision(digits)) + suffix;
}

const FORMATS = {
  count: value => count(value),
  whole: value => Math.round(value).toLocaleString("en"),
  loss: value => value.toFixed(4),
  rate: value => value === 0 ? "0" : value.toExponential(3),
  percent: value => (100 * value).toFixed(1) + " %",
  number: value => String(Number(value.toPrecision(4))),
};

function tickText(value, step, format) {
  if (format === "percent") return Number((100 * value).toPrecision(3)) + " %";
  const size = Math.abs(value);
  if (!size) return "0";
  if (format === "rate" || size < 1e-3)
    return Number(value.toPrecision(3)).toExponential();
  if (format === "count" || size >= 1e4) return count(value, 4);
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

function linearTicks(low, high, most, whole) {
  let step = 10 ** Math.floor(Math.log10((high - low) / most));
  step *= [1, 2, 5, 10].find(factor => (high - low) / (step * factor) <= most) || 10;
  if (whole) step = Math.max(1, Math.round(step));
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high * (1 + 1e-12) + step * 1e-9; at++)
    found.push(at * step);
  return [found, step];
}

function logTicks(low, high) {
  const decades = Math.log10(high / low);
  const parts = decades > 3 ? [1] : decades > 1.2 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high) + 1; power++)
    for (const part of parts) {
      const value = part * 10 ** power;
      if (value >= low && value <= high) found.push(value);
    }
  if (found.length < 2) return linearTicks(low, high, 4)[0];
  return found;
}

// What all figures have: a place, a frame, a legend, a word under the pointer.

class Figure {
  constructor(place, figure) {
    this.figure = figure;
    this.hidden = new Set();
    this.view = (figure.views || [{}])[0];
    this.head = tag("div", "chart-head", place);
    this.stage = tag("div", "stage", place);
    this.tip = tag("div", "tip", this.stage);
    this.buttons();
    this.legend();
    this.redraw();
    new ResizeObserver(() => requestAnimationFrame(() => this.redraw())).observe(this.stage);
  }

  buttons() {
    if (!this.figure.views) return;
    const group = tag("div", "views", this.head);
    for (const view of this.figure.views) {
      const button = tag("button", view === this.view ? "on" : "", group, view.name);
      button.type = "button";
      button.onclick = () => {
        this.view = view;
        for (const one of group.children) one.className = one === button ? "on" : "";
        this.redraw(true);
      };
    }
  }

  legend() {
    const { data = [], legend = [], scale } = this.figure;
    const list = tag("div", "legend", this.head);
    const named = data.filter(series => series.legend);
    if (this.figure.reversed) named.reverse();
    for (const series of named) {
      const item = tag("button", "key", list);
      item.type = "button";
      item.title = "show or hide";
      const swatch = tag("i", series.dash ? "dashed" : "", item);
      swatch.style.color = series.color;
      item.append(series.name);
      item.onclick = () => {
        const group = series.group ?? series.name;
        if (!this.hidden.delete(group)) this.hidden.add(group);
        item.classList.toggle("off", this.hidden.has(group));
        this.redraw(true);
      };
    }
    for (const [name, color, shape] of legend) {
      const item = tag("span", "key", list);
      const icon = node("svg", { width: 16, height: 12 }, item);
      shape === "line" ? node("path", { d: "M0,6H16", style: `stroke:${color};stroke-width:3` }, icon)
        : mark(icon, shape, 8, 6, color);
      item.append(name);
    }
    if (scale) {
      const item = tag("span", "key", list);
      item.append(scale.best);
      tag("i", "ramp", item).style.background = `linear-gradient(90deg, ${scale.colors.join()})`;
      item.append(scale.worst);
    }
    if (!list.children.length) list.remove();
  }

  redraw(always) {
    const width = this.stage.clientWidth;
    if (!width || !always && width === this.width) return;
    this.width = width;
    this.height = this.tall();
    if (this.svg) this.svg.remove();
    this.svg = node("svg", { width, height: this.height, role: "img",
      "aria-label": this.figure.title || "" }, this.stage);
    this.tip.style.display = "none";
    this.draw();
  }

  tall() { return this.figure.height; }

  shown() {
    return this.figure.data.filter(series => !this.hidden.has(series.group ?? series.name));
  }

  say(lines, x, y) {
    this.tip.replaceChildren();
    for (const [text, color] of lines) {
      const line = tag("div", "", this.tip);
      if (color) tag("i", "", line).style.background = color;
      line.append(text);
    }
    this.tip.style.display = "block";
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    const left = x + 14 + width > this.width ? Math.max(0, x - 14 - width) : x + 14;
    this.tip.style.left = left + "px";
    this.tip.style.top = Math.max(0, Math.min(y - height / 2, this.height - height)) + "px";
  }

  hush() { this.tip.style.display = "none"; }

  // A shape that says something under the pointer.
  speaks(shape, text) {
    if (!text) return;
    shape.addEventListener("pointermove", event => {
      const box = this.stage.getBoundingClientRect();
      this.say(text.split("\n").map(line => [line]), event.clientX - box.x, event.clientY - box.y);
    });
    shape.addEventListener("pointerleave", () => this.hush());
  }

  xAxis(range, ticks, texts, box, toX) {
    let end = -Infinity;
    ticks.forEach((tick, index) => {
      const x = toX(tick), half = widthOf(texts[index]) / 2;
      node("path", { class: "grid", d: `M${x},${box.top}V${box.bottom}` }, this.svg);
      if (x - half < end + 8 || x + half > this.width) return;
      end = x + half;
      node("text", { x, y: box.bottom + 17, "text-anchor": "middle" }, this.svg, texts[index]);
    });
    const title = this.figure.x.title;
    if (title) node("text", { x: (box.left + box.right) / 2, y: box.bottom + 35,
      "text-anchor": "middle", class: "title" }, this.svg, title);
  }
}

function mark(parent, shape, x, y, color, size = 5) {
  const line = `stroke:${color};stroke-width:2;fill:none`;
  const paths = {
    cross: `M${x - 4},${y - 4}l8,8m0,-8l-8,8`,
    bar: `M${x},${y - 6}v12`,
    square: `M${x - 4},${y - 4}h8v8h-8z`,
    arrow: `M${x - 3},${y - 5}l7,5l-7,5z`,
  };
  if (paths[shape]) return node("path", { d: paths[shape], style: line }, parent);
  return node("circle", { cx: x, cy: y, r: shape === "ring" ? 3.5 : size,
    style: shape === "ring" ? `stroke:${color};fill:none` : `fill:${color}` }, parent);
}

// Lines over a horizontal axis.

class Lines extends Figure {
  draw() {
    const { figure, view, svg, width, height } = this;
    const series = this.shown();
    const marks = figure.marks || [];
    const [left, right] = this.range(series, "x", view.x || figure.x.range);
    const [low, high] = this.yRange(series, view, left, right);
    const log = view.log && low > 0;
    const most = Math.max(2, Math.floor(height / 45));
    const [ticks, step] = log ? [logTicks(low, high), low / 10]
      : linearTicks(low, high, most, figure.y.whole);
    const texts = ticks.map(tick => tickText(tick, step, figure.y.format));
    const box = { left: 12 + Math.max(...texts.map(widthOf), 16), right: width - 12,
      top: marks.some(one => one.label) ? 20 : 8, bottom: height - 44 };
    const toX = x => box.left + (x - left) / (right - left || 1) * (box.right - box.left);
    const scaled = log ? Math.log : Number;
    const toY = y => box.bottom - (scaled(y) - scaled(low)) / (scaled(high) - scaled(low) || 1) *
      (box.bottom - box.top);
    const fits = Math.max(2, Math.floor((box.right - box.left) / 65));
    const [xTicks, xStep] = linearTicks(left, right, fits);
    this.xAxis([left, right], xTicks, xTicks.map(x => tickText(x, xStep, figure.x.format)), box, toX);
    ticks.forEach((tick, index) => {
      const y = toY(tick);
      node("path", { class: "grid", d: `M${box.left},${y}H${box.right}` }, svg);
      node("text", { x: box.left - 7, y: y + 4, "text-anchor": "end" }, svg, texts[index]);
    });
    const clip = "clip-" + (figure.id ?? (figure.id = Math.random().toString(36).slice(2)));
    const area = node("clipPath", { id: clip }, svg);
    node("rect", { x: box.left - 4, y: box.top - 4, width: box.right - box.left + 8,
      height: box.bottom - box.top + 6 }, area);
    const inside = node("g", { "clip-path": `url(#${clip})` }, svg);
    this.marks(marks, box, toX, left, right);
    for (const one of series) this.line(one, inside, toX, y => log && y <= 0 ? NaN : toY(y));
    this.pointer(series, box, toX, toY, left, right);
  }

  range(series, axis, given) {
    if (given) return given;
    let low = Infinity, high = -Infinity;
    for (const one of series)
      for (const value of one[axis]) if (value !== null) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    return low > high ? [0, 1] : low === high ? [low - (low || 1) / 2, high + (high || 1) / 2]
      : [low, high];
  }

  yRange(series, view, left, right) {
    if (view.y) return view.y;
    const seen = series.map(({ x, y }) =>
      ({ y: y.filter((value, at) => x[at] >= left && x[at] <= right && !(view.log && value <= 0)) }));
    let [low, high] = this.range(seen, "y");
    if (view.log) return low > 0 ? [low / 1.02, high * 1.02] : [low, high];
    const margin = 0.05 * (high - low);
    if (this.figure.y.zero && low >= 0) return [0, high + margin || 1];
    return [low - margin, high + margin];
  }

  marks(marks, box, toX, left, right) {
    let end = -Infinity;
    for (const { x, label } of marks) {
      if (x < left || x > right) continue;
      const at = toX(x), long = widthOf(label || "");
      node("path", { class: "mark", d: `M${at},${box.top}V${box.bottom}` }, this.svg);
      const start = Math.max(box.left, Math.min(at - long / 2, box.right - long));
      if (!label || start < end + 8) continue;
      end = start + long;
      node("text", { x: start, y: box.top - 7 }, this.svg, label);
    }
  }

  line(series, parent, toX, toY) {
    const { x, y, color, width = 1.5, stairs, dash, dots } = series;
    let path = "", pen = false;
    for (let at = 0; at < x.length; at++) {
      const here = y[at] === null ? NaN : toY(y[at]);
      if (Number.isNaN(here)) { pen = false; continue; }
      const px = toX(x[at]).toFixed(1), py = here.toFixed(1);
      path += !pen ? `M${px},${py}` : stairs ? `H${px}V${py}` : `L${px},${py}`;
      pen = true;
      if (dots || x.length === 1) mark(parent, "disc", px, py, color, 3);
    }
    if (path) node("path", { d: path, class: "line", style: `stroke:${color};stroke-width:${width}` +
      (dash ? ";stroke-dasharray:6 4" : "") }, parent);
  }

  pointer(series, box, toX, toY, left, right) {
    const { figure, svg } = this;
    const cursor = node("path", { class: "cursor" }, svg);
    const spots = node("g", {}, svg);
    const over = node("rect", { x: box.left, y: box.top, fill: "transparent",
      width: Math.max(0, box.right - box.left), height: box.bottom - box.top }, svg);
    const clear = () => {
      cursor.removeAttribute("d");
      spots.replaceChildren();
      this.hush();
    };
    over.addEventListener("pointerleave", clear);
    over.addEventListener("pointermove", event => {
      const { x: ox, y: oy } = this.stage.getBoundingClientRect();
      const px = event.clientX - ox, py = event.clientY - oy;
      const at = left + (px - box.left) / (box.right - box.left || 1) * (right - left);
      let found = series.map(one => this.near(one, at)).filter(Boolean);
      found = found.filter(({ x }) => x >= left && x <= right);
      if (!found.length) return clear();
      const away = ({ x, y }) => Math.hypot(toX(x) - px, toY(y) - py);
      if (figure.closest || found.length > 8)
        found = [found.reduce((best, one) => away(one) < away(best) ? one : best)];
      const near = found.reduce((a, b) => Math.abs(b.x - at) < Math.abs(a.x - at) ? b : a);
      spots.replaceChildren();
      for (const { x, y, series: { color } } of found) mark(spots, "disc", toX(x), toY(y), color, 4);
      cursor.setAttribute("d", `M${toX(near.x)},${box.top}V${box.bottom}`);
      const write = FORMATS[figure.y.format] || FORMATS.number;
      const where = (FORMATS[figure.x.exact] || FORMATS.number)(near.x) + " " + figure.x.title;
      const step = near.step === undefined ? "" : `, step ${FORMATS.whole(near.step)}`;
      this.say([[where + step], ...found.map(({ y, series: one }) =>
        [`${one.text || one.name}: ${write(y)}`, one.color])], px, py);
    });
  }

  // The point of a series next to `at`; on a line that is known everywhere, the point there.
  near(series, at) {
    const { x, y, steps } = series;
    let low = 0, high = x.length - 1;
    if (high < 0) return null;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (x[middle] < at) low = middle + 1; else high = middle;
    }
    if (series.exact && low > 0 && at <= x[low]) {
      const share = (at - x[low - 1]) / (x[low] - x[low - 1] || 1);
      return { x: at, y: y[low - 1] + share * (y[low] - y[low - 1]), series };
    }
    if (low > 0 && at - x[low - 1] < x[low] - at) low--;
    return y[low] === null ? null : { x: x[low], y: y[low], step: steps && steps[low], series };
  }
}

// Bars, dots and lines in rows with names.

class Rows extends Figure {
  // Names have lines of their own, above the shapes, where there is no room beside them.
  tall() {
    const { rows, height } = this.figure;
    this.longest = Math.max(0, ...rows.map(widthOf));
    this.above = this.width < 600 && this.longest > 0.36 * this.width;
    return this.above ? 50 + 40 * rows.length : height;
  }

  draw() {
    const { figure, svg, width, height } = this;
    const { rows, bars = [], dots = [], lines = [], x: axis } = figure;
    const room = this.above ? 0 : Math.min(this.longest, 0.36 * width);
    const box = { left: room + 16, right: width - 18, top: 6, bottom: height - 44 };
    const [low, high] = axis.range;
    const toX = x => box.left + (x - low) / (high - low || 1) * (box.right - box.left);
    const thick = (box.bottom - box.top) / (figure.count || rows.length || 1);
    const toY = row => box.top + (row + (this.above ? 0.7 : 0.5)) * thick;
    const fat = (this.above ? 0.42 : 0.72) * thick;
    const [ticks, step] = linearTicks(low, high, Math.max(2, Math.floor((box.right - box.left) / 65)));
    this.xAxis([low, high], ticks, ticks.map(x => tickText(x, step, axis.format)), box, toX);
    for (const { row, from, to, color, text, label } of bars) {
      const bar = node("rect", { x: toX(from), y: toY(row) - fat / 2, height: fat,
        width: Math.max(1, toX(to) - toX(from)), rx: 2, style: `fill:${color}` }, svg);
      this.speaks(bar, text);
      if (label) node("text", { x: toX(to) + 6, y: toY(row) + 4 }, svg, label);
    }
    for (const { points, color, width: thin = 1, dash } of lines) {
      const path = points.map(([x, row], at) => (at ? "L" : "M") + toX(x) + "," + toY(row)).join("");
      node("path", { d: path, class: "line", style: `stroke:${color};stroke-width:${thin}` +
        (dash ? ";stroke-dasharray:2 3" : "") }, svg);
    }
    rows.forEach((name, row) => {
      const text = this.above ? node("text", { x: 0, y: toY(row) - 13, class: "halo" }, svg,
          cut(name, width))
        : node("text", { x: box.left - 9, y: toY(row) + 4, "text-anchor": "end" }, svg,
          cut(name, room));
      node("title", {}, text, name);
    });
    for (const { row, x, half, color, shape, text } of dots) {
      if (half) node("path", { class: "error",
        d: `M${toX(x - half)},${toY(row)}H${toX(x + half)}m0,-4v8M${toX(x - half)},${toY(row) - 4}v8` },
        svg);
      this.speaks(mark(svg, shape, toX(x), toY(row), color), text);
    }
  }
}

// Axes side by side, a line across them for each configuration. A drag along an axis keeps the
// lines that pass there; a click on it frees it.

const MOST_LABEL = 110;

class Parallel extends Figure {
  constructor(place, figure) {
    figure.kept = new Map();  // shares of an axis between which lines are kept, by its index
    super(place, figure);
  }

  draw() {
    const { figure, svg, width, height } = this;
    const { axes, lines } = figure;
    const gap = (width - 100) / Math.max(1, axes.length - 1);
    const toX = axis => 22 + axis * gap, toY = share => height - 16 - share * (height - 56);
    const drawn = node("g", {}, svg);
    axes.forEach(({ label, ticks }, axis) => {
      const x = toX(axis), last = axis === axes.length - 1;
      node("path", { class: "axis", d: `M${x},${toY(0)}V${toY(1)}` }, svg);
      const name = node("text", { x: axis ? x : 4, y: 16, class: "name",
        "text-anchor": axis ? "middle" : "start" }, svg, cut(label, last ? 120 : gap - 8));
      node("title", {}, name, label);
      for (const [share, text] of ticks)
        node("text", { x: x + 6, y: toY(share) + 4, class: "halo" }, svg,
          cut(text, last ? 70 : Math.min(gap - 14, MOST_LABEL)));
    });
    const across = [];
    for (const { at, color, width: thick, text } of lines) {
      const path = at.map((share, axis) => (axis ? "L" : "M") + toX(axis) + "," + toY(share)).join("");
      const line = node("path", { d: path, class: "line across",
        style: `stroke:${color};stroke-width:${thick}` }, drawn);
      this.speaks(line, text);
      line.addEventListener("pointerenter", () => drawn.append(line));
      across.push([line, at]);
    }
    const keep = () => {
      const kept = [...figure.kept];
      for (const [line, at] of across) line.classList.toggle("left-out",
        kept.some(([axis, [low, high]]) => at[axis] < low || at[axis] > high));
    };
    axes.forEach((_, axis) => this.brush(axis, toX(axis), toY, keep));
    keep();
  }

  brush(axis, x, toY, keep) {
    const { kept } = this.figure;
    const part = node("rect", { class: "brush", x: x - 5, width: 10 }, this.svg);
    const handle = node("rect", { class: "handle", x: x - 11, y: toY(1) - 6, width: 22,
      height: toY(0) - toY(1) + 12 }, this.svg);
    let from = null;
    const share = event => {
      const y = event.clientY - this.stage.getBoundingClientRect().y;
      return Math.max(0, Math.min(1, (toY(0) - y) / (toY(0) - toY(1))));
    };
    const show = () => {
      const [low, high] = kept.get(axis) || [0, 0];
      part.setAttribute("y", toY(high));
      part.setAttribute("height", toY(low) - toY(high));
      keep();
    };
    handle.addEventListener("pointerdown", event => {
      from = share(event);
      if (event.isTrusted) handle.setPointerCapture(event.pointerId);
      event.preventDefault();
    });
    handle.addEventListener("pointermove", event => {
      if (from === null) return;
      const at = share(event);
      // A hand that trembles while it clicks drags nothing.
      if (Math.abs(at - from) * (toY(0) - toY(1)) < 4) kept.delete(axis);
      else kept.set(axis, [Math.min(from, at) - 1e-6, Math.max(from, at) + 1e-6]);
      show();
    });
    handle.addEventListener("pointerup", event => {
      if (from !== null && Math.abs(share(event) - from) * (toY(0) - toY(1)) < 4) kept.delete(axis);
      from = null;
      show();
    });
    handle.addEventListener("pointercancel", () => { from = null; });
    show();
  }
}

const KINDS = { lines: Lines, rows: Rows, parallel: Parallel };
const figures = JSON.parse(document.getElementById("figures").textContent);
figures.forEach((figure, index) =>
  new KINDS[figure.kind](document.getElementById("chart-" + index), figure));
})();
