// <mlbox-table>: a table that is taken along as CSV: whole, with all that "Show more" would bring, and every value as it is and
// not as it is written: a cell's data-value, a time's moment. What stands under a value goes into a column of its own.
// A long one that is all here (class tall) has a field to find its rows by.
import { csv, exportBar } from "./export.js";

const said = (element) => element.textContent.replace(/\s+/g, " ").trim();

function plain(element) {
  const copy = element.cloneNode(true);
  for (const extra of copy.querySelectorAll("svg, button, form, input, select, template, .sub, .visually-hidden")) extra.remove();
  for (const time of copy.querySelectorAll("time")) time.textContent = time.dateTime;
  const text = said(copy);
  return text === "–" ? "" : text;
}

function beneath(cell) {
  return [...cell.querySelectorAll(".sub:not(.narrow)")].map((sub) => plain(sub)).join(" ");
}

// A row as one value for each column, and what stands under it.
function valuesOf(row) {
  return [...row.cells].flatMap((cell) => {
    const first = { text: cell.dataset.value ?? plain(cell), under: beneath(cell), unit: cell.dataset.unit };
    return [first, ...Array.from({ length: cell.colSpan - 1 }, () => ({ text: "", under: "" }))];
  });
}

function headsOf(table) {
  return [...(table.tHead?.rows[0]?.cells ?? [])].map((cell) => ({ name: plain(cell), left: !plain(cell) && cell.children.length > 0 }));
}

function sheet(heads, rows) {
  const width = Math.max(heads.length, ...rows.map((row) => row.length));
  const columns = Array.from({ length: width }, (_, at) => at).filter((at) => !heads[at]?.left);
  const under = new Set(columns.filter((at) => rows.some((row) => row[at]?.under)));
  const unit = (at) => rows.find((row) => row[at]?.unit)?.[at].unit;
  const named = (at) => `${heads[at]?.name ?? ""}${unit(at) ? ` (${unit(at)})` : ""}`;
  const head = columns.flatMap((at) => [named(at), ...(under.has(at) ? [`${heads[at]?.name ?? ""}: more`] : [])]);
  const body = rows.map((row) => columns.flatMap((at) => [row[at]?.text ?? "", ...(under.has(at) ? [row[at]?.under ?? ""] : [])]));
  return heads.length ? [head, ...body] : body;
}

const MANY = 12; // rows that nobody wants to read through

// A field whose words choose among the rows that are here.
function finder(table) {
  const field = document.createElement("input");
  Object.assign(field, { type: "search", className: "find-rows", placeholder: "Find a row", autocomplete: "off", ariaLabel: `Find a row of ${table.ariaLabel}` });
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/);
    for (const row of table.querySelectorAll("tbody > tr")) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
  return field;
}

class Table extends HTMLElement {
  connectedCallback() {
    this.bar = exportBar(this.ariaLabel, { CSV: (say) => this.whole(say) });
    if (this.matches(".tall") && this.querySelectorAll("tbody > tr").length > MANY) this.bar.prepend(finder(this));
    this.append(this.bar);
  }

  disconnectedCallback() {
    this.bar.remove();
  }

  async whole(say) {
    const table = this.querySelector("table");
    const rows = [...table.tBodies].flatMap((body) => [...body.rows]);
    const { id } = table.querySelector("tbody[id]") ?? {};
    if (id) {
      for (let next = document.querySelector(`#${id}-pager [data-more]`); next; ) {
        say(`${rows.length.toLocaleString("en")} rows…`);
        const answer = await fetch(next.getAttribute("href"), { headers: { accept: "text/html" } });
        if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        rows.push(...page.querySelectorAll(`#${id} > tr`));
        next = page.querySelector(`#${id}-pager [data-more]`);
      }
    }
    return csv(sheet(headsOf(table), rows.map(valuesOf)));
  }
}

customElements.define("mlbox-table", Table);
