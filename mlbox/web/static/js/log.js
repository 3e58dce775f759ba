// <mlbox-log src="/api/v1/jobs/ID/logs?attempt=1">: the log's tail, read on from where the last reading ended, until the
// server says that it has ended. Text goes in as text; only the end of a very long log is kept in the page.
const EVERY_MS = 1500;
const KEEP = 400000;

class Log extends HTMLElement {
  connectedCallback() {
    this.offset = 0;
    this.decoder = new TextDecoder();
    this.screen = this.querySelector("pre");
    this.follow();
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
    this.gone = true;
  }

  async follow() {
    const ended = document.hidden ? false : await this.read();
    if (ended || this.gone) return;
    this.timer = setTimeout(() => this.follow(), EVERY_MS);
  }

  async read() {
    const join = this.getAttribute("src").includes("?") ? "&" : "?";
    let response;
    try {
      response = await fetch(`${this.getAttribute("src")}${join}offset=${this.offset}`);
    } catch {
      return this.say("The server does not answer; trying again.");
    }
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({ error: null }));
      return this.say(error?.message ?? `The log cannot be read: ${response.status}.`);
    }
    const bytes = new Uint8Array(await response.arrayBuffer());
    const moved = Number(response.headers.get("x-mlbox-offset") ?? this.offset + bytes.length);
    const ended = ["true", "1"].includes(response.headers.get("x-mlbox-ended"));
    this.add(this.decoder.decode(bytes, { stream: true }));
    const all = moved === this.offset;
    this.offset = moved;
    this.say(ended && all ? "The end of the log." : "Following…");
    if (!all && bytes.length > 0) return this.read();
    return ended;
  }

  add(text) {
    if (!text) return;
    const below = this.screen.scrollHeight - this.screen.scrollTop - this.screen.clientHeight < 24;
    const whole = this.screen.textContent + text;
    this.screen.textContent = whole.length > KEEP ? whole.slice(whole.indexOf("\n", whole.length - KEEP) + 1) : whole;
    if (below) this.screen.scrollTop = this.screen.scrollHeight;
  }

  say(text) {
    this.querySelector("[data-state]").textContent = text;
    return false;
  }
}

customElements.define("mlbox-log", Log);
