// <mlbox-policy>: a policy's text. First it is looked at: what it changes is shown, and only then can it be put in force, once more
// asked for by what it ends. Whatever is typed after that has to be looked at anew. What is wrong is selected in the text.
//   data-model   whose policy it is
import { Form } from "./form.js";

const SIGNS = { "+": "plus", "-": "minus", "@": "at" };
const part = (tag, text, className = "") => Object.assign(document.createElement(tag), { textContent: text, className });

class Policy extends Form {
  connectedCallback() {
    super.connectedCallback();
    this.text = this.form.elements.namedItem("toml");
    this.changes = this.querySelector("[data-changes]");
    this.setting = this.querySelector("[data-set]");
    this.text.addEventListener("input", () => this.forget());
  }

  values(submitter) {
    this.text.removeAttribute("aria-invalid");
    const toml = this.text.value;
    if (submitter !== this.setting) return { toml };
    const { follows, effects } = this.seen;
    return { toml, follows, ends: effects.filter((one) => one.ends).map((one) => one.promotion) };
  }

  async answered(response, submitter) {
    if (!response.ok || submitter === this.setting) return super.answered(response);
    return this.show(await response.json());
  }

  show(seen) {
    this.seen = seen;
    const { diff, effects } = seen;
    const lines = diff.length ? diff : [" Nothing differs."];
    this.querySelector("[data-diff]").replaceChildren(...lines.map((line) => part("span", line, SIGNS[line[0]] ?? "")));
    const told = effects.map((one) => `Version ${one.version} (${one.state.replace("_", " ")}): ${one.words}.`);
    const items = (told.length ? told : ["None is on its way."]).map((words, at) => part("li", words, effects[at]?.ends ? "notice warn" : ""));
    items.forEach((item, at) => {
      const anew = effects[at]?.anew ?? [];
      if (!anew.length) return;
      const gates = part("ul", "");
      gates.append(...anew.map((words) => part("li", words)));
      item.append(part("p", "Proposed again, it would be judged anew by these gates:", "muted"), gates);
    });
    this.querySelector("[data-effects]").replaceChildren(...items);
    const ends = told.filter((_, at) => effects[at].ends);
    this.setting.dataset.confirm = `Put this policy of ${this.dataset.model} in force? ${ends.join(" ") || "It ends nothing that is on its way."}`;
    this.setting.hidden = !diff.length;
    this.changes.hidden = false;
    this.changes.focus();
  }

  forget() {
    this.seen = null;
    this.changes.hidden = true;
    this.text.removeAttribute("aria-invalid");
    this.say("", "");
  }

  refused(error) {
    this.changes.hidden = true;
    super.refused(error);
    if (error.field !== "toml") return;
    this.text.setAttribute("aria-invalid", "true");
    const line = Number(/^Line (\d+):/.exec(error.message)?.[1] ?? 0);
    if (line) this.select(line);
    this.text.focus();
  }

  select(line) {
    const lines = this.text.value.split("\n");
    const from = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
    this.text.setSelectionRange(from, from + (lines[line - 1]?.length ?? 0));
    this.text.scrollTop = (this.text.scrollHeight / lines.length) * Math.max(0, line - 4);
  }
}

customElements.define("mlbox-policy", Policy);
