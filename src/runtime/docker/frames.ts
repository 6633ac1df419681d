import { Transform, type TransformCallback } from 'node:stream';
import { unavailable } from './faults.js';
import type { LogLine } from '../runtime.js';

const HEADER_BYTES = 8;
/** The engine cuts at 16 KiB; anything far beyond that is not a frame. */
const MAX_FRAME_BYTES = 1024 * 1024;
const STREAMS: Record<number, LogLine['stream']> = { 1: 'stdout', 2: 'stderr' };
const NEWLINE = 10;
const RETURN = 13;
const SPACE = 32;

/** The bytes of a line not ended yet. The time is that of its first frame. */
interface Partial {
  time: string;
  parts: Buffer[];
  bytes: number;
}

/**
 * Turns the engine's log stream into lines. The stream is frames of an 8-byte header (stream, three zeros, length) and a
 * payload, cut anywhere in transit; each payload is a timestamp, a space and up to 16 KiB of a line, whose last piece alone
 * ends in a newline. What a chunk completes is handed on together: a step of the stream a line costs more than all else. Pieces are joined as bytes, since a cut may go through a character. A line longer than `maxLineBytes` is
 * handed on in several, so that a tenant's endless line costs no more memory than that.
 */
export class FrameLines extends Transform {
  readonly #maxLineBytes: number;
  #pending: Buffer[] = [];
  #pendingBytes = 0;
  #lines: LogLine[] = [];
  readonly #partials = new Map<LogLine['stream'], Partial>();

  constructor(maxLineBytes = 256 * 1024) {
    super({ readableObjectMode: true, readableHighWaterMark: 1 });
    this.#maxLineBytes = maxLineBytes;
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#pending.push(chunk);
    this.#pendingBytes += chunk.length;
    try {
      this.#readFrames();
    } catch (error) {
      // What came before it is whole.
      this.#handOn();
      return done(error as Error);
    }
    this.#handOn();
    done();
  }

  override _flush(done: TransformCallback): void {
    for (const [stream, partial] of this.#partials) this.#emitLine(stream, partial);
    this.#handOn();
    done();
  }

  #handOn(): void {
    if (this.#lines.length === 0) return;
    this.push(this.#lines);
    this.#lines = [];
  }

  #readFrames(): void {
    while (this.#pendingBytes >= HEADER_BYTES) {
      const header = this.#peekHeader();
      const length = header.readUInt32BE(4);
      if (header[0]! > 3 || header.readUIntBE(1, 3) !== 0 || length > MAX_FRAME_BYTES) {
        throw unavailable('the container engine’s log stream is not readable');
      }
      if (this.#pendingBytes < HEADER_BYTES + length) return;
      const all = this.#joined();
      this.#keep(all.subarray(HEADER_BYTES + length));
      this.#readFrame(header[0]!, all.subarray(HEADER_BYTES, HEADER_BYTES + length));
    }
  }

  #readFrame(kind: number, payload: Buffer): void {
    const stream = STREAMS[kind];
    if (!stream) {
      // Kind 3 is the engine's own complaint in the middle of the logs.
      if (kind === 3) throw unavailable(`the container engine could not read the logs: ${payload.toString().trim()}`);
      return;
    }
    const space = payload.indexOf(SPACE);
    const ended = payload.at(-1) === NEWLINE;
    const body = payload.subarray(space + 1, ended ? -1 : undefined);
    const partial = this.#partials.get(stream) ?? { time: payload.toString('latin1', 0, space), parts: [], bytes: 0 };
    partial.parts.push(body);
    partial.bytes += body.length;
    this.#partials.set(stream, partial);
    if (ended) this.#emitLine(stream, partial);
    else if (partial.bytes >= this.#maxLineBytes) this.#emitPiece(stream, partial);
  }

  #emitLine(stream: LogLine['stream'], partial: Partial): void {
    this.#partials.delete(stream);
    const [first] = partial.parts;
    const bytes = partial.parts.length === 1 && first ? first : Buffer.concat(partial.parts);
    const text = bytes.toString('utf8', 0, bytes.at(-1) === RETURN ? bytes.length - 1 : bytes.length);
    this.#lines.push({ time: partial.time, stream, text });
  }

  /** Hands on what there is of an endless line, all but the bytes of a character that is not complete. */
  #emitPiece(stream: LogLine['stream'], partial: Partial): void {
    const bytes = Buffer.concat(partial.parts);
    const cut = completeUtf8(bytes);
    this.#emitLine(stream, { time: partial.time, parts: [bytes.subarray(0, cut)], bytes: cut });
    const rest = Buffer.from(bytes.subarray(cut));
    this.#partials.set(stream, { time: partial.time, parts: [rest], bytes: rest.length });
  }

  #peekHeader(): Buffer {
    return this.#pending[0]!.length >= HEADER_BYTES ? this.#pending[0]! : this.#joined();
  }

  #joined(): Buffer {
    if (this.#pending.length > 1) this.#pending = [Buffer.concat(this.#pending)];
    return this.#pending[0]!;
  }

  #keep(rest: Buffer): void {
    this.#pending = [rest];
    this.#pendingBytes = rest.length;
  }
}

/** How many bytes of `bytes` end with a complete UTF-8 character. */
function completeUtf8(bytes: Buffer): number {
  for (let back = 1; back <= Math.min(3, bytes.length); back++) {
    const byte = bytes[bytes.length - back]!;
    if ((byte & 0b1100_0000) === 0b1000_0000) continue;
    const need = byte >= 0b1111_0000 ? 4 : byte >= 0b1110_0000 ? 3 : byte >= 0b1100_0000 ? 2 : 1;
    return need > back ? bytes.length - back : bytes.length;
  }
  return bytes.length;
}
