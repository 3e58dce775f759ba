// <mlbox-log src="/api/v1/jobs/ID/logs?attempt=1">: a part of a log, however long that is: its end, which is followed while the job
// runs, or what is around a line that was searched for. Earlier parts come when they are asked for, and what is far away is let go.
import { drawn } from "./ansi.js";

const EVERY_MS = 1000;
const TAIL = 2000; // lines
const PART = 1 << 18; // bytes that are read at once, beside the end
const KEEP = 1 << 21; // characters in the page
const BLOCK = 1 << 16; // bytes that are drawn, or let be, together
const NEWLINE = 10;

class Log extends HTMLElement {
  connectedCallback() {
    if (this.screen) return;
    this.address = new URL(this.getAttribute("src"), location);
    this.screen = this.querySelector("pre");
    this.earlier = this.button("Earlier", () => this.before());
    this.later = this.button("Later", () => this.after());
    this.end = this.button("To the end", () => this.toEnd());
    this.querySelector("[data-tools]").append(this.searching(), this.earlier, this.later, this.end);
    this.hits = Object.assign(document.createElement("ol"), { className: "hits", hidden: true });
    this.screen.before(this.hits);
    this.toEnd();
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
    this.gone = true;
  }

  button(name, act) {
    const made = Object.assign(document.createElement("button"), { type: "button", className: "button small", textContent: name, hidden: true });
    made.addEventListener("click", act);
    return made;
  }

