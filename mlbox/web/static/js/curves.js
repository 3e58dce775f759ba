// <mlbox-curveset data-runs='[{"id", "label", "began"}]' data-live>: charts of metrics, a figure for each, a line for each run, under
// one bar that says how all are drawn: along steps, time or the clock on the wall, smoothed, with logarithmic axes. The address
// holds that. A chart is made once it comes into sight, and reads no more points than a screen has room for; drawing along it zooms in,
// to all the points there are, and a double click zooms out. While a run logs, what is in sight is read again as points come; the zoom stays.
import { exportBar, png } from "./export.js";
import { MOMENTS, clock, length, moment, ordered, places, short, smooth } from "./lines.js";

/** @typedef {{id: string, label: string, began: number}} RunOf */
/** @typedef {{along: "step" | "time" | "wall", smooth: number, logx: boolean, logy: boolean}} Way */

const PALETTE = 6;
const NAMED = 10; // lines that a legend names; of more, the nearest one is told
const LOOK_MS = 600; // so that a point is on the screen within a second of its log call
const FIRST = 12; // charts that show at once; a run may have hundreds
const HEIGHT = 200;
const WHOLE = Array.from({ length: 16 }, (_, power) => [1, 2, 5].map((n) => n * 10 ** power)).flat();
const SPANS = [...[0.001, 0.01, 0.1, 1].flatMap((n) => [n, 2 * n, 5 * n]), 10, 15, 30, ...[60, 3600].flatMap((n) => [1, 2, 5, 10, 15, 30].map((m) => m * n)), ...WHOLE.map((n) => n * 86400)];
const WORDS = { step: "step", time: "time since the run began", wall: "time" };

function colour(host, name, alpha = 1) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  host.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return alpha === 1 ? found : found.replace(/^rgba?\(([^)]*)\)$/, (_, parts) => `rgb(${parts.split(/[,/]\s*/).slice(0, 3).join(" ")} / ${alpha})`);
}

async function json(address, signal) {
  const answer = await fetch(address, { signal });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  return answer.json();
}

class Curves extends HTMLElement {
  connectedCallback() {
    if (this.set) return; // it was only moved
    this.set = /** @type {CurveSet} */ (this.closest("mlbox-curveset"));
    this.key = this.closest("[data-key]").dataset.key;
    this.zoom = /** @type {[number, number] | null} */ (null);
    this.seen = new IntersectionObserver(([entry]) => this.sight(entry.isIntersecting), { rootMargin: "120px" });
    this.seen.observe(this);
    this.sized = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.sized.observe(this);
  }

  connectedMoveCallback() {}

  disconnectedCallback() {
    queueMicrotask(() => {
      if (this.isConnected) return;
      this.seen.disconnect();
      this.sized.disconnect();
      this.asking?.abort();
      this.bar?.remove();
      this.plot?.destroy();
      this.set = this.plot = null;
    });
  }

  sight(is) {
    this.inSight = is;
    if (is && (!this.lines || this.isStale)) this.read();
  }

  stale() {
    this.isStale = true;
    if (this.inSight) this.read();
  }

  async read() {
    if (this.isReading) return;
    this.isReading = true;
    this.isStale = false;
    const query = new URLSearchParams([["key", this.key], ["most", String(Math.max(300, Math.min(2000, this.clientWidth * 2)))], ["run", this.set.ids]]);
    if (this.zoom && this.set.way.along === "step") {
      query.set("first", String(Math.floor(this.zoom[0])));
      query.set("last", String(Math.ceil(this.zoom[1])));
    }
    try {
      this.asking = new AbortController();
      this.lines = (await json(`/api/v1/curves?${query}`, this.asking.signal)).lines;
      if (this.isConnected) this.draw();
    } catch (error) {
      if (error.name !== "AbortError") this.textContent = `The curve could not be read: ${error.message}.`;
    } finally {
      this.isReading = false;
    }
    if (this.isStale && this.inSight) this.read();
  }

  size() {
    return { width: Math.max(200, this.clientWidth), height: HEIGHT };
  }

