import { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

/** Bytes read from an instance, and bytes it was entitled to send by the payload they carried, since the last look. */
export interface Cost {
  spent: number;
  earned: number;
}

/** The growth of two ever-growing counts since the last look. */
export class CostMeter {
  #spent = 0;
  #earned = 0;

  take(spent: number, earned: number): Cost {
    const cost = { spent: Math.max(0, spent - this.#spent), earned: Math.max(0, earned - this.#earned) };
    this.#spent += cost.spent;
    this.#earned += cost.earned;
    return cost;
  }
}

/** Framing that honest peers add to payload: frame headers and chunk sizes. */
export const FRAMING_FACTOR = 1.25;

/** A piece of payload that costs more to handle than to carry. */
export const TINY_BYTES = 64;

/** Pieces of one message that nobody counts: many short answers are no flood. */
export const FREE_PIECES = 16;

/** What a connection that carries plain HTTP has sent, and how much of it was payload. */
export class SocketMeter {
  readonly #socket: Socket;
  readonly #onTiny: () => void;
  readonly #cost = new CostMeter();
  #payload = 0;
  #allowance = 0;

  constructor(socket: Socket, onTiny: () => void) {
    this.#socket = socket;
    this.#onTiny = onTiny;
    meters.set(socket, this);
  }

  addPayload(bytes: number, piece: number): void {
    this.#payload += bytes;
    if (piece > FREE_PIECES && bytes < TINY_BYTES) this.#onTiny();
  }

  /** Room for what comes along with an accepted request: its header and the framing of its body. */
  allow(bytes: number): void {
    this.#allowance += bytes;
  }

  take(): Cost {
    return this.#cost.take(this.#socket.bytesRead, this.#payload * FRAMING_FACTOR + this.#allowance);
  }
}

const meters = new WeakMap<Socket, SocketMeter>();

export function meterOf(socket: Socket): SocketMeter | undefined {
  return meters.get(socket);
}

/** A request whose body bytes are counted as they leave the parser, whoever reads them. */
export class MeteredMessage extends IncomingMessage {
  #pieces = 0;

  override push(chunk: unknown, encoding?: BufferEncoding): boolean {
    if (chunk instanceof Uint8Array) meters.get(this.socket)?.addPayload(chunk.length, ++this.#pieces);
    return super.push(chunk, encoding);
  }
}
