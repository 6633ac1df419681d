import net, { type Socket } from 'node:net';

/** A connection that does whatever it likes. Nothing it meets is an error of the test. */
export function rawConnect(socketPath: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect(socketPath);
    socket.once('connect', () => {
      socket.off('error', reject);
      socket.on('error', () => {});
      resolve(socket);
    });
    socket.once('error', reject);
  });
}

/** Everything the other side says until it closes. */
export function untilClosed(socket: Socket): Promise<string> {
  return new Promise((resolve) => {
    let said = '';
    socket.on('data', (chunk) => (said += chunk.toString('latin1')));
    socket.on('close', () => resolve(said));
  });
}

export function upgradeHeader(token: string): string {
  return (
    'GET /link HTTP/1.1\r\nHost: berth\r\nConnection: Upgrade\r\nUpgrade: berth-link\r\n' +
    `X-Berth-Protocol: 1\r\nAuthorization: Bearer ${token}\r\n\r\n`
  );
}

export const FRAME = {
  data: 0,
  headers: 1,
  priority: 2,
  rst: 3,
  settings: 4,
  push: 5,
  ping: 6,
  goaway: 7,
  window: 8,
  continuation: 9,
  altsvc: 10,
};

/** One HTTP/2 frame: 24 bits of length, type, flags, stream id, payload (RFC 9113, section 4.1). */
export function frame(type: number, flags: number, streamId: number, payload: Buffer = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(9);
  header.writeUIntBE(payload.length, 0, 3);
  header.writeUInt8(type, 3);
  header.writeUInt8(flags, 4);
  header.writeUInt32BE(streamId, 5);
  return Buffer.concat([header, payload]);
}

export const SETTINGS = frame(FRAME.settings, 0, 0);
export const SETTINGS_ACK = frame(FRAME.settings, 1, 0);
/** `:status: 200`, from the static table. */
export const STATUS_200 = Buffer.from([0x88]);

export interface Frame {
  type: number;
  flags: number;
  streamId: number;
  payload: Buffer;
}

/** A peer that got its link by the rules and then speaks HTTP/2 by hand. */
export class RawPeer {
  readonly socket: Socket;
  readonly frames: Frame[] = [];
  #buffer = Buffer.alloc(0);
  #preface = 24;
  #onFrame: (frame: Frame) => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
  }

  static async dial(socketPath: string, token: string): Promise<RawPeer> {
    const socket = await rawConnect(socketPath);
    const peer = new RawPeer(socket);
    await new Promise<void>((resolve, reject) => {
      let head = Buffer.alloc(0);
      const onData = (chunk: Buffer) => {
        head = Buffer.concat([head, chunk]);
        const end = head.indexOf('\r\n\r\n');
        if (end < 0) return;
        socket.off('data', onData);
        if (!head.toString('latin1').startsWith('HTTP/1.1 101')) return reject(new Error(head.toString('latin1')));
        socket.on('data', (more) => peer.#read(more));
        peer.#read(head.subarray(end + 4));
        resolve();
      };
      socket.on('data', onData);
      socket.once('close', () => reject(new Error('closed')));
      socket.write(upgradeHeader(token));
    });
    return peer;
  }

  /** Dials and says SETTINGS, so that the link is up. */
  static async up(socketPath: string, token: string): Promise<RawPeer> {
    const peer = await RawPeer.dial(socketPath, token);
    peer.socket.write(Buffer.concat([SETTINGS, SETTINGS_ACK]));
    return peer;
  }

  onFrame(listener: (frame: Frame) => void): void {
    this.#onFrame = listener;
    for (const seen of this.frames) listener(seen);
  }

  send(...frames: Buffer[]): boolean {
    return this.socket.writable && this.socket.write(Buffer.concat(frames));
  }

  /** Writes `piece` over and over, as fast as the other side takes it, until it hangs up. Answers how many bytes it took. */
  async flood(piece: Buffer, limitBytes: number): Promise<number> {
    let sent = 0;
    const closed = new Promise<void>((resolve) => this.socket.once('close', () => resolve()));
    while (!this.socket.destroyed && sent < limitBytes) {
      sent += piece.length;
      if (this.socket.write(piece)) await new Promise((resolve) => setImmediate(resolve));
      else await Promise.race([closed, new Promise((resolve) => this.socket.once('drain', resolve))]);
    }
    return sent;
  }

  #read(chunk: Buffer): void {
    this.#buffer = Buffer.concat([this.#buffer, chunk]);
    if (this.#preface > 0) {
      const skipped = Math.min(this.#preface, this.#buffer.length);
      this.#preface -= skipped;
      this.#buffer = this.#buffer.subarray(skipped);
    }
    while (this.#buffer.length >= 9) {
      const length = this.#buffer.readUIntBE(0, 3);
      if (this.#buffer.length < 9 + length) return;
      const seen: Frame = {
        type: this.#buffer.readUInt8(3),
        flags: this.#buffer.readUInt8(4),
        streamId: this.#buffer.readUInt32BE(5) & 0x7fffffff,
        payload: Buffer.from(this.#buffer.subarray(9, 9 + length)),
      };
      this.#buffer = this.#buffer.subarray(9 + length);
      this.frames.push(seen);
      this.#onFrame(seen);
    }
  }
}
