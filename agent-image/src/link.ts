import { readdirSync, statSync } from 'node:fs';
import { request as httpRequest, type ClientRequest, type IncomingMessage } from 'node:http';
import { join } from 'node:path';
import type { ServerHttp2Session } from 'node:http2';
import type { Socket } from 'node:net';
import type { Credentials } from './credentials.js';
import { errorCode, type Log } from './log.js';

/** Takes a connection whose roles have turned round: from now on the other end makes the requests. */
export type AcceptLink = (socket: Socket, socketPath: string) => ServerHttp2Session;

export interface LinksOptions {
  /** The folder that holds one `<process>.sock` per Berth process. */
  dir: string;
  credentials: Credentials;
  accept: AcceptLink;
  log: Log;
}

const SCAN_EVERY_MS = 500;
const DIAL_TIMEOUT_MS = 5000;
const FIRST_RETRY_MS = 50;
const SLOWEST_RETRY_MS = 1000;
const SLOWEST_REFUSED_RETRY_MS = 5000;
const LONGEST_RETRY_AFTER_MS = 30_000;
/** A link that fell sooner than this counts as a failed dial, or a Berth that cuts at once would be dialled in a busy loop. */
const STEADY_AFTER_MS = 1000;

/** Keeps one link up to every Berth process whose socket lies in the folder. */
export class Links {
  readonly #options: LinksOptions;
  readonly #dialers = new Map<string, Dialer>();
  #scanTimer: NodeJS.Timeout | undefined;

  constructor(options: LinksOptions) {
    this.#options = options;
  }

  start(): void {
    this.#scan();
    this.#scanTimer = setInterval(() => this.#scan(), SCAN_EVERY_MS);
  }

  /** Dials no more. Links that are up stay up: their requests may still be finishing. */
  stop(): void {
    clearInterval(this.#scanTimer);
    for (const dialer of this.#dialers.values()) dialer.stop();
  }

  /** Sockets to call Berth on, the likeliest to answer first: `preferred`, then those with a live link, then the rest. */
  sockets(preferred?: string): string[] {
    const rank = (dialer: Dialer) => (dialer.path === preferred && dialer.up ? 0 : dialer.up ? 1 : 2);
    return [...this.#dialers.values()].sort((a, b) => rank(a) - rank(b)).map(({ path }) => path);
  }

  #scan(): void {
    const present = new Set(this.#list());
    for (const path of present) {
      const known = this.#dialers.get(path);
      if (known) known.dialIfReplaced();
      if (known) continue;
      const dialer = new Dialer(path, this.#options);
      this.#dialers.set(path, dialer);
      dialer.dial();
    }
    for (const [path, dialer] of this.#dialers) {
      // A link outlives its socket file: Berth may remove the file first when it stops.
      if (present.has(path) || dialer.up) continue;
      dialer.stop();
      this.#dialers.delete(path);
    }
  }

  #list(): string[] {
    try {
      return readdirSync(this.#options.dir)
        .filter((name) => name.endsWith('.sock'))
        .map((name) => join(this.#options.dir, name));
    } catch {
      return []; // The folder may appear later; no folder, no Berth.
    }
  }
}

/** Dials one socket for as long as it exists. */
class Dialer {
  readonly path: string;
  readonly #options: LinksOptions;
  #failures = 0;
  #retryTimer: NodeJS.Timeout | undefined;
  #request: ClientRequest | undefined;
  #dialledFile = '';
  #up = false;
  #stopped = false;

  constructor(path: string, options: LinksOptions) {
    this.path = path;
    this.#options = options;
  }

  get up(): boolean {
    return this.#up;
  }

  dial(): void {
    this.#options.credentials.refresh();
    this.#dialledFile = fileIdentity(this.path);
    const request = httpRequest({
      socketPath: this.path,
      path: '/link',
      headers: this.#headers(),
      agent: false,
      timeout: DIAL_TIMEOUT_MS,
    });
    this.#request = request;
    request.on('upgrade', (_response, socket: Socket, head: Buffer) => this.#turnRound(socket, head));
    request.on('response', (response) => this.#refused(response));
    request.on('timeout', () => request.destroy(new Error('no answer to the dial')));
    request.on('error', (error) =>
      this.#failed(errorCode(error), errorCode(error) === 'ECONNREFUSED' ? SLOWEST_REFUSED_RETRY_MS : SLOWEST_RETRY_MS),
    );
    request.end();
  }

  /** A Berth that came back made the socket anew: no reason to wait out the backoff of its predecessor. */
  dialIfReplaced(): void {
    if (this.#up || this.#retryTimer === undefined || fileIdentity(this.path) === this.#dialledFile) return;
    clearTimeout(this.#retryTimer);
    this.#redial();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#retryTimer);
    if (!this.#up) this.#request?.destroy();
  }

  #headers(): Record<string, string> {
    return {
      Host: 'berth',
      Connection: 'Upgrade',
      Upgrade: 'berth-link',
      Authorization: `Bearer ${this.#options.credentials.token}`,
      'X-Berth-Protocol': '1',
    };
  }

  #turnRound(socket: Socket, head: Buffer): void {
    if (this.#stopped) return void socket.destroy();
    socket.setTimeout(0);
    // Berth may have sent its first frames together with the 101: they must be read before what follows.
    if (head.length > 0) socket.unshift(head);
    const since = performance.now();
    this.#up = true;
    this.#options.accept(socket, this.path).once('close', () => this.#lost(performance.now() - since));
    this.#options.log.info('link up', { socket: this.path });
  }

  #lost(livedMs: number): void {
    this.#up = false;
    this.#options.log.info('link lost', { socket: this.path, lived_ms: Math.round(livedMs) });
    if (livedMs >= STEADY_AFTER_MS) this.#failures = 0;
    if (this.#stopped) return;
    if (this.#failures === 0) {
      this.#failures = 1;
      this.dial();
    } else this.#retryLater(SLOWEST_RETRY_MS);
  }

  #refused(response: IncomingMessage): void {
    response.resume();
    const waitMs = Number(response.headers['retry-after'] ?? 0) * 1000;
    this.#failed(`status ${response.statusCode}`, SLOWEST_REFUSED_RETRY_MS, Number.isFinite(waitMs) ? waitMs : 0);
  }

  #failed(why: string, slowestMs: number, atLeastMs = 0): void {
    if (this.#stopped) return;
    if (this.#failures === 0) this.#options.log.warn('link refused', { socket: this.path, why });
    this.#retryLater(slowestMs, atLeastMs);
  }

  #retryLater(slowestMs: number, atLeastMs = 0): void {
    this.#failures += 1;
    const backoffMs = Math.min(slowestMs, FIRST_RETRY_MS * 2 ** Math.min(this.#failures - 1, 10));
    const delayMs = Math.max(backoffMs * (0.8 + 0.2 * Math.random()), Math.min(atLeastMs, LONGEST_RETRY_AFTER_MS));
    clearTimeout(this.#retryTimer);
    this.#retryTimer = setTimeout(() => this.#redial(), delayMs);
  }

  #redial(): void {
    this.#retryTimer = undefined;
    this.dial();
  }
}

function fileIdentity(path: string): string {
  const stat = statSync(path, { throwIfNoEntry: false });
  return stat ? `${stat.ino}/${stat.ctimeMs}` : '';
}
