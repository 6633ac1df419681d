import { isAscii } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import type { Http2ServerRequest } from 'node:http2';
import { StringDecoder } from 'node:string_decoder';
import { HttpError, invalid } from './errors.js';

export type Request = IncomingMessage | Http2ServerRequest;

/** Bodies up to this size are not worth any care. */
const SMALL_BYTES = 256 * 1024;

/**
 * How much of all request bodies together the process holds. A body lives as long as its turn, and what is in memory is shared by
 * all agents: without this, one caller with big bodies would end the turns of all others.
 */
export class BodyRoom {
  readonly #mostBytes: number;
  #held = 0;

  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  /** Reads a JSON body. Throws 413 over `limitBytes`, 503 where there is no room now, 400 when it is no JSON. */
  async read(request: Request, limitBytes: number): Promise<{ value: unknown; bytes: number; release: () => void }> {
    let bytes = 0;
    const release = () => {
      this.#held -= bytes;
      bytes = 0;
    };
    try {
      if (Number(request.headers['content-length'] ?? 0) > limitBytes) throw tooLarge(limitBytes);
      const pieces: Buffer[] = [];
      for await (const piece of asciiPieces(request)) {
        bytes += piece.length;
        this.#held += piece.length;
        if (bytes > limitBytes) throw tooLarge(limitBytes);
        // A lone body may be as large as the limit, whatever the room.
        if (this.#held > this.#mostBytes && this.#held > bytes) throw new HttpError(503, 'overloaded', 'Too many large requests at once; try again.');
        pieces.push(piece);
      }
      return { value: parse(Buffer.concat(pieces)), bytes, release };
    } catch (error) {
      release();
      throw error;
    }
  }
}

/**
 * The body in pieces of which all but the first are plain ASCII: Node keeps a large string outside of the heap only when it is
 * made of single bytes, and a heap of 64 MB has no room for twenty megabytes of it three times over.
 */
async function* asciiPieces(request: Request): AsyncGenerator<Buffer, void, void> {
  const decoder = new StringDecoder('utf8');
  const start: Buffer[] = [];
  let bytes = 0;
  for await (const piece of (request as IncomingMessage).iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    bytes += piece.length;
    if (bytes <= SMALL_BYTES) start.push(piece);
    else yield escaped([...start.splice(0), piece], decoder);
  }
  // A body that stayed small is decoded as a whole, by whoever parses it.
  if (bytes <= SMALL_BYTES) yield Buffer.concat(start);
}

/** Beyond ASCII, JSON has characters only inside of strings, where an escape means the same. */
function escaped(pieces: Buffer[], decoder: StringDecoder): Buffer {
  const piece = pieces.length === 1 ? (pieces[0] as Buffer) : Buffer.concat(pieces);
  const text = decoder.write(piece);
  if (isAscii(piece) && text.length === piece.length) return piece;
  return Buffer.from(text.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`), 'latin1');
}

function parse(json: Buffer): unknown {
  try {
    return JSON.parse(json.toString(json.length > SMALL_BYTES ? 'latin1' : 'utf8')) as unknown;
  } catch {
    throw invalid('body: is not valid JSON');
  }
}

function tooLarge(limitBytes: number): HttpError {
  return new HttpError(413, 'invalid_request_error', `body: at most ${limitBytes / 1024 / 1024} MB`);
}
