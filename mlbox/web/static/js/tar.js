// Files as a tar.gz (POSIX ustar), made in the browser: what a job form sends when scripts are chosen one by one.
import { Refusal } from "./form.js";

const BLOCK = 512;
const LONGEST = 100; // bytes of a name in a ustar header
const encoder = new TextEncoder();
const octal = (value, width) => value.toString(8).padStart(width - 1, "0");

function header(name, size, field) {
  const bytes = encoder.encode(name);
  if (bytes.length > LONGEST) throw new Refusal(`The name ${name} is too long.`, field, "Send an archive, a .tar.gz.");
  const block = new Uint8Array(BLOCK);
  const put = (text, at) => block.set(typeof text === "string" ? encoder.encode(text) : text, at);
  put(bytes, 0);
  put(octal(0o644, 8), 100);
  put(octal(0, 8), 108); // the owner, the group, and below the time: the same files are the same archive
  put(octal(0, 8), 116);
  put(octal(size, 12), 124);
  put(octal(0, 12), 136);
  put("        ", 148);
  put("0", 156);
  put("ustar\x0000", 257);
  put(`${octal(block.reduce((sum, byte) => sum + byte, 0), 7)}\0 `, 148);
  return block;
}

export async function targz(files, field) {
  const parts = [...files]
    .sort((one, other) => (one.name < other.name ? -1 : 1))
    .flatMap((file) => [header(file.name, file.size, field), file, new Uint8Array(-file.size & (BLOCK - 1))]);
  const tar = new Blob([...parts, new Uint8Array(2 * BLOCK)]);
  return new Response(tar.stream().pipeThrough(new CompressionStream("gzip"))).blob();
}
