/** What parsing a JSON text will make. */
export interface JsonCost {
  /** Objects, arrays and members: a bound on the number of values. */
  values: number;
  /** Deepest nesting. */
  depth: number;
}

const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const COMMA = 0x2c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/**
 * Looks over a JSON text without parsing it (a few nanoseconds a byte). Twenty megabytes of `{},` become half a gigabyte of
 * objects, and a hundred thousand `[` overflow the stack of whoever writes them out again; both are to be known before.
 */
export function jsonCost(text: Uint8Array): JsonCost {
  let values = 0;
  let level = 0;
  let depth = 0;
  let quoted = false;
  for (let i = 0; i < text.length; i++) {
    const byte = text[i];
    if (quoted) {
      if (byte === BACKSLASH) i++;
      else if (byte === QUOTE) quoted = false;
    } else if (byte === QUOTE) quoted = true;
    else if (byte === COMMA) values++;
    else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) {
      values++;
      if (++level > depth) depth = level;
    } else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) level--;
  }
  return { values, depth };
}
