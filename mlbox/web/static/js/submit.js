// <mlbox-submit>: a form with more fields than a row. A name with dots is a field of a field, and data-as says what a text stands
// for: words (of a shell's line), list, pairs (NAME=VALUE lines), json, merge (a JSON object whose fields are the request's own), or
// files (that are sent first, as an archive: the field gets its SHA-256). What is refused is said at its field.
import { Form, Refusal, token } from "./form.js";
import { targz } from "./tar.js";

// The words of a line as a POSIX shell reads them, without what a shell would expand.
export function words(line, field) {
  const found = [];
  let word = null;
  let quote = "";
  for (let at = 0; at < line.length; at += 1) {
    const one = line[at];
    if (quote ? one === quote : one === "'" || one === '"') {
      quote = quote ? "" : one;
      word ??= "";
    } else if (one === "\\" && quote !== "'" && at + 1 < line.length && (!quote || '"\\$`'.includes(line[at + 1]))) {
      word = (word ?? "") + line[(at += 1)];
    } else if (!quote && /\s/.test(one)) {
      if (word !== null) found.push(word);
      word = null;
    } else word = (word ?? "") + one;
  }
  if (quote) throw new Refusal(`A quote ${quote} is not closed.`, field);
  return word === null ? found : [...found, word];
}

function pairs(text, field) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  return Object.fromEntries(
    lines.map((line) => {
      const at = line.indexOf("=");
      if (at < 1) throw new Refusal(`${JSON.stringify(line)} is not NAME=VALUE.`, field);
      return [line.slice(0, at).trim(), line.slice(at + 1).trim()];
    }),
  );
}

const READ = { words, pairs, list: (text) => text.split(/[\s,]+/).filter(Boolean), json: (text) => JSON.parse(text) };

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

const inside = (whole, path) => path.reduce((at, name) => (at[name] ??= {}), whole);
const last = (name) => name.split(".").at(-1);

class Submit extends Form {
  async values(submitter) {
    this.unmark();
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
      else at[own] = kind ? READ[kind](value, name) : value;
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
    const named = error.field && [...this.form.elements].find((one) => one.name && last(one.name) === last(error.field));
    if (!named || named.type === "hidden") return super.refused(error);
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
