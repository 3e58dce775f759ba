// <mlbox-policy>: a policy's text, looked at before it is put in force, once more asked for by what it ends.
//   data-model   whose policy it is
import { Looked, part } from "./looked.js";

const SIGNS = { "+": "plus", "-": "minus", "@": "at" };

class Policy extends Looked {
  values(submitter) {
    this.text.removeAttribute("aria-invalid");
    const toml = this.text.value;
    if (submitter !== this.setting) return { toml };
    const { follows, effects } = this.seen;
    return { toml, follows, ends: effects.filter((one) => one.ends).map((one) => one.promotion) };
  }

  show({ diff, effects }) {
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
  }
}

customElements.define("mlbox-policy", Policy);
