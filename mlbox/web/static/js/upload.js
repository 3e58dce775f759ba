// <mlbox-upload>: a form one of whose fields is a file, which is the request's whole body; the other fields go into the address as
// {field} or into its query, those of a dotted name together as JSON. The file's name says its format, unless a field `format` does.
// While it is sent the answer's place says how much of it is.
import { Refusal, token } from "./form.js";
import { Submit } from "./submit.js";

const FORMATS = { parquet: "parquet", csv: "csv", arrow: "arrow", arrows: "arrow", feather: "arrow" };
const plain = (value) => (typeof value === "object" ? JSON.stringify(value) : value);

class Upload extends Submit {
  async values(submitter) {
    const whole = await super.values(submitter);
    const field = this.form.elements.namedItem("body");
    this.file = field?.files[0];
    delete whole.body;
    if (!this.file?.size) throw new Refusal(this.file ? `${this.file.name} is empty.` : "No file is chosen.", "body", "Choose one.");
    if (this.form.elements.namedItem("format") || field.dataset.plain !== undefined) return whole;
    const format = FORMATS[this.file.name.split(".").at(-1).toLowerCase()];
    if (!format) throw new Refusal(`The name ${this.file.name} does not say its format.`, "body", "It ends in .parquet, .csv or .arrow.");
    return { ...whole, format };
  }

  request(method, address, values) {
    const query = new URLSearchParams(Object.entries(values).map(([name, value]) => [name, plain(value)]));
    const request = new XMLHttpRequest(); // fetch does not say how much is sent
    return new Promise((resolve, reject) => {
      request.open(method, `${address}?${query}`);
      request.setRequestHeader("content-type", "application/octet-stream");
      request.setRequestHeader("x-csrf-token", token());
      request.upload.onprogress = ({ loaded, total }) => this.say("", this.progress(loaded, total));
      request.onload = () => resolve(new Response(request.responseText || null, { status: request.status }));
      request.onerror = () => reject(new Error());
      request.send(this.file);
    });
  }

  progress(loaded, total) {
    return loaded < total ? `${Math.floor((100 * loaded) / total)} % of ${this.file.name} sent.` : `${this.file.name} is sent; its rows are read.`;
  }
}

customElements.define("mlbox-upload", Upload);
