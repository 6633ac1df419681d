import { randomUUID } from 'node:crypto';

/** A message as the model gets it: JSON text, since it is sent many times and looked at once. */
export type MessageJson = string;

/** A message of a turn that runs. */
export interface TurnMessage {
  role: string;
  /** What is kept of it in the conversation; what is sent, too, unless `whole` is there. */
  json: MessageJson;
  /** What is sent, where that is large: outside of the heap, which has no room for it. */
  whole?: Buffer;
}

/** Strings longer than this are taken out of a large message one by one. */
const LONG_CHARS = 64 * 1024;
const SLICE_CHARS = 64 * 1024;

export function smallMessage(message: { role: string; [field: string]: unknown }): TurnMessage {
  return { role: message.role, json: JSON.stringify(message) };
}

/** A message that may hold megabytes (an image, a pasted book). Never makes a second copy of them on the heap. */
export function largeMessage(message: { role: string; [field: string]: unknown }): TurnMessage {
  const long: string[] = [];
  const mark = randomUUID();
  const marked = JSON.stringify(message, (_name, value: unknown) => (isLong(value) ? `${mark}${long.push(value)}` : value));
  if (long.length === 0) return { role: message.role, json: marked };
  const json = JSON.stringify(message, (_name, value: unknown) =>
    isLong(value) ? `${value.slice(0, LONG_CHARS)}\n[… the rest is not kept]` : value,
  );
  const pieces = marked.split(new RegExp(`${mark}\\d+`));
  const buffers = pieces.flatMap((piece, i) => [
    Buffer.from(piece),
    ...(i < long.length ? escapedSlices(long[i] as string) : []),
  ]);
  return { role: message.role, json, whole: Buffer.concat(buffers) };
}

function isLong(value: unknown): value is string {
  return typeof value === 'string' && value.length > LONG_CHARS;
}

/** The inside of the string's JSON form. */
function escapedSlices(text: string): Buffer[] {
  const slices: Buffer[] = [];
  for (let i = 0; i < text.length;) {
    let end = Math.min(i + SLICE_CHARS, text.length);
    // A pair of surrogates that is cut would be written as two broken characters.
    if (end < text.length && (text.charCodeAt(end) & 0xfc00) === 0xdc00) end += 1;
    slices.push(Buffer.from(JSON.stringify(text.slice(i, end)).slice(1, -1)));
    i = end;
  }
  return slices;
}
