// A terminal's text as a page shows it: colours and weight by SGR (ECMA-48), what a carriage return went over left out, all else
// that steers a terminal dropped. Text stays text.
const STEER = /\x1b\[([0-9;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[@-Z\\^_]|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]/g;
const RETURN = /^.*\r(?=[^\r\n])/gm; // a progress bar draws over itself: its last state stays
const COLOURS = { 1: "bad", 2: "ok", 3: "warn", 4: "run", 5: "series-4", 6: "series-5" };

function styled(style, codes) {
  let found = style;
  for (const code of codes.split(/[;:]/).map(Number)) {
    if (code === 0) found = {};
    else if (code === 1) found = { ...found, bold: true };
    else if (code === 2) found = { ...found, faint: true };
    else if (code === 22) found = { ...found, bold: false, faint: false };
    else if (code === 39) found = { ...found, colour: "" };
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) found = { ...found, colour: COLOURS[code % 10] ?? "" };
    else if (code === 38 || code === 48) break; // of 256 or of all colours: what follows names one, and the page has its own
  }
  return found;
}

function piece(text, { bold, faint, colour }) {
  if (!bold && !faint && !colour) return document.createTextNode(text);
  const span = document.createElement("span");
  if (bold) span.classList.add("ansi-bold");
  if (faint) span.classList.add("ansi-faint");
  if (colour) span.classList.add(`ansi-${colour}`);
  span.textContent = text;
  return span;
}

// The nodes of some lines, and the style that holds after them.
export function drawn(text, style = {}) {
  const lines = text.includes("\r") ? text.replaceAll("\r\n", "\n").replace(RETURN, "") : text;
  const nodes = [];
  let now = style;
  let from = 0;
  for (const found of lines.matchAll(STEER)) {
    if (found.index > from) nodes.push(piece(lines.slice(from, found.index), now));
    if (found[1] !== undefined) now = styled(now, found[1] || "0");
    from = found.index + found[0].length;
  }
  if (from < lines.length) nodes.push(piece(lines.slice(from), now));
  return { nodes, style: now };
}
