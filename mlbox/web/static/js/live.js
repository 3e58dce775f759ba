// <mlbox-live on="job run" every="10">: reads its part of the page anew when an event's subject is one of these nouns, and
// every so many seconds where something changes without an event. All parts share one stream, and a tab that nobody
// looks at holds none: a browser opens only six connections to one server.
const GATHER_MS = 400;
const parts = new Set();
let source = null;
let position = document.querySelector("meta[name=position]")?.content; // what happens while a page is on its way is told, too
let focused = -1;

function listen() {
  if (source || document.hidden || parts.size === 0) return;
  source = new EventSource(position ? `/api/v1/events?position=${position}` : "/api/v1/events");
  position = "";
  source.onmessage = (message) => {
    const noun = JSON.parse(message.data).subject.split(":")[0];
    for (const part of parts) if (part.nouns.has(noun)) part.stale();
  };
  source.addEventListener("resync", () => parts.forEach((part) => part.stale()));
}

function hush() {
  source?.close();
  source = null;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) return hush();
  listen();
  parts.forEach((part) => part.stale());
});
window.addEventListener("pagehide", hush);
window.addEventListener("pageshow", (event) => {
  listen();
  if (event.persisted) parts.forEach((part) => part.stale());
});

document.addEventListener("mlbox-told", () => parts.forEach((part) => part.stale()));

const FOCUSABLE = "a[href], button, input, select, textarea, summary, [tabindex]";

class Live extends HTMLElement {
  connectedCallback() {
    this.nouns = new Set((this.getAttribute("on") ?? "").split(" "));
    parts.add(this);
    const every = Number(this.getAttribute("every"));
    if (every > 0) this.beat = setInterval(() => this.stale(), every * 1000);
    const held = focused;
    focused = -1;
    // What is inside has to stand first: its own elements bring buttons.
    if (held >= 0) queueMicrotask(() => this.querySelectorAll(FOCUSABLE)[held]?.focus({ preventScroll: true }));
    listen();
  }

  disconnectedCallback() {
    parts.delete(this);
    clearInterval(this.beat);
    clearTimeout(this.timer);
    if (parts.size === 0) hush();
  }

  // Events come in bursts: one reading answers all that arrive within a moment.
  stale() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      if (this.isFree()) this.read();
    }, GATHER_MS);
  }

  // Never under someone's hands: not while they type, select text, or have unfolded more of a list.
  isFree() {
    const active = document.activeElement;
    const typing = this.contains(active) && active.matches("input, select, textarea");
    const selecting = !document.getSelection().isCollapsed;
    return !document.hidden && !typing && !selecting && !this.querySelector("[data-more-shown], details[open], [data-fold][aria-expanded=true], input:checked, .find-rows:not(:placeholder-shown)");
  }

  read() {
    const active = document.activeElement;
    focused = this.contains(active) ? [...this.querySelectorAll(FOCUSABLE)].indexOf(active) : -1;
    const select = `#${this.id}`;
    window.htmx.ajax("GET", location.pathname + location.search, { source: this, target: select, select, swap: "outerHTML" });
  }
}

customElements.define("mlbox-live", Live);

// "Show more" adds to the list that it ends; from then on the list stays as its reader left it.
document.addEventListener("htmx:afterSwap", (event) => {
  if (event.detail.requestConfig?.elt?.matches("[data-more]")) event.detail.target.dataset.moreShown = "";
});
