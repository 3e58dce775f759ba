// <mlbox-heatmap data-heatmap='{"label", "times", "versions", "rows": [{"name", "href", "cells": [[D, verdict] or null]}]}'>: a row for
// each feature, a column for each check. The darker the further; a cross marks an alert, a dot what is to be looked into.
import { picture, svg } from "./svg.js";

const LEFT = 190;
const HEIGHT = 20;
const TOP = 34;
const [LEAST, MOST] = [8, 34];
const LETTERS = 26;
const KINDS = { ok: "ok", investigate: "warn", alert: "bad" };
const SIGNS = { investigate: "·", alert: "×" };

const day = (iso) => iso.slice(0, 16).replace("T", " ");

class Heatmap extends HTMLElement {
  connectedCallback() {
    this.spec = JSON.parse(this.dataset.heatmap);
    const { times, versions, rows, label } = this.spec;
    this.cell = Math.max(LEAST, Math.min(MOST, Math.floor((this.clientWidth - LEFT - 4) / times.length)));
    const [width, height] = [LEFT + this.cell * times.length + 4, TOP + HEIGHT * rows.length + 4];
    const columns = JSON.stringify(["feature", "time", "version", "D", "verdict"]);
    const drawn = svg("svg", { class: "heatmap", width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": label, "data-columns": columns });
    drawn.append(...this.heads(times, versions, height), ...rows.flatMap((row, at) => this.row(row, at)));
    this.replaceChildren(picture(label, drawn));
  }

  // Where a version begins, and the first and the last time.
  heads(times, versions, height) {
    const starts = versions.map((version, at) => ({ version, at })).filter(({ version, at }) => version !== versions[at - 1]);
    const lines = starts.flatMap(({ version, at }) => {
      const x = LEFT + at * this.cell;
      return [svg("line", { x1: x, x2: x, y1: 16, y2: height }), svg("text", { class: "tick", x: x + 3, y: 28 }, `v${version}`)];
    });
    const end = { class: "tick", x: LEFT + times.length * this.cell, y: 12, "text-anchor": "end" };
    const first = svg("text", { class: "tick", x: LEFT, y: 12 }, day(times[0]));
    return [first, ...(times.length * this.cell > 240 ? [svg("text", end, day(times.at(-1)))] : []), ...lines];
  }

  row({ name, href, cells }, at) {
    const y = TOP + at * HEIGHT;
    const short = name.length > LETTERS ? `…${name.slice(1 - LETTERS)}` : name;
    const label = svg("a", { href, "aria-label": name }, svg("title", {}, name), svg("text", { class: "name", x: 0, y: y + 14 }, short));
    return [label, ...cells.flatMap((cell, column) => (cell ? [this.one(name, cell, column, y)] : []))];
  }

  one(name, [statistic, verdict], column, y) {
    const { times, versions } = this.spec;
    const x = LEFT + column * this.cell;
    const words = `${name}, ${day(times[column])} UTC, version ${versions[column]}: ${statistic == null ? "too few values" : `D ${statistic}`}, ${verdict.replaceAll("_", " ")}`;
    const data = JSON.stringify([name, times[column], versions[column], statistic, verdict]);
    const box = { class: KINDS[verdict] ?? "off", x: x + 0.5, y: y + 0.5, width: this.cell - 1, height: HEIGHT - 2, rx: 2, "fill-opacity": 0.15 + 0.85 * Math.min(1, (statistic ?? 0) * 1.5) };
    const sign = SIGNS[verdict] && svg("text", { class: "sign", x: x + this.cell / 2, y: y + 14, "text-anchor": "middle" }, SIGNS[verdict]);
    return svg("g", { "data-cells": data }, svg("title", {}, words), svg("rect", box), ...(sign ? [sign] : []));
  }
}

customElements.define("mlbox-heatmap", Heatmap);
