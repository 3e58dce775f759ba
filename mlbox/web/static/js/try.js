// <mlbox-try>: a form whose fields are one row for a model; the answer fills the template's places by name.
//   data-rows   the field of the request that holds the row: entities, or features
import { Form } from "./form.js";

class Try extends Form {
  // A number is sent as one. A feature without a value is a missing one, an id without a value is none.
  values() {
    const row = {};
    for (const field of this.form.elements) {
      if (!field.name) continue;
      if (field.value !== "") row[field.name] = field.dataset.json === undefined ? field.value : JSON.parse(field.value);
      else if (this.dataset.rows === "features") row[field.name] = null;
    }
    this.began = performance.now();
    return { [this.dataset.rows]: [row] };
  }

  async answered(response) {
    if (!response.ok) return super.answered(response);
    const [answer] = await response.json();
    answer.took = `${(performance.now() - this.began).toFixed(1)} ms`;
    answer.score = answer.score === null ? "no finite number" : Number(answer.score.toPrecision(6));
    const shown = this.querySelector("template").content.cloneNode(true);
    for (const place of shown.querySelectorAll("[data-is]")) place.textContent = answer[place.dataset.is];
    this.querySelector("[data-answer]").replaceChildren(shown);
  }
}

customElements.define("mlbox-try", Try);
