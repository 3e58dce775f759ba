// What a text in a form stands for, by its field's data-as: words (of a shell's line), lines, list, numbers, pairs (NAME=VALUE lines),
// json, and what
// the command line writes in the same way: columns (NAME:TYPE[:UNIT] lines), sources (NAME[:KIND[:WEIGHT]] lines), parts of a split
// (NAME=SHARE or NAME=MOMENT lines), typed (a list of the type that the
// field data-type chooses), tags (NAME=VALUE, or NAME= to take it away), days (in seconds).
import { Refusal } from "./form.js";

// The words of a line as a POSIX shell reads them, without what a shell would expand.
function words(line, field) {
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

const rows = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);
const list = (text) => text.split(/[\s,]+/).filter(Boolean);

function columns(text, field) {
  return rows(text).map((line) => {
    const [name, dtype, ...unit] = line.split(":").map((part) => part.trim());
    if (!name || !dtype) throw new Refusal(`${JSON.stringify(line)} is not NAME:TYPE.`, field, "For example temp:FP64:°F.");
    return { name, dtype: dtype.toUpperCase(), unit: unit.join(":") };
  });
}

// With what their webhooks' bodies hold, from the lines SOURCE:COLUMN=POINTER of [data-fields] and SOURCE=POINTER of [data-each].
function sources(text, field, form) {
  const pointers = pairs(form.querySelector("[data-fields]").value, field);
  const each = pairs(form.querySelector("[data-each]").value, field);
  const found = rows(text).map((line) => {
    const [name, kind, weight] = line.split(":").map((part) => part.trim());
    const number = weight === undefined ? 1 : Number(weight || NaN);
    if (Number.isNaN(number)) throw new Refusal(`${JSON.stringify(line)} has a weight that is no number.`, field, "NAME:KIND:2.5");
    const own = Object.entries(pointers).filter(([at]) => at.startsWith(`${name}:`));
    const fields = Object.fromEntries(own.map(([at, pointer]) => [at.slice(name.length + 1), pointer]));
    return { name, ...(kind ? { kind } : {}), weight: number, fields, each: each[name] ?? "" };
  });
  const known = new Set(found.map((one) => one.name));
  const odd = [...Object.keys(pointers).map((at) => at.split(":")[0]), ...Object.keys(each)].find((name) => !known.has(name));
  if (odd) throw new Refusal(`${JSON.stringify(odd)} is none of the sources.`, field, "Name it in a line of its own.");
  return found;
}

// As the command line has it: by the hash of a key where shares are given, by time where moments are.
function parts(text, field, form) {
  const keys = list(form.querySelector("[data-split-keys]").value);
  const found = rows(text).map((line) => {
    const [name, value] = line.split("=").map((part) => part.trim());
    return { name, value: value || null, share: value ? Number(value) : NaN };
  });
  const shares = found.filter((one) => !Number.isNaN(one.share));
  if (!shares.length && !keys.length) return { by: "time", parts: found.map(({ name, value }) => ({ name, until: value })) };
  if (!keys.length || shares.length < found.length) {
    throw new Refusal("A split by a hash has a share for each part, and the entity's keys.", field, "Such as train=0.8 and test=0.2, split by customer.");
  }
  return { by: "hash", keys, parts: found.map(({ name, share }) => ({ name, share })) };
}

function typed(text, field, form) {
  const dtype = form.elements.namedItem(form.elements.namedItem(field).dataset.type).value;
  const one = (word) => {
    try {
      return dtype === "STRING" ? word : JSON.parse(word);
    } catch {
      throw new Refusal(`${JSON.stringify(word)} is no ${dtype}.`, field, "Give values of that type.");
    }
  };
  return rows(text.replaceAll(",", "\n")).map(one);
}

function json(text, field) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal(`${JSON.stringify(text.slice(0, 80))} is no JSON.`, field, "Write numbers as 1.5.");
  }
}

// A name with nothing after its sign is one to take away.
const tags = (text, field) => Object.fromEntries(Object.entries(pairs(text.replaceAll(",", "\n"), field)).map(([name, value]) => [name, value || null]));
const days = (text) => Number(text) * 86400;

const numbers = (text, field) => list(text).map((word) => json(word, field));

export const READ = { words, pairs, lines: rows, list, numbers, json, columns, sources, parts, typed, tags, days };
