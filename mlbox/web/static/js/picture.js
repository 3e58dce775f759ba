// <mlbox-picture label>: an SVG that the server drew, taken along as PNG with the colours of the page, and as CSV where its
// shapes say what they stand for: data-columns on the SVG, data-cells on each shape, both JSON.
import { csv, exportBar, png } from "./export.js";

const DRAWN = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-family", "font-size", "font-weight", "text-anchor"];
const SHARPNESS = 2;

function withStyles(svg) {
  const copy = svg.cloneNode(true);
  const targets = copy.querySelectorAll("*");
  svg.querySelectorAll("*").forEach((element, at) => {
    const style = getComputedStyle(element);
    for (const name of DRAWN) targets[at].setAttribute(name, style.getPropertyValue(name));
  });
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return copy;
}

class Picture extends HTMLElement {
  connectedCallback() {
    this.svg = this.querySelector("svg");
    const ways = { PNG: () => this.image() };
    if (this.svg.dataset.columns) ways.CSV = async () => this.rows();
    this.bar = exportBar(this.getAttribute("label"), ways);
    this.append(this.bar);
  }

  disconnectedCallback() {
    this.bar.remove();
  }

  rows() {
    const cells = [...this.svg.querySelectorAll("[data-cells]")].map((shape) => JSON.parse(shape.dataset.cells));
    return csv([JSON.parse(this.svg.dataset.columns), ...cells]);
  }

  async image() {
    const text = new XMLSerializer().serializeToString(withStyles(this.svg));
    const image = new Image();
    image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
    await image.decode();
    const { width, height } = this.svg.getBoundingClientRect();
    const canvas = Object.assign(document.createElement("canvas"), { width: width * SHARPNESS, height: height * SHARPNESS });
    const pen = canvas.getContext("2d");
    pen.fillStyle = getComputedStyle(this.closest(".panel") ?? document.documentElement).backgroundColor;
    pen.fillRect(0, 0, canvas.width, canvas.height);
    pen.drawImage(image, 0, 0, canvas.width, canvas.height);
    return png(canvas);
  }
}

customElements.define("mlbox-picture", Picture);
