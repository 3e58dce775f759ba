// <mlbox-keys>: a key presses the button inside it that carries it as data-key, or goes to the field, unless somebody is writing.
// On every page, j and k go along the rows of its lists, whose link Enter follows, x chooses the row, and ? shows the keys there are.
const isWriting = (event) =>
  event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select, dialog");

class Keys extends HTMLElement {
  connectedCallback() {
    this.onKey = (event) => {
      if (isWriting(event)) return;
      const button = [...this.querySelectorAll("[data-key]")].find((one) => one.dataset.key === event.key);
      if (!button || button.disabled) return;
      event.preventDefault();
      if (button.matches("input")) button.focus();
      else button.click();
    };
    document.addEventListener("keydown", this.onKey);
  }

  disconnectedCallback() {
    document.removeEventListener("keydown", this.onKey);
  }
}

customElements.define("mlbox-keys", Keys);

const rows = () => [...document.querySelectorAll("main tbody > tr")].filter((row) => row.offsetParent !== null && row.querySelector("a[href]"));
const ALONG = { j: ["Go to the next row", 1], k: ["Go to the row before", -1] };

document.addEventListener("keydown", (event) => {
  const step = ALONG[event.key]?.[1];
  if (!step || isWriting(event) || document.querySelector(`[data-key="${event.key}"]`)) return;
  const all = rows();
  if (!all.length) return;
  event.preventDefault();
  const at = all.findIndex((row) => row.contains(document.activeElement));
  const next = at < 0 ? (step > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + step));
  all[next].querySelector("a[href]").focus();
});

const CHOICE = "td.check input[type=checkbox]";

document.addEventListener("keydown", (event) => {
  if (event.key !== "x" || isWriting(event)) return;
  const box = document.activeElement.closest("main tbody > tr")?.querySelector(CHOICE);
  if (!box) return;
  event.preventDefault();
  box.click();
});

function nameOf(element) {
  return element.ariaLabel || element.title || element.textContent.trim();
}

function showKeys() {
  const dialog = document.createElement("dialog");
  dialog.className = "keys";
  dialog.ariaLabel = "Keys";
  const title = document.createElement("h2");
  title.textContent = "Keys";
  const list = document.createElement("dl");
  list.className = "kv";
  const all = [...document.querySelectorAll("[data-key]")].map((one) => [one.dataset.key, nameOf(one)]);
  const along = rows().length ? Object.entries(ALONG).map(([key, [what]]) => [key, what]) : [];
  if (document.querySelector(`main ${CHOICE}`)) along.push(["x", "Choose the row"]);
  for (const [key, what] of [...all, ...along.filter(([key]) => !all.some(([own]) => own === key)), ["?", "Show the keys"], ["Esc", "Close this"]]) {
    const term = document.createElement("dt");
    term.append(Object.assign(document.createElement("kbd"), { textContent: key }));
    list.append(term, Object.assign(document.createElement("dd"), { textContent: what }));
  }
  const close = Object.assign(document.createElement("button"), { className: "button", textContent: "Close" });
  close.addEventListener("click", () => dialog.close());
  dialog.append(title, list, close);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

document.addEventListener("keydown", (event) => {
  if (event.key !== "?" || isWriting(event)) return;
  event.preventDefault();
  showKeys();
});
