// <mlbox-filter>: a field whose words the server completes, after the pattern of an editable combobox with a list (WAI-ARIA APG).
// Down and up go through the list, Enter or Tab takes, Escape closes. What is wrong is told under the field, and where.

/** @typedef {{text: string, begin: number, detail: string}} Suggestion */
/** @typedef {{suggestions: Suggestion[], wrong: {message: string, begin: number, end: number} | null}} Completion */

const WAIT_MS = 120;
const SETTLE_MS = 900;
const CLOSING = new Set(["'", '"', "`", "(", ")"]);

class Filter extends HTMLElement {
  connectedCallback() {
    /** @type {HTMLInputElement} */ this.field = this.querySelector("input");
    this.list = Object.assign(document.createElement("ul"), { id: "filter-words", role: "listbox", ariaLabel: "What may be typed", hidden: true });
    this.said = Object.assign(document.createElement("p"), { className: "filter-said small", hidden: true });
    this.said.setAttribute("role", "status");
    this.append(this.list, this.said);
    const combo = { role: "combobox", "aria-autocomplete": "list", "aria-controls": "filter-words", "aria-expanded": "false" };
    for (const [name, value] of Object.entries(combo)) this.field.setAttribute(name, value);
    /** @type {Suggestion[]} */ this.offers = [];
    this.at = -1;
    this.isAsking = false;
    this.waiting = { step: 0, take: false };
    this.field.addEventListener("input", () => this.soon());
    this.field.addEventListener("focus", () => this.soon());
    this.field.addEventListener("click", () => this.soon());
    this.field.addEventListener("keydown", (event) => this.key(event));
    this.field.addEventListener("blur", () => this.close());
    this.list.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the field keeps the focus
      const chosen = event.target.closest("[role=option]");
      if (chosen) this.take([...this.list.children].indexOf(chosen));
    });
  }

  disconnectedCallback() {
    clearTimeout(this.timer);
    clearTimeout(this.settling);
    this.asking?.abort();
    this.list.remove();
    this.said.remove();
  }

  // What is shown is of what was typed before, until the server has answered: keys pressed meanwhile wait for that.
  soon() {
    this.isAsking = true;
    this.waiting = { step: 0, take: false };
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.ask(), WAIT_MS);
  }

  async ask() {
    this.asking?.abort();
    this.asking = new AbortController();
    const at = this.field.selectionStart;
    const query = new URLSearchParams({ text: this.field.value, at });
    const experiment = this.field.form.elements.namedItem("experiment")?.value;
    if (experiment) query.set("experiment", experiment);
    try {
      const answer = await fetch(`/api/v1/run-words?${query}`, { signal: this.asking.signal });
      if (!answer.ok) return this.close();
      const found = /** @type {Completion} */ (await answer.json());
      this.show(found.suggestions);
      clearTimeout(this.settling);
      const goesOn = found.wrong?.begin === this.field.value.length && found.suggestions.length > 0;
      this.settling = setTimeout(() => this.tell(goesOn ? null : found.wrong), found.wrong ? SETTLE_MS : 0);
    } catch (error) {
      if (error.name !== "AbortError") this.close();
    }
    return undefined;
  }

  /** @param {Suggestion[]} offers */
  show(offers) {
    this.offers = offers;
    this.at = -1;
    this.isAsking = false;
    this.list.replaceChildren(...offers.map((offer, place) => this.option(offer, place)));
    this.open(offers.length > 0 && document.activeElement === this.field);
    if (this.list.hidden || !this.waiting.step) return;
    this.move(this.waiting.step);
    if (this.waiting.take) this.take(this.at);
  }

  /** @param {Suggestion} offer @param {number} place */
  option({ text, detail }, place) {
    const option = Object.assign(document.createElement("li"), { id: `filter-word-${place}`, role: "option" });
    option.append(Object.assign(document.createElement("code"), { textContent: text }));
    if (detail) option.append(Object.assign(document.createElement("span"), { className: "muted", textContent: detail }));
    option.setAttribute("aria-selected", "false");
    return option;
  }

  open(is) {
    this.list.hidden = !is;
    this.field.setAttribute("aria-expanded", String(is));
    if (!is) this.field.removeAttribute("aria-activedescendant");
  }

  close() {
    this.isAsking = false;
    clearTimeout(this.timer);
    this.asking?.abort();
    this.open(false);
  }

  // What is wrong is said once somebody pauses: a filter that is being typed is wrong most of the time.
  tell(wrong) {
    this.said.hidden = !wrong || !this.field.value;
    this.said.replaceChildren();
    if (this.said.hidden) return;
    const text = this.field.value;
    const mark = Object.assign(document.createElement("mark"), { textContent: text.slice(wrong.begin, wrong.end) || "␣" });
    const code = document.createElement("code");
    code.append(text.slice(0, wrong.begin), mark, text.slice(wrong.end));
    this.said.append(`${wrong.message} `, code);
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.key === "Escape" && !this.list.hidden) {
      event.preventDefault();
      return this.close();
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      if (!this.isAsking && !this.list.hidden) return this.move(step);
      if (!this.isAsking) this.soon();
      this.waiting.step = step;
    }
    const takes = event.key === "Enter" || (event.key === "Tab" && !event.shiftKey);
    if (!takes) return undefined;
    if (this.isAsking && this.waiting.step) {
      event.preventDefault();
      this.waiting.take = true;
    } else if (!this.isAsking && !this.list.hidden && this.at >= 0) {
      event.preventDefault();
      this.take(this.at);
    }
    return undefined;
  }

  move(step) {
    this.at = (this.at + step + this.offers.length) % this.offers.length;
    [...this.list.children].forEach((option, place) => option.setAttribute("aria-selected", String(place === this.at)));
    this.list.children[this.at].scrollIntoView({ block: "nearest" });
    this.field.setAttribute("aria-activedescendant", `filter-word-${this.at}`);
  }

  take(place) {
    const { text, begin } = this.offers[place];
    const { value, selectionStart: end } = this.field;
    const rest = CLOSING.has(value[end]) && text.endsWith(value[end]) ? value.slice(end + 1) : value.slice(end);
    const gap = rest.startsWith(" ") ? "" : " ";
    this.field.value = value.slice(0, begin) + text + gap + rest;
    const at = begin + text.length + 1;
    this.field.setSelectionRange(at, at);
    this.soon();
  }
}

customElements.define("mlbox-filter", Filter);
