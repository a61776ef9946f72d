// Permalinks: run, seed, system and the script of controls, in the fragment of the address. They never reach a server's log.

const MOST_BYTES = 64_000;

/** @returns {?string} the address of this page with a stream in its fragment; null where that would be too long
 *  @param {{run: string, prompt: string, seed: number, system: ?string, pair: ?string, script: object[]}} stream */
export function permalink(stream) {
  const bytes = new TextEncoder().encode(JSON.stringify(stream));
  if (bytes.length > MOST_BYTES) return null;
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  const safe = text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.origin}${location.pathname}#stream=${safe}`;
}

/** @returns the stream of a fragment, or null where there is none. Throws an Error with one sentence where it is damaged. */
export function parse(fragment) {
  const coded = new URLSearchParams(fragment.replace(/^#/, "")).get("stream");
  if (!coded) return null;
  const damaged = new Error("The link is damaged: copy it once more.");
  if (coded.length > MOST_BYTES * 2) throw damaged;
  try {
    const bytes = Uint8Array.from(atob(coded.replaceAll("-", "+").replaceAll("_", "/")), (c) => c.charCodeAt(0));
    const stream = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
    if (Number.isInteger(stream.seed) && Array.isArray(stream.script)) return stream;
  } catch {
    throw damaged;
  }
  throw damaged;
}
