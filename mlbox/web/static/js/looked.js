// A text that is looked at before it does anything: what it changes is shown, and only then can it be sent to do so. Whatever is typed
// after that has to be looked at anew. What is wrong is selected in the text. The form has a text area `toml`, what it changes in
// [data-changes], and there the button [data-set].
import { Form } from "./form.js";

export const part = (tag, text, className = "") => Object.assign(document.createElement(tag), { textContent: text, className });

export class Looked extends Form {
  connectedCallback() {
    super.connectedCallback();
    this.text = this.form.elements.namedItem("toml");
    this.changes = this.querySelector("[data-changes]");
    this.setting = this.querySelector("[data-set]");
    this.text.addEventListener("input", () => this.forget());
  }

  async answered(response, submitter) {
    if (!response.ok || submitter === this.setting) return super.answered(response);
    this.seen = await response.json();
    this.show(this.seen);
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
