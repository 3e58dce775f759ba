// <mlbox-form>: sends the form inside it to the JSON API, with the page's form token, and says what came of it.
// A field that the address names as {field} goes into the address, the others into the body.
//   data-confirm   a question to ask first
//   data-then      where to go afterwards, {field} being one of the answer; without it the page is read anew
//   data-told      what to say of the answer instead of leaving
//   data-show      the field of the answer to show instead of leaving (a secret that is shown once)
export const token = () => document.querySelector("meta[name=csrf]").content;

// What a form itself cannot take, in the shape of the API's errors.
export class Refusal extends Error {
  constructor(message, field, hint = "") {
    super(message);
    Object.assign(this, { field, hint });
  }
}

export class Form extends HTMLElement {
  connectedCallback() {
    this.form = this.querySelector("form");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send(event.submitter);
    });
  }

  async send(submitter) {
    const question = submitter?.dataset.confirm ?? this.dataset.confirm;
    if (question && !window.confirm(question)) return;
    const gathered = this.gather(submitter); // a button that is disabled would be left out
    this.say("", "");
    this.busy(true);
    try {
      const values = await gathered;
      const given = submitter?.getAttribute("formaction") ?? this.form.getAttribute("action");
      const address = given.replace(/\{(\w+)\}/g, (_, name) => {
        const value = values[name] ?? "";
        delete values[name];
        return encodeURIComponent(value);
      });
      const method = submitter?.dataset.method ?? this.dataset.method ?? "POST";
      await this.answered(await this.request(method, address, values), submitter);
    } catch (error) {
      this.refused(error instanceof Refusal ? error : { message: "The server did not answer. Is it running?", hint: "" });
    } finally {
      this.busy(false);
    }
  }

  request(method, address, values) {
    const headers = { "content-type": "application/json", "x-csrf-token": token() };
    return fetch(address, { method, headers, body: JSON.stringify(values), redirect: "manual" });
  }

  async gather(submitter) {
    return this.values(submitter);
  }

  // Fields left empty are left out: the API's defaults stand in for them. One with data-json holds JSON, the button's own too.
  values(submitter) {
    const named = (name) => (submitter?.name === name ? submitter : this.form.elements.namedItem(name));
    const typed = (name) => named(name)?.dataset?.json !== undefined;
    const given = [...new FormData(this.form, submitter)].filter(([, value]) => value !== "");
    return Object.fromEntries(given.map(([name, value]) => [name, typed(name) ? JSON.parse(value) : value]));
  }

  async answered(response) {
    if (response.ok || response.type === "opaqueredirect") {
      if (this.dataset.show) return this.reveal((await response.json())[this.dataset.show]);
      if (this.dataset.told) return this.tell(response);
      if (this.dataset.then) return location.assign(await this.next(response));
      return location.reload();
    }
    const { error } = await response.json().catch(() => ({ error: null }));
    this.refused(error ?? { message: `The server answered ${response.status}.`, hint: "" });
  }

  async next(response) {
    if (!this.dataset.then.includes("{")) return this.dataset.then;
    const answer = await response.json();
    return this.dataset.then.replace(/\{([\w.]+)\}/g, (_, name) => encodeURIComponent(name.split(".").reduce((part, key) => part[key], answer)));
  }

  refused({ message, hint }) {
    this.say("bad", `${message} ${hint}`.trim());
  }

  reveal(secret) {
    const shown = this.querySelector("template").content.cloneNode(true);
    shown.querySelector("code").textContent = secret;
    this.say("", "");
    this.querySelector("[data-answer]").replaceChildren(shown);
    this.form.reset();
  }

  // A word that came of it, {field} being one of the answer.
  async tell(response) {
    const answer = await response.json();
    this.say("ok", this.dataset.told.replace(/\{(\w+)\}/g, (_, name) => (answer[name] ?? 0).toLocaleString()));
    this.form.reset();
    document.dispatchEvent(new Event("mlbox-told")); // what happened without an event is read anew
  }

  say(kind, text) {
    const place = this.querySelector("[data-answer]");
    place.replaceChildren();
    if (!text) return;
    const note = document.createElement("p");
    note.className = `notice ${kind}`;
    note.textContent = text;
    place.append(note);
  }

  busy(is) {
    for (const button of this.form.querySelectorAll("button")) button.disabled = is;
  }
}

customElements.define("mlbox-form", Form);
