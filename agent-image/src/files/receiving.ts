import type { FileHandle } from 'node:fs/promises';
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
  if (wasCut(request) || (promised !== undefined && Number(promised) !== bytes)) throw cut();
}

/** Writes a body to a file in pieces of one size, taking room for each before it is written. */
export class FileSink {
  readonly #file: FileHandle;
  readonly #allowance: Allowance;
  readonly #buffer = Buffer.allocUnsafeSlow(PIECE_BYTES);
  #filled = 0;
  #written = 0;

  constructor(file: FileHandle, allowance: Allowance) {
    this.#file = file;
    this.#allowance = allowance;
  }

  get bytes(): number {
    return this.#written + this.#filled;
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
    while (from < this.#filled) {
      const { bytesWritten } = await this.#file.write(this.#buffer, from, this.#filled - from, this.#written + from);
      from += bytesWritten;
    }
    this.#written += this.#filled;
    this.#filled = 0;
  }
}

function wasCut(request: Request): boolean {
  if (!('stream' in request)) return !request.complete;
  const { stream } = request;
  return request.aborted || stream === undefined || stream.aborted || stream.rstCode !== 0;
}

function cut(): FileError {
  return new FileError('cut', 'The body was cut off.');
}
