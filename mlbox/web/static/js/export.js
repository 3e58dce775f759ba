// What tables and pictures give away: CSV that no spreadsheet runs, PNG, and the buttons for them.
const FORMULA = /^[=+\-@\t\r]/; // what a spreadsheet takes for a formula (OWASP: CSV injection)
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

function field(value) {
  const text = String(value ?? "");
  const safe = FORMULA.test(text) && !NUMBER.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

// RFC 4180.
export function csv(rows) {
  return new Blob([rows.map((row) => `${row.map(field).join(",")}\r\n`).join("")], { type: "text/csv;charset=utf-8" });
}

export function png(canvas) {
  return new Promise((done) => canvas.toBlob(done, "image/png"));
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function fileName(label, ending) {
  const page = document.title.replace(/ · mlbox$/, "");
  const words = page === label ? label : `${page} ${label}`;
  return `${words.replace(/[^\p{L}\p{N}.@]+/gu, "-").replace(/^-|-$/g, "").slice(0, 100).toLowerCase() || "mlbox"}.${ending}`;
}

// A line of quiet buttons; `ways` is what each gives away: {CSV: async (say) => blob}.
export function exportBar(label, ways) {
  const bar = document.createElement("p");
  bar.className = "export no-print";
  for (const [kind, make] of Object.entries(ways)) {
    const button = document.createElement("button");
    Object.assign(button, { type: "button", className: "button quiet small", textContent: kind, ariaLabel: `${label} as ${kind}` });
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        save(await make((text) => (button.textContent = text)), fileName(label, kind.toLowerCase()));
        button.textContent = kind;
      } catch (error) {
        button.textContent = `${kind}: ${error.message}`;
      } finally {
        button.disabled = false;
      }
    });
    bar.append(button);
  }
  return bar;
}
