// <mlbox-chart data-chart='{"x": "step", "series": [{"label", "points": [[x, y]]}]}'>: lines, or with "kind": "steps" a
// distribution. With "logx": true x is drawn by its logarithm; with "time": true x is seconds
// since 1970, drawn by the viewer's clock and told in UTC. A line that is "like" the n-th has its colour, dashed.
import { csv, exportBar, png } from "./export.js";
import { MOMENTS, clock } from "./lines.js";

const PALETTE = 6;
const WHOLE = [1, 2, 5].flatMap((n) => Array.from({ length: 10 }, (_, power) => n * 10 ** power)).sort((a, b) => a - b);

function color(host, name) {
  const probe = document.createElement("i");
  probe.style.color = `var(--${name})`;
  host.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function aligned(series) {
  return window.uPlot.join(series.map(({ points }) => [points.map((p) => p[0]), points.map((p) => p[1])]));
}

function short(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size >= 1e6 || (size > 0 && size < 1e-3)) return value.toExponential(1);
  return String(Number(value.toPrecision(size >= 1000 ? 6 : 4)));
}

// Round numbers along a logarithmic axis: powers of ten, or where few of them lie on it 1, 2 and 5 of each, or its ends.
function decades(_, axis, low, high) {
  const round = WHOLE.filter((value) => value >= low && value <= high);
  const powers = round.filter((value) => Number.isInteger(Math.log10(value)));
  return [powers, round, [low, high]].find((some) => some.length > 1);
}

class Chart extends HTMLElement {
  connectedCallback() {
    this.spec = JSON.parse(this.dataset.chart);
    this.again = () => this.draw();
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", this.again);
    document.addEventListener("mlbox:theme", this.again);
    this.watcher = new ResizeObserver(() => this.plot?.setSize(this.size()));
    this.classList.toggle("single", this.spec.series.length === 1);
    this.draw();
    this.watcher.observe(this);
    this.bar = exportBar(this.dataset.name, { PNG: () => this.image(), CSV: async () => this.rows() });
    this.after(this.bar); // an image to a screen reader, it may hold no button
  }

  disconnectedCallback() {
    this.dark.removeEventListener("change", this.again);
    document.removeEventListener("mlbox:theme", this.again);
    this.watcher.disconnect();
    this.bar.remove();
    this.plot?.destroy();
    this.plot = null;
  }

  size() {
    return { width: Math.max(200, this.clientWidth), height: 190 };
  }

  draw() {
    this.plot?.destroy();
    this.replaceChildren();
    this.plot = new window.uPlot(this.options(), aligned(this.spec.series), this);
  }

  rows() {
    const { x, time, series } = this.spec;
    const [at, ...lines] = aligned(series);
    const moment = (value) => (time ? new Date(value * 1000).toISOString() : value);
    return csv([[x, ...series.map((one) => one.label)], ...at.map((value, row) => [moment(value), ...lines.map((line) => line[row])])]);
  }

  // The plot on the page's own ground, under its name and the names of its lines.
  image() {
    const plot = this.plot.ctx.canvas;
    const ratio = window.devicePixelRatio;
    const head = 24 * ratio;
    const canvas = Object.assign(document.createElement("canvas"), { width: plot.width, height: plot.height + 2 * head });
    const pen = canvas.getContext("2d");
    pen.fillStyle = color(this, "surface");
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(plot, 0, head);
    pen.textBaseline = "middle";
    pen.font = `600 ${13 * ratio}px ${getComputedStyle(this).fontFamily}`;
    pen.fillStyle = color(this, "text");
    pen.fillText(this.dataset.name, 8 * ratio, head / 2);
    pen.font = `${11 * ratio}px ${getComputedStyle(this).fontFamily}`;
    let left = 8 * ratio;
    for (const [at, { label, guide, like }] of this.spec.series.entries()) {
      pen.fillStyle = this.stroke(guide, like ?? at);
      pen.fillText(label, left, plot.height + 1.5 * head);
      left += pen.measureText(label).width + 14 * ratio;
    }
    return png(canvas);
  }

  stroke(guide, at) {
    return color(this, guide ? "bad" : `series-${(at % PALETTE) + 1}`);
  }

  options() {
    const spec = this.spec;
    const axis = { stroke: color(this, "muted"), font: `11px ${getComputedStyle(this).fontFamily}` };
    const lines = { stroke: color(this, "line"), width: 1 };
    const time = Boolean(spec.time);
    return {
      ...this.size(),
      tzDate: clock,
      scales: { x: { time, distr: spec.logx ? 3 : 1, range: this.range() }, y: { range: this.height() } },
      legend: { markers: { width: 0, fill: (plot, at) => plot.series[at].stroke(plot, at) } },
      cursor: { points: { size: 7 }, drag: { x: true, y: false } },
      axes: [
        { ...axis, grid: { show: false }, ticks: { ...lines, size: 4 }, size: time ? 42 : 28, values: time ? MOMENTS : (_, v) => v.map((one) => (one == null ? "" : short(one))), ...(spec.x === "step" ? { incrs: WHOLE } : {}), ...(spec.logx ? { splits: decades, filter: (_, v) => v } : {}) },
        { ...axis, grid: lines, ticks: { show: false }, size: 52, values: (_, v) => v.map(short) },
      ],
      series: [
        { label: spec.x, value: (_, v) => (v == null ? "–" : time ? new Date(v * 1000).toISOString().slice(0, 16) + "Z" : short(v)) },
        ...spec.series.map((one, at) => this.line(one, at)),
      ],
    };
  }

  // A lone point gets room on both sides; uPlot itself would give it years on one.
  range() {
    const room = this.spec.time ? 3600 : 1;
    return ({ data: [at] }, low, high) => (at.length === 1 || low === high ? [at[0] - room, at[0] + room] : [low, high]);
  }

  // Shares and thresholds are read against nought; everything else against its own spread.
  height() {
    if (!this.spec.zero) return undefined;
    return (_, low, high) => [0, high > 0 ? high * 1.08 : 1];
  }

  line({ label, points, guide, like }, at) {
    const stroke = this.stroke(guide, like ?? at);
    if (guide) return { label, stroke, width: 1, dash: [5, 5], value: (_, v) => short(v), points: { show: false }, spanGaps: true };
    const steps = this.spec.kind === "steps";
    return {
      label,
      stroke,
      width: 1.75,
      spanGaps: true,
      value: (_, v) => short(v),
      points: { show: !steps && points.length < 3, size: 6, fill: stroke },
      ...(like !== undefined || at >= PALETTE ? { dash: [6, 4] } : {}),
      ...(steps ? { paths: window.uPlot.paths.stepped({ align: 1 }) } : {}),
    };
  }
}

customElements.define("mlbox-chart", Chart);
