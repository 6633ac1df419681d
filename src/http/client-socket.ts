import { WebSocket } from 'ws';

/** How often a client must show that it is there, and how long it may take to say goodbye. */
const PING_MS = 30_000;
const CLOSE_MS = 10_000;
/** Text that waits for the client beyond this makes senders wait; beyond ten times that the client is cut off. */
const ROOM_BYTES = 64 * 1024;
/** Messages of a client within ten seconds. */
const WINDOW_MS = 10_000;
const MESSAGES_AT_MOST = 100;

/** An open WebSocket: text in both directions, bounded in all. */
export class ClientSocket {
  readonly #socket: WebSocket;
  readonly #gone = new AbortController();
  readonly #pings: NodeJS.Timeout;
  #answered = true;
  #windowAt = performance.now();
  #messages = 0;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('pong', () => (this.#answered = true));
    // What is wrong is in the close that follows.
    socket.on('error', () => socket.terminate());
    socket.on('close', () => this.#end());
    this.#pings = setInterval(() => this.#ping(), PING_MS);
  }

  /** Aborts when the connection is closed, by either side. */
  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** Calls with each text of the client, in order. */
  onMessage(listener: (text: string) => void): void {
    this.#socket.on('message', (data: Buffer, isBinary: boolean) => {
      this.#answered = true;
      if (this.#socket.readyState !== WebSocket.OPEN) return undefined;
      if (isBinary) return this.close(1003, 'send text');
      if (this.#isFlood()) return this.close(1008, 'too many messages');
      listener(data.toString('utf8'));
    });
  }

  /** Sends a text; where the client does not keep up, the promise settles when it has taken what it was sent. */
  send(text: string): Promise<void> | undefined {
    const socket = this.#socket;
    if (socket.readyState !== WebSocket.OPEN) return undefined;
    if (socket.bufferedAmount > 10 * ROOM_BYTES) {
      socket.terminate();
      return undefined;
    }
    if (socket.bufferedAmount + text.length < ROOM_BYTES) {
      socket.send(text);
      return undefined;
    }
    return new Promise((resolve) => socket.send(text, () => resolve()));
  }

  /** Says goodbye, and hangs up on a client that does not. */
  close(code: number, reason: string): void {
    hangUp(this.#socket, code, reason);
  }

  #ping(): void {
    if (!this.#answered) return this.#socket.terminate();
    this.#answered = false;
    this.#socket.ping();
  }

  #isFlood(): boolean {
    const now = performance.now();
    if (now - this.#windowAt > WINDOW_MS) [this.#windowAt, this.#messages] = [now, 0];
    this.#messages += 1;
    return this.#messages > MESSAGES_AT_MOST;
  }

  #end(): void {
    clearInterval(this.#pings);
    this.#gone.abort();
  }
}

/** Says goodbye, and hangs up on a client that does not. Code 1012: the service restarts. */
export function hangUp(socket: WebSocket, code = 1012, reason = 'this Berth process is ending: connect again'): void {
  if (socket.readyState !== WebSocket.OPEN) return;
  socket.close(code, reason);
  const patience = setTimeout(() => socket.terminate(), CLOSE_MS);
  socket.once('close', () => clearTimeout(patience));
}
