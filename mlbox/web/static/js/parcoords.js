// <mlbox-parcoords data-parcoords='{"label", "axes": [{"name", "values": [number, text or null]}], "runs": [{"name", "href"}]}'>: parallel
// coordinates (Inselberg 1985), an axis for each name, a line for each run. Drawing along an axis keeps the runs that cross it there; so
// do the arrow keys on an axis, with shift for its upper end, and Escape lets go. The address holds what is chosen.
import { picture, svg } from "./svg.js";

const HEIGHT = 300;
const [TOP, BOTTOM, SIDE] = [36, 26, 60];
const LEAST = 120;
const STEP = 0.05;
const LETTERS = 16;

const cut = (text) => (text.length > LETTERS ? `${text.slice(0, LETTERS - 1)}…` : text);
const written = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : String(value));

// Where a value lies on its axis, 0 at its foot; null where a run has none.
function scale(values) {
  const present = values.filter((value) => value !== null);
  if (present.every((value) => typeof value === "number")) {
    const [low, high] = [Math.min(...present), Math.max(...present)];
    return { at: (value) => (value === null ? null : high > low ? (value - low) / (high - low) : 0.5), ends: [low, high] };
  }
  const order = [...new Set(present.map(String))].sort();
  const at = (value) => (value === null ? null : order.length > 1 ? order.indexOf(String(value)) / (order.length - 1) : 0.5);
  return { at, ends: [order[0], order.at(-1)] };
}

class Parcoords extends HTMLElement {
  connectedCallback() {
    this.spec = JSON.parse(this.dataset.parcoords);
    this.axes = this.spec.axes.map((axis) => ({ ...axis, ...scale(axis.values) }));
    this.brushes = this.kept();
    this.status = Object.assign(document.createElement("p"), { className: "muted small", role: "status" });
    this.replaceChildren(picture(this.spec.label, this.draw()), this.status);
    this.choose();
  }

  kept() {
    try {
      return JSON.parse(decodeURIComponent(location.hash.replace(/^#brush=/, "")));
    } catch {
      return {};
    }
  }

  y(share) {
    return TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  }

  draw() {
    const gap = Math.max(LEAST, (this.clientWidth - 2 * SIDE) / Math.max(1, this.axes.length - 1));
    const width = 2 * SIDE + gap * (this.axes.length - 1);
    this.x = (at) => SIDE + at * gap;
    const columns = JSON.stringify(["run", ...this.axes.map((axis) => axis.name)]);
    const frame = { class: "parcoords", width, height: HEIGHT, viewBox: `0 0 ${width} ${HEIGHT}`, role: "group", "aria-label": this.spec.label, "data-columns": columns };
    this.lines = this.spec.runs.map((run, at) => this.line(run, at));
    return svg("svg", frame, ...this.lines, ...this.axes.map((axis, at) => this.axis(axis, at)));
  }

  line({ name, href }, run) {
    const places = this.axes.map((axis, at) => [this.x(at), axis.at(axis.values[run])]).filter(([, share]) => share !== null);
    const path = places.map(([x, share], at) => `${at ? "L" : "M"}${x} ${this.y(share).toFixed(1)}`).join("");
    const cells = JSON.stringify([name, ...this.axes.map((axis) => axis.values[run])]);
    return svg("a", { href, tabindex: -1, "aria-label": name, "data-cells": cells }, svg("title", {}, name), svg("path", { d: path }));
  }

  axis(axis, at) {
    const x = this.x(at);
    const [top, foot] = [this.y(1), this.y(0)];
    const brush = svg("rect", { class: "brush", x: x - 8, width: 16, y: top, height: 0 });
    const catcher = svg("rect", { class: "catch", x: x - 18, width: 36, y: top, height: foot - top });
    const words = { tabindex: 0, role: "button", "aria-label": `${axis.name}: arrow keys choose runs, Escape lets go` };
    const [low, high] = axis.ends.map(written);
    const group = svg("g", { class: "axis", ...words }, svg("title", {}, axis.name), svg("line", { x1: x, x2: x, y1: top, y2: foot }),
      svg("text", { class: "name", x, y: 14 }, cut(axis.name)), svg("text", { x, y: 29 }, cut(high)), svg("text", { x, y: HEIGHT - 10 }, cut(low)), brush, catcher);
    this.follow(group, catcher, axis.name);
    axis.brush = brush;
    return group;
  }

  follow(group, catcher, name) {
    const share = (event) => {
      const frame = catcher.getBoundingClientRect();
      return Math.min(1, Math.max(0, 1 - (event.clientY - frame.top) / frame.height));
    };
    catcher.addEventListener("pointerdown", (event) => {
      catcher.setPointerCapture(event.pointerId);
      const from = share(event);
      catcher.onpointermove = (moved) => this.brush(name, [from, share(moved)].sort((a, b) => a - b));
      catcher.onpointerup = (ended) => {
        catcher.onpointermove = null;
        if (Math.abs(share(ended) - from) < 0.01) this.brush(name, null);
      };
    });
    group.addEventListener("keydown", (event) => {
      const step = { ArrowUp: STEP, ArrowDown: -STEP }[event.key];
      if (event.key === "Escape") return this.brush(name, null);
      if (!step) return undefined;
      event.preventDefault();
      const range = this.brushes[name] ?? [0, 1];
      const end = event.shiftKey ? 1 : 0;
      range[end] = Math.min(end ? 1 : range[1], Math.max(end ? range[0] : 0, range[end] + step));
      return this.brush(name, [...range]);
    });
  }

  brush(name, range) {
    if (range) this.brushes[name] = range.map((share) => Number(share.toFixed(3)));
    else delete this.brushes[name];
    const held = Object.keys(this.brushes).length ? `#brush=${encodeURIComponent(JSON.stringify(this.brushes))}` : "";
    history.replaceState(null, "", location.pathname + location.search + held);
    this.choose();
  }

  choose() {
    for (const axis of this.axes) {
      const range = this.brushes[axis.name];
      axis.brush.setAttribute("y", range ? this.y(range[1]) : 0);
      axis.brush.setAttribute("height", range ? Math.max(2, this.y(range[0]) - this.y(range[1])) : 0);
    }
    const chosen = this.lines.map((_, run) => this.axes.every((axis) => this.crosses(axis, run)));
    this.lines.forEach((line, run) => line.classList.toggle("out", !chosen[run]));
    const count = chosen.filter(Boolean).length;
    this.status.textContent = `${count} of ${this.lines.length} runs`;
  }

  crosses(axis, run) {
    const range = this.brushes[axis.name];
    const share = axis.at(axis.values[run]);
    return !range || (share !== null && share >= range[0] && share <= range[1]);
  }
}

customElements.define("mlbox-parcoords", Parcoords);
