// The forms of a source's page whose request is no plain object of their fields. A field with data-as holds what read.js makes of it.
//   <mlbox-push>           the fields with data-cell are one row, of that column each
//   <mlbox-expectations>   a line of fields in each [data-column]; the lines that say something are the list that is sent
import { Form } from "./form.js";
import { READ } from "./read.js";

// The fields that are filled in, by what `name` calls them.
function filled(fields, name) {
  const said = [...fields].filter((field) => field.value !== "");
  return Object.fromEntries(said.map((field) => [name(field), field.dataset.as ? READ[field.dataset.as](field.value, name(field)) : field.value]));
}

class Push extends Form {
  values() {
    const row = filled(this.querySelectorAll("[data-cell]"), (field) => field.dataset.cell);
    return { rows: [row], to: this.form.elements.namedItem("to").value };
  }
}

class Expectations extends Form {
  values() {
    const lines = [...this.querySelectorAll("[data-column]")].map((line) => [line.dataset.column, filled(line.querySelectorAll("[name]"), ({ name }) => name)]);
    return lines.filter(([, said]) => Object.keys(said).length).map(([column, said]) => ({ column, ...said }));
  }
}

customElements.define("mlbox-push", Push);
customElements.define("mlbox-expectations", Expectations);
