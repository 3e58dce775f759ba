// <mlbox-submit>: a form with more fields than a row. A name with dots is a field of a field, and data-as says what a text stands
// for: one of read.js, merge (a JSON object whose fields are the request's own), or files (that are sent first, as an archive: the
// field gets its SHA-256). What is refused is said at its field.
import { Form, Refusal, token } from "./form.js";
import { READ } from "./read.js";
import { targz } from "./tar.js";

const ARCHIVE = /\.(tar\.gz|tgz)$/i;
const FIXED = { environment: "requirements.txt" }; // what the box calls a field's file, whatever its user does

async function sent(files, field) {
  const whole = files.length === 1 && ARCHIVE.test(files[0].name);
  const named = files.map((file) => (FIXED[field] ? new File([file], FIXED[field]) : file));
  const body = whole ? files[0] : await targz(named, field);
  const headers = { "content-type": "application/gzip", "x-csrf-token": token() };
  const answer = await fetch("/api/v1/snapshots", { method: "POST", headers, body });
  const said = await answer.json();
  if (!answer.ok) throw new Refusal(said.error.message, field, said.error.hint);
  return said.sha256;
}

// A name with [] is a list of one.
const into = (at, name) => (name.endsWith("[]") ? (at[name.slice(0, -2)] ??= [{}])[0] : (at[name] ??= {}));
const inside = (whole, path) => path.reduce(into, whole);
const last = (name) => name.split(".").at(-1);
const root = (name) => name.split(/[.[]/)[0];

export class Submit extends Form {
  async values(submitter) {
    this.unmark();
    const blank = [...this.form.elements].find((one) => one.required && one.type !== "file" && !one.value);
    if (blank) throw new Refusal("Fill this in.", blank.name);
    const whole = {};
    const files = new Map();
    for (const [name, value] of new FormData(this.form, submitter)) {
      if (value === "" || (value instanceof File && !value.size)) continue;
      const path = name.split(".");
      const own = path.pop();
      const kind = this.form.elements.namedItem(name).dataset.as;
      const at = inside(whole, path);
      if (kind === "merge") Object.assign(at, JSON.parse(value));
      else if (kind === "files") files.set(name, [...(files.get(name) ?? []), value]);
      else at[own] = kind ? READ[kind](value, name, this.form) : value;
    }
    for (const [name, chosen] of files) {
      const path = name.split(".");
      const own = path.pop();
      const at = inside(whole, path);
      if (own === "snapshot") for (const other of ["git_commit", "git_diff", "workdir"]) delete at[other]; // of the other code
      at[own] = await sent(chosen, own);
    }
    return whole;
  }

  async answered(response, submitter) {
    if (!response.ok || submitter?.dataset.plan === undefined) return super.answered(response);
    const { starts_now: now, gpus, expected_at: at, words: why } = await response.json();
    const where = gpus.length ? ` on GPU ${gpus.join(", ")}` : "";
    const until = at ? ` It starts by ${new Date(at).toLocaleString()}.` : "";
    this.say(now ? "ok" : "warn", now ? `It would start now${where}.` : `It would wait: ${why}${until}`);
  }

  refused(error) {
    const fields = [...this.form.elements].filter((one) => one.name && one.type !== "hidden");
    const alike = [(one) => one === error.field, (one) => one === root(error.field), (one) => last(one) === last(error.field)];
    const named = error.field && alike.map((is) => fields.find((one) => is(one.name))).find(Boolean);
    if (!named) return super.refused(error);
    const note = document.createElement("span");
    Object.assign(note, { className: "notice bad", id: "refused", textContent: `${error.message} ${error.hint}`.trim() });
    named.setAttribute("aria-invalid", "true");
    named.setAttribute("aria-describedby", note.id);
    named.after(note);
    named.focus();
  }

  unmark() {
    this.querySelector("#refused")?.remove();
    for (const field of this.form.querySelectorAll("[aria-invalid]")) {
      field.removeAttribute("aria-invalid");
      field.removeAttribute("aria-describedby");
    }
  }
}

customElements.define("mlbox-submit", Submit);

// <mlbox-times>: what the form's schedule and time zone ask for, in words and as the next five times, by the viewer's clock.
const PAUSE_MS = 300;

class Times extends HTMLElement {
  connectedCallback() {
    const fields = this.closest("form").elements;
    this.fields = [fields.namedItem("schedule"), fields.namedItem("timezone")];
    if (!this.fields[1].value) this.fields[1].value = Intl.DateTimeFormat().resolvedOptions().timeZone;
    for (const field of this.fields) {
      field.addEventListener("input", () => {
        clearTimeout(this.timer);
        this.timer = setTimeout(() => this.tell(), PAUSE_MS);
      });
    }
    this.tell();
  }

  async tell() {
    const [schedule, timezone] = this.fields.map((field) => field.value.trim());
    if (!schedule) return this.show("", []);
    const query = new URLSearchParams({ schedule, timezone: timezone || "UTC" });
    const answer = await fetch(`/api/v1/crons/preview?${query}`);
    const body = await answer.json();
    if (answer.ok) return this.show(`${body.words}; the next times, by the clock here:`, body.times);
    return this.show(`${body.error.message} ${body.error.hint}`, []);
  }

  show(text, times) {
    this.querySelector("[data-words]").textContent = text;
    this.querySelector("[data-times]").replaceChildren(
      ...times.map((at) => {
        const time = Object.assign(document.createElement("time"), { dateTime: at, title: at });
        time.textContent = new Date(at).toLocaleString(undefined, { dateStyle: "full", timeStyle: "short" });
        const item = document.createElement("li");
        item.append(time);
        return item;
      }),
    );
  }
}

customElements.define("mlbox-times", Times);
