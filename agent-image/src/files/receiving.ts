import { write, writeSync } from 'node:fs';
import { promisify } from 'node:util';
import type { Request } from '../body.js';
import { FileError } from './file-error.js';
import type { Allowance } from './usage.js';

const PIECE_BYTES = 64 * 1024;

/** The bytes of a body. Throws where it ends before its end: a cut body must never be taken for a short one. */
export async function* bytesOf(request: Request): AsyncGenerator<Buffer> {
  let bytes = 0;
  try {
    // Whoever stops reading early still has an answer to give on the same stream.
    for await (const piece of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      bytes += piece.length;
      yield piece;
    }
  } catch (error) {
    throw wasCut(request) ? cut() : error;
  }
  const promised = request.headers['content-length'];
  // A client of Node's ends the body before it resets the stream: where no length tells, the reset is given the time to arrive.
  if (promised === undefined) await soon();
  if (wasCut(request) || (promised !== undefined && Number(promised) !== bytes)) throw cut();
}

/**
 * Writes bytes to a file in pieces of one size, taking room for each before it is written. `begin` starts another file with the same
 * buffer, once the one before is flushed.
 */
export class FileSink {
  readonly #allowance: Allowance;
  readonly #buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  #fd = -1;
  #filled = 0;
  #written = 0;

  constructor(allowance: Allowance) {
    this.#allowance = allowance;
  }

  get bytes(): number {
    return this.#written + this.#filled;
  }

  begin(fd: number): this {
    this.#fd = fd;
    this.#filled = 0;
    this.#written = 0;
    return this;
  }

  async write(bytes: Uint8Array): Promise<void> {
    let rest = bytes;
    while (rest.length > 0) {
      const part = rest.subarray(0, PIECE_BYTES - this.#filled);
      this.#buffer.set(part, this.#filled);
      this.#filled += part.length;
      rest = rest.subarray(part.length);
      if (this.#filled === PIECE_BYTES) await this.flush();
    }
  }

  async flush(): Promise<void> {
    if (this.#filled === 0) return;
    await this.#allowance.take(this.#filled);
    let from = 0;
    while (from < this.#filled) from += await this.#some(from);
    this.#written += this.#filled;
    this.#filled = 0;
  }

  /** The little that a small file holds is written at once: of many of them the way to another thread would be most of the time. */
  async #some(from: number): Promise<number> {
    const [bytes, at] = [this.#filled - from, this.#written + from];
    if (this.#filled < PIECE_BYTES) return writeSync(this.#fd, this.#buffer, from, bytes, at);
    const { bytesWritten } = await writeLater(this.#fd, this.#buffer, from, bytes, at);
    return bytesWritten;
  }
}

const writeLater = promisify(write);

const soon = promisify(setImmediate);

function wasCut(request: Request): boolean {
  if (!('stream' in request)) return !request.complete;
  const { stream } = request;
  return request.aborted || stream === undefined || stream.aborted || stream.rstCode !== 0;
}

function cut(): FileError {
  return new FileError('cut', 'The body was cut off.');
}
