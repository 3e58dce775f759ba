// <mlbox-definitions>: definitions of the feature store in TOML, planned before they are applied.
import { Looked, part } from "./looked.js";

const SIGNS = { create: "+", "new version": "~", describe: "~", none: "=" };
const KINDS = { "+": "plus", "-": "minus", "!": "at" };

class Definitions extends Looked {
  values(submitter) {
    this.text.removeAttribute("aria-invalid");
    const toml = this.text.value;
    return submitter === this.setting ? { toml, base: this.seen.base } : { toml };
  }

  show({ changes }) {
    const lines = changes.flatMap((one) => [
      `${SIGNS[one.action]} ${one.kind} ${one.ref}${one.action === "none" ? ": as it is" : ""}`,
      ...(one.differences ?? []).map((line) => `${KINDS[line[0]] ? line[0] : " "} ${line.replace(/^[+-] ?/, "")}`),
      ...(one.touches?.length ? [`  in use before: ${one.touches.join(", ")}`] : []),
      ...(one.alike ?? []).map((line) => `! ${line}`),
    ]);
    this.querySelector("[data-diff]").replaceChildren(...lines.map((line) => part("span", line, KINDS[line[0]] ?? "")));
    const made = changes.filter((one) => one.action !== "none").length;
    this.setting.hidden = !made;
    this.querySelector("[data-none]").hidden = Boolean(made);
  }
}

customElements.define("mlbox-definitions", Definitions);
