import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';

/** The way of one process to its database, which can be cut and frozen, at any message if need be. */
export class DatabaseLine {
  readonly #upstream: string;
  readonly #open = new Set<Socket>();
  readonly #server: Server;
  #isCut = false;
  #isFrozen = false;
  #trap: { left: number; when: 'before' | 'after'; spring: () => void } | undefined;

  private constructor(upstream: string, server: Server) {
    this.#upstream = upstream;
    this.#server = server;
    server.on('connection', (near) => this.#join(near));
  }

  /** In front of the Postgres whose socket is in that folder. */
  static async open(folder: string): Promise<DatabaseLine> {
    const server = createServer();
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    return new DatabaseLine(`${folder}/.s.PGSQL.5432`, server);
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get isCut(): boolean {
    return this.#isCut;
  }

  /** Breaks every connection, and refuses others until it is mended. What was sent may have arrived. */
  cut(): void {
    this.#isCut = true;
    for (const socket of this.#open) socket.destroy();
  }

  /** No byte goes through any more, in either direction, and nothing is closed. */
  freeze(): void {
    this.#isFrozen = true;
    for (const socket of this.#open) socket.pause();
  }

  mend(): void {
    this.#trap = undefined;
    this.#isCut = false;
    this.#isFrozen = false;
    for (const socket of this.#open) socket.resume();
  }

  /** Springs once, as that many messages have been sent: before the last of them arrives, or after it did and before its answer does. */
  setTrap(messages: number, when: 'before' | 'after', spring: () => void): void {
    this.#trap = { left: messages, when, spring };
  }

  close(): void {
    this.cut();
    this.#server.close();
  }

  #join(near: Socket): void {
    if (this.#isCut) return void near.destroy();
    const far = connect(this.#upstream);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ] as const) {
      this.#open.add(one);
      if (this.#isFrozen) one.pause();
      one.on('error', () => other.destroy()).on('close', () => void (this.#open.delete(one), other.destroy()));
    }
    near.on('data', (bytes) => this.#send(bytes, far));
    far.on('data', (bytes) => near.write(bytes));
  }

  #send(bytes: Buffer, far: Socket): void {
    const trap = this.#trap;
    if (!trap || --trap.left > 0) return void far.write(bytes);
    this.#trap = undefined;
    if (trap.when === 'before') return trap.spring();
    far.write(bytes, trap.spring);
  }
}