  // Each run's points as they are, and before them, where wanted, what they come to when smoothed.
  tables() {
    const { along, smooth: weight, logx, logy } = this.set.way;
    const own = (values, log) => (log ? values.map((value) => (value > 0 ? value : null)) : values);
    const tables = this.lines.map((line) => {
      const began = this.set.runs.find((run) => run.id === line.run).began;
      const [xs, ys] = ordered(places(line, along, began), line.values);
      const kept = logx ? xs.map((x, at) => [x, ys[at]]).filter(([x]) => x > 0) : null;
      return kept ? [kept.map(([x]) => x), kept.map(([, y]) => y)] : [xs, ys];
    });
    const raw = tables.map(([xs, ys]) => [xs, own(ys, logy)]);
    return weight > 0 ? [...raw, ...tables.map(([xs, ys]) => [xs, own(smooth(ys, weight), logy)])] : raw;
  }

  draw() {
    const tables = this.tables();
    const shape = `${JSON.stringify(this.set.way)} ${this.lines.length}`;
    const data = tables.length ? window.uPlot.join(tables) : [[]];
    if (this.plot && this.shape === shape) {
      this.plot.setData(data, false);
      this.frame(data[0]);
      return;
    }
    this.shape = shape;
    this.plot?.destroy();
    this.replaceChildren();
    this.classList.toggle("many", this.lines.length > NAMED);
    this.said = Object.assign(document.createElement("p"), { className: "nearest" });
    this.plot = new window.uPlot(this.options(), data, this);
    this.append(this.said);
    this.plot.over.addEventListener("dblclick", () => this.zoomTo(null));
    this.frame(data[0]);
    this.bar ??= this.buttons();
  }

  buttons() {
    const bar = exportBar(this.key, { PNG: () => this.image(), CSV: () => this.whole() });
    this.after(bar);
    return bar;
  }

  // The x axis shows what was zoomed to, or all there is.
  frame(xs) {
    const [low, high] = this.zoom ?? [xs[0] ?? 0, xs.at(-1) ?? 1];
    this.plot.batch(() => {
      this.plot.setScale("x", low === high ? { min: low - 1, max: high + 1 } : { min: low, max: high });
    });
  }

  /** @param {[number, number] | null} range */
  zoomTo(range) {
    this.zoom = range;
    this.frame(this.plot.data[0]);
    if (this.set.way.along === "step") this.read();
  }

  stroke(at, alpha) {
    return colour(this, `series-${(at % PALETTE) + 1}`, alpha);
  }

  options() {
    const { along, smooth: weight, logx, logy } = this.set.way;
    const axis = { stroke: colour(this, "muted"), font: `11px ${getComputedStyle(this).fontFamily}` };
    const grid = { stroke: colour(this, "line"), width: 1 };
    const write = { step: short, time: length, wall: moment }[along];
    const time = along === "wall";
    const ticks = (format) => (_, values) => values.map((value) => (value == null ? "" : format(value)));
    return {
      ...this.size(),
      tzDate: clock,
      scales: { x: { time, distr: logx && !time ? 3 : 1 }, y: { distr: logy ? 3 : 1 } },
      legend: { show: this.lines.length <= NAMED, markers: { width: 0, fill: (plot, at) => plot.series[at].stroke(plot, at) } },
      focus: { alpha: this.lines.length > 1 ? 0.25 : 1 },
      cursor: { points: { size: 7 }, focus: { prox: 24 }, drag: { x: true, y: false, setScale: false } },
      hooks: { setSelect: [(plot) => this.selected(plot)], setSeries: [(_, at) => this.near(at)], setCursor: [() => this.near(this.nearest)] },
      axes: [
        { ...axis, grid: { show: false }, ticks: { ...grid, size: 4 }, size: time ? 42 : 28, values: time ? MOMENTS : ticks(write), ...(logx || time ? {} : { incrs: along === "step" ? WHOLE : SPANS }) },
        { ...axis, grid, ticks: { show: false }, size: 52, values: ticks(short) },
      ],
      series: [{ label: WORDS[along], value: (_, v) => write(v) }, ...this.lines.map((line, at) => this.line(line, at, weight > 0)), ...(weight > 0 ? this.lines.map((line, at) => this.line(line, at, false, true)) : [])],
    };
  }

