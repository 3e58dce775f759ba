// Rows that fold out of a row: a button with data-fold=ADDRESS fetches that page and puts its rows beneath its own, a step to the
// right; pressed again it takes them away. And <mlbox-chosen>: what is chosen in a list, all at once, and how many.

const DEEPEST = 6;

/** @param {string} address @returns {Promise<{rows: HTMLTableRowElement[], more: boolean}>} */
async function rowsOf(address) {
  const answer = await fetch(address, { headers: { accept: "text/html" } });
  if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  const rows = [...page.querySelectorAll("#rows > tr")].map((row) => document.importNode(row, true));
  return { rows, more: page.querySelector("#rows-pager [data-more]") !== null };
}

/** The rows beneath a row that are within it. @param {HTMLTableRowElement} row */
function within(row) {
  const depth = Number(row.dataset.depth ?? 0);
  const found = [];
  for (let next = row.nextElementSibling; next && Number(next.dataset.depth ?? 0) > depth; next = next.nextElementSibling) found.push(next);
  return found;
}

function notice(row, words, address) {
  const line = document.createElement("tr");
  const place = Object.assign(document.createElement("td"), { colSpan: row.cells.length, className: "muted main" });
  place.append(address ? Object.assign(document.createElement("a"), { href: address, textContent: words }) : words);
  line.append(place);
  return line;
}

/** @param {HTMLButtonElement} button */
async function unfold(button) {
  const row = button.closest("tr");
  const depth = Math.min(DEEPEST, Number(row.dataset.depth ?? 0) + 1);
  button.setAttribute("aria-expanded", "true");
  button.disabled = true;
  let found;
  try {
    const { rows, more } = await rowsOf(button.dataset.fold);
    found = more ? [...rows, notice(row, "All of them, on a page of their own", button.dataset.fold)] : rows;
  } catch (error) {
    found = [notice(row, `What is within could not be read: ${error.message}.`)];
  }
  button.disabled = false;
  button.focus();
  for (const one of found) one.dataset.depth = String(depth);
  row.after(...found);
}

document.addEventListener("click", (event) => {
  const button = event.target.closest?.("[data-fold]");
  if (!button) return;
  if (button.getAttribute("aria-expanded") === "false") {
    unfold(button);
    return;
  }
  button.setAttribute("aria-expanded", "false");
  within(button.closest("tr")).forEach((row) => row.remove());
});

class Chosen extends HTMLElement {
  connectedCallback() {
    this.words = this.querySelector("[data-count]").textContent;
    this.addEventListener("change", (event) => {
      if (event.target.matches("[data-all]")) for (const box of this.boxes()) box.checked = event.target.checked;
      this.tell();
    });
    this.tell();
  }

  boxes() {
    return [...this.querySelectorAll("input[name=run]")];
  }

  tell() {
    const count = this.boxes().filter((box) => box.checked).length;
    const button = this.querySelector(".panel-bar button");
    button.disabled = count < 2;
    this.querySelector("[data-count]").textContent = count ? `${count} of ${this.words.trim()}` : this.words;
  }
}

customElements.define("mlbox-chosen", Chosen);

// Where columns that stay in sight come to stand, which only the page knows once it is laid out.
function place(table) {
  let left = table.querySelector("th.main")?.getBoundingClientRect().right - table.getBoundingClientRect().left;
  [...table.querySelectorAll("th.pinned")].forEach((head, at) => {
    table.style.setProperty(`--pin-${at + 1}`, `${left}px`);
    left += head.getBoundingClientRect().width;
  });
}

class Pins extends HTMLElement {
  connectedCallback() {
    this.watcher = new ResizeObserver(() => place(this.querySelector("table")));
    this.watcher.observe(this.querySelector("table"));
  }

  disconnectedCallback() {
    this.watcher.disconnect();
  }
}

customElements.define("mlbox-pins", Pins);