  searching() {
    const form = Object.assign(document.createElement("form"), { className: "inline", role: "search" });
    const field = Object.assign(document.createElement("input"), { type: "search", maxLength: 256, placeholder: "Search the log", ariaLabel: "Search the log" });
    form.append(field);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.search(field.value);
    });
    return form;
  }

  // -- reading --------------------------------------------------------------------------------------------------------

  async bytes(query) {
    const address = new URL(this.address);
    for (const [name, value] of Object.entries(query)) address.searchParams.set(name, value);
    const response = await fetch(address);
    if (!response.ok) {
      const { error } = await response.json().catch(() => ({ error: null }));
      throw new Error(error?.message ?? `The log cannot be read: ${response.status}.`);
    }
    const content = new Uint8Array(await response.arrayBuffer());
    const end = Number(response.headers.get("x-mlbox-offset"));
    return { content, from: end - content.length, end, ended: response.headers.get("x-mlbox-ended") === "1" };
  }

  clear() {
    clearTimeout(this.timer);
    this.screen.replaceChildren();
    this.kept = 0;
    this.ansi = {};
    this.rest = new Uint8Array();
    this.last = document.createElement("span");
    this.screen.append(this.last);
  }

  async toEnd() {
    this.clear();
    this.first = this.offset = null;
    this.atEnd = true;
    await this.follow();
  }

  async follow() {
    const turn = (this.turn = Symbol("turn"));
    while (!this.gone && this.turn === turn && this.atEnd) {
      let part = null;
      try {
        if (!document.hidden) part = await this.bytes(this.offset === null ? { tail: TAIL } : { offset: this.offset });
      } catch (error) {
        this.say(error instanceof TypeError ? "The server does not answer; trying again." : error.message);
      }
      if (this.gone || this.turn !== turn) return;
      if (part) {
        this.first ??= part.from;
        this.offset = part.end;
        this.add(part.content);
        this.show();
        if (part.content.length) continue;
        this.say(part.ended ? "The end of the log." : "Following…");
        if (part.ended) return;
      }
      await new Promise((done) => (this.timer = setTimeout(done, EVERY_MS)));
    }
  }

  async before() {
    const from = Math.max(0, this.first - PART);
    const { content } = await this.bytes({ offset: from });
    const part = content.subarray(0, this.first - from);
    const at = from === 0 ? 0 : part.indexOf(NEWLINE) + 1; // a line that began before
    const height = this.screen.scrollHeight;
    const { nodes } = drawn(new TextDecoder().decode(part.subarray(at)));
    this.screen.prepend(this.block(nodes, part.length - at));
    this.first = from + at;
    this.screen.scrollTop += this.screen.scrollHeight - height;
    this.trim(false);
    this.show();
  }

  async after() {
    const { content } = await this.bytes({ offset: this.offset });
    const part = content.subarray(0, PART);
    this.offset += part.length;
    this.add(part);
    if (!part.length) return this.toEnd();
    this.show();
  }

  // -- what is in the page --------------------------------------------------------------------------------------------

  add(content) {
    if (!content.length) return;
    const below = this.screen.scrollHeight - this.screen.scrollTop - this.screen.clientHeight < 24;
    const all = new Uint8Array(this.rest.length + content.length);
    all.set(this.rest);
    all.set(content, this.rest.length);
    const whole = all.lastIndexOf(NEWLINE) + 1;
    const { nodes, style } = drawn(new TextDecoder().decode(all.subarray(0, whole)), this.ansi);
    this.ansi = style;
    if (nodes.length) this.grow(nodes, whole);
    this.rest = all.slice(whole);
    this.last.replaceChildren(...drawn(new TextDecoder().decode(this.rest), style).nodes);
    this.trim(true);
    if (below && this.atEnd) this.screen.scrollTop = this.screen.scrollHeight;
  }

  // What is followed comes by the line: it joins the last block, until that is large enough.
  grow(nodes, bytes) {
    const size = this.tail?.isConnected ? Number(this.tail.dataset.bytes) : BLOCK;
    if (size >= BLOCK) return this.last.before((this.tail = this.block(nodes, bytes)));
    this.tail.append(...nodes);
    this.tail.dataset.bytes = size + bytes;
    this.kept += bytes;
  }

  block(nodes, bytes) {
    const made = document.createElement("span");
    made.className = "block";
    made.dataset.bytes = bytes;
    made.append(...nodes);
    this.kept += bytes;
    return made;
  }

  // Too much of a log is let go at the end that is not looked at.
  trim(atTop) {
    const blocks = () => [...this.screen.querySelectorAll(":scope > .block")];
    for (let all = blocks(); this.kept > KEEP && all.length > 1; all = blocks()) {
      const going = atTop ? all[0] : all.at(-1);
      this.kept -= Number(going.dataset.bytes);
      going.remove();
      if (atTop) this.first += Number(going.dataset.bytes);
      else this.leaveEnd(Number(going.dataset.bytes));
    }
  }

  leaveEnd(bytes) {
    this.offset -= bytes + this.rest.length;
    this.rest = new Uint8Array();
    this.last.replaceChildren();
    this.stay();
  }

  // No longer at the end: nothing is followed.
  stay() {
    clearTimeout(this.timer);
    this.turn = null;
    this.atEnd = false;
    this.say("A part of the log.");
    this.show();
  }

  show() {
    this.earlier.hidden = !this.first;
    this.later.hidden = this.end.hidden = this.atEnd;
  }

  // -- searching ------------------------------------------------------------------------------------------------------

  async search(text) {
    this.hits.replaceChildren();
    this.hits.hidden = !text;
    if (!text) return;
    this.say("Searching…");
    try {
      await this.find(text, 0);
    } catch (error) {
      this.say(error.message);
    }
  }

  async find(text, after) {
    const address = new URL(this.address);
    address.pathname += "/search";
    address.searchParams.set("text", text);
    address.searchParams.set("after", after);
    const response = await fetch(address);
    const body = await response.json();
    if (!response.ok) throw new Error(`${body.error.message} ${body.error.hint}`);
    for (const match of body.matches) this.hits.append(this.hit(match));
    this.say(`${this.hits.childElementCount}${body.next === null ? "" : " or more"} lines have it.`);
    if (body.next === null) return;
    const more = this.button("More", () => {
      more.closest("li").remove();
      this.find(text, body.next).catch((error) => this.say(error.message));
    });
    more.hidden = false;
    this.item(more);
  }

  hit({ offset, text }) {
    const made = Object.assign(document.createElement("button"), { type: "button" });
    made.append(...drawn(text).nodes);
    made.addEventListener("click", () => this.goTo(offset));
    return this.item(made);
  }

  item(inner) {
    const item = document.createElement("li");
    item.append(inner);
    this.hits.append(item);
    return item;
  }

  async goTo(offset) {
    this.clear();
    const from = Math.max(0, offset - PART / 2);
    const { content } = await this.bytes({ offset: from });
    const part = content.subarray(0, PART);
    const begins = from === 0 ? 0 : part.indexOf(NEWLINE) + 1;
    const place = offset - from;
    const ends = part.indexOf(NEWLINE, place) + 1 || part.length;
    this.first = from + begins;
    this.offset = from + part.length;
    this.add(part.subarray(begins, place));
    const mark = Object.assign(document.createElement("mark"), { tabIndex: -1 });
    mark.append(...drawn(new TextDecoder().decode(part.subarray(place, ends))).nodes);
    this.last.before(this.block([mark], ends - place));
    this.tail = null; // what follows is no part of the mark
    this.add(part.subarray(ends));
    this.stay();
    mark.scrollIntoView({ block: "center" });
    mark.focus({ preventScroll: true });
  }

  say(text) {
    this.querySelector("[data-state]").textContent = text;
  }
}

customElements.define("mlbox-log", Log);
