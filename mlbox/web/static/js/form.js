// <mlbox-form>: sends the form inside it to the JSON API, with the page's form token, and says what came of it.
// A field that the address names as {field} goes into the address, the others into the body.
//   data-confirm   a question to ask first
//   data-then      where to go afterwards; without it the page is read anew
//   data-show      the field of the answer to show instead of leaving (a secret that is shown once)
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
    const values = this.values(submitter);
    const address = (submitter?.getAttribute("formaction") ?? this.form.getAttribute("action")).replace(
      /\{(\w+)\}/g,
      (_, name) => {
        const value = values[name] ?? "";
        delete values[name];
        return encodeURIComponent(value);
      },
    );
    this.say("", "");
    this.busy(true);
    try {
      const response = await fetch(address, {
        method: this.dataset.method ?? "POST",
        headers: { "content-type": "application/json", "x-csrf-token": document.querySelector("meta[name=csrf]").content },
        body: JSON.stringify(values),
        redirect: "manual",
      });
      await this.answered(response);
    } catch {
      this.say("bad", "The server did not answer. Is it running?");
    } finally {
      this.busy(false);
    }
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
      if (this.dataset.then) return location.assign(this.dataset.then);
      return location.reload();
    }
    const { error } = await response.json().catch(() => ({ error: null }));
    this.say("bad", error ? `${error.message} ${error.hint}`.trim() : `The server answered ${response.status}.`);
  }

  reveal(secret) {
    const shown = this.querySelector("template").content.cloneNode(true);
    shown.querySelector("code").textContent = secret;
    this.say("", "");
    this.querySelector("[data-answer]").replaceChildren(shown);
    this.form.reset();
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
