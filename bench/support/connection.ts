import { connect, type NetConnectOpts, type Socket } from 'node:net';

const HEAD_END = Buffer.from('\r\n\r\n');
const LAST_CHUNK = '\r\n0\r\n\r\n';

/**
 * A kept-alive HTTP/1.1 connection that does as little as can be done, so that what is measured is the server: requests are
 * bytes made before, and of an answer only its end is looked for.
 */
export class Connection {
  readonly #socket: Socket;
  #onBytes: ((bytes: Buffer) => void) | undefined;
  #onLost: ((error: Error) => void) | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket.setNoDelay();
    socket.on('data', (bytes: Buffer) => this.#onBytes?.(bytes));
    socket.on('error', (error) => this.#onLost?.(error));
    socket.on('close', () => this.#onLost?.(new Error('the server closed the connection')));
  }

  static open(address: NetConnectOpts): Promise<Connection> {
    return new Promise((resolve, reject) => {
      const socket = connect(address, () => {
        socket.off('error', reject);
        resolve(new Connection(socket));
      });
      socket.once('error', reject);
    });
  }

  /** Sends a request and resolves with the answer's status at its end; `onBody` gets the raw bytes of the body as they come. */
  exchange(request: string | Buffer, onBody?: (bytes: Buffer) => void): Promise<number> {
    return new Promise((resolve, reject) => {
      const done = (act: () => void) => {
        this.#onBytes = undefined;
        this.#onLost = undefined;
        act();
      };
      const answer = new AnswerEnd(onBody, (status) => done(() => resolve(status)));
      this.#onBytes = (bytes) => answer.take(bytes);
      this.#onLost = (error) => done(() => reject(error));
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#socket.destroy();
  }
}

/** Finds the end of one answer, by its length or its last chunk. */
class AnswerEnd {
  readonly #onBody: ((bytes: Buffer) => void) | undefined;
  readonly #onEnd: (status: number) => void;
  #head: Buffer | undefined = Buffer.alloc(0);
  #status = 0;
  /** Bytes of the body still to come; undefined for a chunked one. */
  #left: number | undefined;
  #tail = '';

  constructor(onBody: ((bytes: Buffer) => void) | undefined, onEnd: (status: number) => void) {
    this.#onBody = onBody;
    this.#onEnd = onEnd;
  }

  take(bytes: Buffer): void {
    if (this.#head === undefined) return this.#body(bytes);
    const all = this.#head.length === 0 ? bytes : Buffer.concat([this.#head, bytes]);
    const end = all.indexOf(HEAD_END);
    this.#head = all;
    if (end === -1) return;
    this.#head = undefined;
    const head = all.toString('latin1', 0, end);
    this.#status = Number(head.slice(9, 12));
    const length = /\r\ncontent-length: *(\d+)/i.exec(head)?.[1];
    this.#left = length === undefined ? undefined : Number(length);
    // The line break that ends the head may also be the one before the last chunk.
    this.#body(all.subarray(length === undefined ? end + 2 : end + 4));
  }

  #body(bytes: Buffer): void {
    this.#onBody?.(bytes);
    if (this.#left !== undefined) {
      this.#left -= bytes.length;
      if (this.#left <= 0) this.#onEnd(this.#status);
      return;
    }
    this.#tail = (this.#tail + bytes.toString('latin1', Math.max(0, bytes.length - LAST_CHUNK.length))).slice(-LAST_CHUNK.length);
    if (this.#tail === LAST_CHUNK) this.#onEnd(this.#status);
  }
}

/** A request as its bytes. */
export function requestText(method: string, path: string, headers: Record<string, string>, body?: string): string {
  const all = {
    host: 'bench',
    ...headers,
    ...(body === undefined ? {} : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(body)) }),
  };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${path} HTTP/1.1\r\n${lines.join('')}\r\n${body ?? ''}`;
}
