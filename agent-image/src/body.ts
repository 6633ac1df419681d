import type { IncomingMessage } from 'node:http';
import type { Http2ServerRequest } from 'node:http2';
import { HttpError, invalid } from './errors.js';

export type Request = IncomingMessage | Http2ServerRequest;

export const MOST_BODY_BYTES = 20 * 1024 * 1024;

/**
 * How much of all request bodies together the process holds. A body lives as long as its turn, and a heap of 64 MB is full after
 * two of the largest: without this, one caller with big bodies would end the turns of all others.
 */
export class BodyRoom {
  readonly #mostBytes: number;
  #held = 0;

  constructor(mostBytes: number) {
    this.#mostBytes = mostBytes;
  }

  /** Reads a JSON body. Throws 413 over the cap, 503 where there is no room now, 400 when it is no JSON. */
  async read(request: Request): Promise<{ value: unknown; release: () => void }> {
    let bytes = 0;
    const release = () => {
      this.#held -= bytes;
      bytes = 0;
    };
    try {
      if (Number(request.headers['content-length'] ?? 0) > MOST_BODY_BYTES) throw tooLarge();
      const pieces: Buffer[] = [];
      for await (const piece of (request as IncomingMessage).iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        bytes += piece.length;
        this.#held += piece.length;
        if (bytes > MOST_BODY_BYTES) throw tooLarge();
        // A lone body may be as large as the cap, whatever the room.
        if (this.#held > this.#mostBytes && this.#held > bytes) throw new HttpError(503, 'overloaded', 'Too many large requests at once; try again.');
        pieces.push(piece);
      }
      return { value: parse(Buffer.concat(pieces).toString('utf8')), release };
    } catch (error) {
      release();
      throw error;
    }
  }
}

function parse(json: string): unknown {
  try {
    return JSON.parse(json) as unknown;
  } catch {
    throw invalid('body: is not valid JSON');
  }
}

function tooLarge(): HttpError {
  return new HttpError(413, 'invalid_request_error', `body: at most ${MOST_BODY_BYTES / 1024 / 1024} MB`);
}
