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

// <mlbox-hours>: the axis of a picture by the viewer's own clock; who points at a tick reads UTC.
const FORMS = { day: { day: "2-digit", month: "short" }, minute: { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } };

class Hours extends HTMLElement {
  connectedCallback() {
    for (const tick of this.querySelectorAll("text[data-at]")) {
      const utc = document.createElementNS("http://www.w3.org/2000/svg", "title");
      utc.textContent = `${tick.dataset.at.slice(0, 16).replace("T", " ")} UTC`;
      tick.replaceChildren(new Date(tick.dataset.at).toLocaleString("en-GB", FORMS[tick.dataset.by]), utc);
    }
    const { timeZone } = Intl.DateTimeFormat().resolvedOptions();
    this.querySelector("[data-zone]").textContent = `hours are those of ${timeZone}`;
  }
}

customElements.define("mlbox-hours", Hours);
