// <mlbox-time>: keeps "5 min ago" true while the page stays open. The server has written it already.
const UNITS = [["d", 86400], ["h", 3600], ["min", 60]];

function ago(seconds) {
  if (Math.abs(seconds) < 60) return seconds < 0 ? "in a moment" : "just now";
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length);
  const whole = Math.floor(Math.abs(seconds) / length);
  return seconds < 0 ? `in ${whole} ${unit}` : `${whole} ${unit} ago`;
}

class Time extends HTMLElement {
  connectedCallback() {
    this.timer = setInterval(() => this.tell(), 20000);
  }

  disconnectedCallback() {
    clearInterval(this.timer);
  }

  tell() {
    const time = this.querySelector("time");
    const seconds = (Date.now() - Date.parse(time.dateTime)) / 1000;
    if (Math.abs(seconds) < 30 * 86400) time.textContent = ago(seconds);
  }
}

customElements.define("mlbox-time", Time);

// <mlbox-here>: a moment by the viewer's own clock, which only the browser knows; its title is in UTC.
const SORTABLE = "sv"; // the locale that writes 2026-01-31 12:00

class Here extends HTMLElement {
  connectedCallback() {
    const time = this.querySelector("time");
    time.textContent = new Date(time.dateTime).toLocaleString(SORTABLE, { dateStyle: "short", timeStyle: "short" });
  }
}

customElements.define("mlbox-here", Here);
