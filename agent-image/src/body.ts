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
      const body = await collect(request, (growth) => {
        bytes += growth;
        this.#held += growth;
        if (bytes > limitBytes) throw tooLarge(limitBytes);
        // A lone body may be as large as the limit, whatever the room.
        if (this.#held > this.#mostBytes && this.#held > bytes)
          throw new HttpError(503, 'overloaded', 'Too many large requests at once; try again.');
      });
      return { value: parse(body), bytes, release };
    } catch (error) {
      release();
      throw error;
    }
  }
}

/** Reads a body to its end. `check` is told how it grows; what it throws ends the reading. */
function collect(request: Request, check: (growth: number) => void): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const pieces = new AsciiPieces();
    const stop = (error: unknown) => {
      request.off('data', take);
      reject(error);
    };
    const take = (piece: Buffer) => {
      try {
        const before = pieces.bytes;
        pieces.add(piece);
        check(pieces.bytes - before);
      } catch (error) {
        stop(error);
      }
    };
    request.on('data', take);
    request.once('error', stop);
    let ended = false;
    request.once('close', () => {
      if (!ended) stop(invalid('body: was cut off'));
    });
    request.once('end', () => {
      ended = true;
      resolve(pieces.whole());
    });
  });
}

/**
 * The pieces of a body, made plain ASCII once it is large: Node keeps a large string outside of the heap only when it is made of
 * single bytes, and a heap of 64 MB has no room for twenty megabytes of it three times over.
 */
class AsciiPieces {
  readonly #pieces: Buffer[] = [];
  #decoder: StringDecoder | undefined;
  #raw = 0;

  /** Of what is kept. */
  bytes = 0;

  add(piece: Buffer): void {
    this.#raw += piece.length;
    const kept = this.#raw <= SMALL_BYTES ? piece : this.#escaped(piece);
    this.#pieces.push(kept);
    this.bytes += kept.length;
  }

  whole(): Buffer {
    return this.#pieces.length === 1 ? (this.#pieces[0] as Buffer) : Buffer.concat(this.#pieces);
  }

  /** Beyond ASCII, JSON has characters only inside of strings, where an escape means the same. */
  #escaped(piece: Buffer): Buffer {
    let bytes = piece;
    if (!this.#decoder) {
      // The first pieces were kept as they came, perhaps with a character cut at their end.
      bytes = Buffer.concat([...this.#pieces.splice(0), piece]);
      this.bytes = 0;
      this.#decoder = new StringDecoder('utf8');
    }
    const text = this.#decoder.write(bytes);
    if (isAscii(bytes) && text.length === bytes.length) return bytes;
    return Buffer.from(
      text.replace(/[\u0080-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`),
      'latin1',
    );
  }
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