  line(line, at, faint, smoothed = false) {
    const label = this.set.runs.find((run) => run.id === line.run).label;
    return {
      label: faint ? `${label}, raw` : label,
      class: faint ? "raw" : "drawn",
      stroke: this.stroke(at, faint ? 0.3 : 1),
      width: faint ? 1 : 1.75,
      spanGaps: true,
      value: (_, v) => short(v),
      points: { show: !smoothed && line.steps.length < 3, size: 6 },
      ...(at % (2 * PALETTE) >= PALETTE ? { dash: [6, 4] } : {}),
    };
  }

  selected(plot) {
    const { left, width } = plot.select;
    if (width < 4) return;
    const range = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    plot.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.zoomTo(/** @type {[number, number]} */ (range));
  }

  // Of many lines, the one by the pointer is told by name.
  near(at) {
    this.nearest = at;
    if (this.lines.length <= NAMED) return;
    const place = at == null ? null : this.plot.cursor.idxs?.[at];
    const value = place == null ? null : this.plot.data[at][place];
    this.said.textContent = at == null ? `${this.lines.length} runs` : `${this.plot.series[at].label}${value == null ? "" : `: ${short(value)}`}`;
  }

  async whole() {
    const query = new URLSearchParams({ key: this.key, run: this.set.ids });
    const answer = await fetch(`/api/v1/curves/points?${query}`);
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    return answer.blob();
  }

  async image() {
    const plot = this.plot.ctx.canvas;
    const ratio = window.devicePixelRatio;
    const head = 24 * ratio;
    const canvas = Object.assign(document.createElement("canvas"), { width: plot.width, height: plot.height + 2 * head });
    const pen = canvas.getContext("2d");
    pen.fillStyle = colour(this, "surface");
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(plot, 0, head);
    pen.textBaseline = "middle";
    pen.font = `600 ${13 * ratio}px ${getComputedStyle(this).fontFamily}`;
    pen.fillStyle = colour(this, "text");
    pen.fillText(this.key, 8 * ratio, head / 2);
    pen.font = `${11 * ratio}px ${getComputedStyle(this).fontFamily}`;
    let left = 8 * ratio;
    for (const [at, run] of this.set.runs.slice(0, NAMED).entries()) {
      pen.fillStyle = this.stroke(at);
      pen.fillText(run.label, left, plot.height + 1.5 * head);
      left += pen.measureText(run.label).width + 14 * ratio;
    }
    return png(canvas);
  }
}

class CurveSet extends HTMLElement {
  connectedCallback() {
    if (this.runs) return; // it was only moved
    this.runs = /** @type {RunOf[]} */ (JSON.parse(this.dataset.runs));
    this.ids = this.runs.map((run) => run.id).join(",");
    this.form = this.querySelector("form.ways");
    this.rest = Object.assign(document.createElement("button"), { type: "button", className: "button small rest", hidden: true });
    this.rest.addEventListener("click", () => this.unfold());
    this.append(this.rest);
    this.way = this.read();
    this.form.addEventListener("input", () => this.changed());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.again = () => this.charts().forEach((chart) => this.anew(chart));
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", this.again);
    document.addEventListener("mlbox:theme", this.again);
    if ("live" in this.dataset) this.timer = setInterval(() => this.look(), LOOK_MS);
  }

  connectedMoveCallback() {}

  disconnectedCallback() {
    queueMicrotask(() => {
      if (this.isConnected) return;
      clearInterval(this.timer);
      this.dark.removeEventListener("change", this.again);
      document.removeEventListener("mlbox:theme", this.again);
    });
  }

  /** @returns {Curves[]} */
  charts() {
    return [...this.querySelectorAll("mlbox-curves")];
  }

  anew(chart) {
    chart.shape = null;
    if (chart.plot && chart.lines) chart.draw();
  }

  // The address says how curves are drawn; the form shows it.
  /** @returns {Way} */
  read() {
    const said = new URLSearchParams(location.search);
    const { along, smooth: weight, logx, logy } = this.form.elements;
    if (["time", "wall"].includes(said.get("along"))) along.value = said.get("along");
    if (Number(said.get("smooth")) > 0) weight.value = String(Math.min(0.99, Number(said.get("smooth"))));
    logx.checked = said.has("logx");
    logy.checked = said.has("logy");
    const { only } = this.form.elements;
    if (only) only.value = said.get("only") ?? "";
    this.narrow();
    return this.wayOf();
  }

