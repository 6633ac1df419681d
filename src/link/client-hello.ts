/** What a TLS ClientHello asks for in clear text. */
export interface ClientHello {
  /** `server_name`, lower case; undefined where there is none. */
  serverName: string | undefined;
  /** The true name may be another, encrypted (or only pretended: the two cannot be told apart). */
  isEncrypted: boolean;
}

export type HelloReading = { state: 'more' } | { state: 'not-tls' } | { state: 'done'; hello: ClientHello };

/** Enough for every client known, with post-quantum key shares; more is refused. */
export const MAX_HELLO_BYTES = 16 * 1024;

const HANDSHAKE = 22;
const CLIENT_HELLO = 1;
const SERVER_NAME = 0;
const ENCRYPTED_CLIENT_HELLO = 0xfe0d;
const MAX_RECORD_BYTES = 16 * 1024;

/** Reads the beginning of a connection as TLS (RFC 8446, sections 4.1.2 and 5.1). The message may span several records. */
export function readClientHello(bytes: Buffer): HelloReading {
  const message: Buffer[] = [];
  let offset = 0;
  let have = 0;
  let want = 4;
  while (offset < bytes.length) {
    if (bytes[offset] !== HANDSHAKE) return { state: 'not-tls' };
    if (bytes.length > offset + 1 && bytes[offset + 1] !== 3) return { state: 'not-tls' };
    if (bytes.length < offset + 5) return { state: 'more' };
    const length = bytes.readUInt16BE(offset + 3);
    if (length === 0 || length > MAX_RECORD_BYTES) return { state: 'not-tls' };
    const part = bytes.subarray(offset + 5, offset + 5 + length);
    message.push(part);
    have += part.length;
    if (have >= 4) {
      const start = Buffer.concat(message);
      if (start[0] !== CLIENT_HELLO) return { state: 'not-tls' };
      want = 4 + start.readUIntBE(1, 3);
      if (want > MAX_HELLO_BYTES) return { state: 'not-tls' };
      if (have >= want) return parseHello(start.subarray(4, want));
    }
    offset += 5 + length;
  }
  return { state: 'more' };
}

function parseHello(body: Buffer): HelloReading {
  try {
    const reader = new Reader(body);
    reader.skip(2 + 32);
    reader.vector(1);
    reader.vector(2);
    reader.vector(1);
    const hello: ClientHello = { serverName: undefined, isEncrypted: false };
    if (!reader.isAtEnd) readExtensions(new Reader(reader.vector(2)), hello);
    return { state: 'done', hello };
  } catch (error) {
    if (error instanceof RangeError) return { state: 'not-tls' };
    throw error;
  }
}

function readExtensions(extensions: Reader, hello: ClientHello): void {
  let names = 0;
  while (!extensions.isAtEnd) {
    const type = extensions.uint(2);
    const body = extensions.vector(2);
    if (type === ENCRYPTED_CLIENT_HELLO) hello.isEncrypted = true;
    if (type !== SERVER_NAME) continue;
    // Two readers of two names may choose differently: there may be one.
    if (++names > 1) throw new RangeError('two server names');
    hello.serverName = readServerName(new Reader(body));
  }
}

function readServerName(extension: Reader): string {
  const list = new Reader(extension.vector(2));
  if (list.uint(1) !== 0) throw new RangeError('not a host name');
  const name = list.vector(2).toString('latin1').toLowerCase();
  if (!list.isAtEnd || !extension.isAtEnd) throw new RangeError('more than one name');
  return name;
}

/** Reads numbers and length-prefixed vectors, and throws a RangeError beyond the end. */
class Reader {
  readonly #bytes: Buffer;
  #offset = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  get isAtEnd(): boolean {
    return this.#offset >= this.#bytes.length;
  }

  skip(length: number): Buffer {
    const end = this.#offset + length;
    if (end > this.#bytes.length) throw new RangeError('too short');
    const part = this.#bytes.subarray(this.#offset, end);
    this.#offset = end;
    return part;
  }

  uint(bytes: 1 | 2): number {
    return this.skip(bytes).readUIntBE(0, bytes);
  }

  vector(lengthBytes: 1 | 2): Buffer {
    return this.skip(this.uint(lengthBytes));
  }
}