  // Only the charts whose names have what is typed, and of many the first ones.
  narrow() {
    const words = this.form.elements.only?.value.trim().toLowerCase() ?? "";
    const whole = new URLSearchParams(location.search).has("charts");
    const found = [...this.querySelectorAll("[data-key]")].filter((figure) => {
      figure.hidden = !figure.dataset.key.toLowerCase().includes(words);
      return !figure.hidden;
    });
    this.rest.hidden = whole || found.length <= FIRST;
    this.rest.textContent = `All ${found.length.toLocaleString("en")} charts`;
    if (!this.rest.hidden) for (const figure of found.slice(FIRST)) figure.hidden = true;
    return words;
  }

  unfold() {
    const said = new URLSearchParams(location.search);
    said.set("charts", "all");
    history.replaceState(null, "", `${location.pathname}?${said}${location.hash}`);
    const next = this.querySelector("[data-key][hidden]");
    for (const set of document.querySelectorAll("mlbox-curveset")) set.narrow();
    next?.querySelector("button, a")?.focus();
  }

  wayOf() {
    const { along, smooth: weight, logx, logy, shown } = this.form.elements;
    shown.value = Number(weight.value) ? Number(weight.value).toFixed(2) : "none";
    logx.disabled = along.value === "wall";
    return { along: along.value, smooth: Number(weight.value), logx: logx.checked && along.value !== "wall", logy: logy.checked };
  }

  changed() {
    const before = this.way.along;
    this.way = this.wayOf();
    const said = new URLSearchParams(location.search);
    const { along, smooth: weight, logx, logy } = this.way;
    for (const [name, text] of Object.entries({ along: along === "step" ? "" : along, smooth: weight || "", logx: logx ? "1" : "", logy: logy ? "1" : "", only: this.narrow() })) {
      if (text) said.set(name, text);
      else said.delete(name);
    }
    history.replaceState(null, "", `${location.pathname}${said.size ? `?${said}` : ""}${location.hash}`);
    this.redraw(before);
    for (const other of document.querySelectorAll("mlbox-curveset")) if (other !== this) other.adopt();
  }

  redraw(before) {
    for (const chart of this.charts()) {
      if (before !== this.way.along) chart.zoom = null;
      this.anew(chart);
    }
  }

  // All charts of a page are drawn in one way.
  adopt() {
    const before = this.way.along;
    this.form.reset();
    this.way = this.read();
    this.redraw(before);
  }

  // What there is by now: metrics that were not there before get a chart, those that grew are read again.
  async look() {
    if (document.hidden || this.isLooking) return;
    this.isLooking = true;
    try {
      const { points, live } = await json(`/api/v1/curves/state?run=${this.ids}`);
      for (const [key, count] of Object.entries(points)) this.heard(key, count);
      this.points = points;
      if (live === 0) clearInterval(this.timer);
    } catch {
      // It is asked again in a moment.
    } finally {
      this.isLooking = false;
    }
  }

  // The first time all are read again: a point may have come between a curve's first reading and this.
  heard(key, count) {
    if (key.startsWith("system/") !== "system" in this.dataset) return;
    const figure = [...this.querySelectorAll("[data-key]")].find((one) => one.dataset.key === key);
    if (!figure) {
      this.querySelector(".charts").append(this.figure(key));
      this.narrow();
    } else if (this.points?.[key] !== count) figure.querySelector("mlbox-curves").stale();
  }

  figure(key) {
    const figure = document.createElement("figure");
    figure.dataset.key = key;
    const caption = document.createElement("figcaption");
    caption.append(Object.assign(document.createElement("b"), { textContent: key }));
    const chart = document.createElement("mlbox-curves");
    chart.setAttribute("role", "img");
    chart.ariaLabel = `${key} as it was logged`;
    figure.append(caption, chart);
    return figure;
  }
}

customElements.define("mlbox-curveset", CurveSet);
customElements.define("mlbox-curves", Curves);
