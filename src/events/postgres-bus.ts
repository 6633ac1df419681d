import { randomBytes } from 'node:crypto';
import type { Line, LineEvents } from '../db/line.js';
import { backoffMs } from '../lib/backoff.js';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import type { Bus, Topic } from './bus.js';
import { Listeners } from './listeners.js';

export interface PostgresBusOptions {
  /** Opens a line to the database; everything sent on any line comes in on all of them. */
  connect(events: LineEvents): Promise<Line>;
  /** Sends without the line, while it is down: the others still trust that they hear everything. */
  sendAside(texts: string[]): Promise<void>;
  log: Log;
  /** How often the line must prove that it brings messages; it has as long again to do so. */
  beatMs?: number;
}

interface Message {
  topic: Topic | 'beat';
  id: string;
  from: string;
}

const BATCH = 500;
const LONGEST = 2_000;
const MOST_WAITING = 100_000;
const RECONNECT = { firstMs: 50, maxMs: 5_000 };

/**
 * The bus of processes that share a Postgres: NOTIFY on one channel, over a connection of its own. What it cannot promise: a
 * process that dies between its commit and its message leaves the others unaware, so a copy of a row also needs an age at which
 * it is read anew.
 */
export class PostgresBus implements Bus {
  readonly #options: PostgresBusOptions;
  readonly #listeners: Listeners;
  readonly #trustLost = new Set<() => void>();
  readonly #me = randomBytes(8).toString('hex');
  // A set, since saying twice that a thing changed is no news; in order of first mention.
  readonly #waiting = new Set<string>();
  #line: Line | undefined;
  #sending: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #failures = 0;
  #beat: NodeJS.Timeout | undefined;
  #beatSent = 0;
  #beatHeard = 0;
  #closed = false;

  constructor(options: PostgresBusOptions) {
    this.#options = options;
    this.#listeners = new Listeners(options.log);
  }

  get trusted(): boolean {
    return this.#line !== undefined;
  }

  /** Connects for the first time; throws when that fails. Later losses are repaired by itself. */
  async open(): Promise<void> {
    await this.#connect();
  }

  publish(topic: Topic, id: string): void {
    this.#listeners.tell(topic, id);
    this.#enqueue({ topic, id, from: this.#me });
  }

  subscribe(topic: Topic | '*', listener: (id: string, topic: Topic) => void): () => void {
    return this.#listeners.add(topic, listener);
  }

  onTrustLost(listener: () => void): () => void {
    const entry = (): void => listener();
    this.#trustLost.add(entry);
    return () => this.#trustLost.delete(entry);
  }

  /** Sends what still waits, then hangs up; a peer that does not answer is not waited for. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    clearInterval(this.#beat);
    const line = this.#line;
    const patience = setTimeout(() => line?.cut(), 2_000);
    await this.#flush();
    this.#line = undefined;
    await line?.close();
    clearTimeout(patience);
  }

  // ---- the line ------------------------------------------------------------------------------------------------------------

  async #connect(): Promise<void> {
    let lost = false;
    const line = await this.#options.connect({
      onText: (text) => this.#hear(text),
      onEnd: (error) => {
        lost = true;
        this.#lose(error);
      },
    });
    if (lost) throw new Error('the connection broke as soon as it was made');
    if (this.#closed) return line.close();
    this.#line = line;
    this.#failures = 0;
    this.#beatSent = this.#beatHeard = 0;
    this.#beat = setInterval(() => this.#checkBeat(line), this.#options.beatMs ?? 5_000);
    this.#beat.unref();
    void this.#flush();
  }

  #lose(error: Error | undefined): void {
    if (this.#closed || !this.#line) return;
    this.#line = undefined;
    clearInterval(this.#beat);
    this.#options.log.warn({ err: error }, "lost the connection that brings other processes' changes; reconnecting");
    for (const listener of this.#trustLost) this.#call(listener);
    this.#reconnectLater();
  }

  #reconnectLater(): void {
    if (this.#closed) return;
    this.#failures += 1;
    this.#retry = setTimeout(() => void this.#reconnect(), backoffMs(this.#failures, RECONNECT));
    this.#retry.unref();
  }

  async #reconnect(): Promise<void> {
    try {
      await this.#connect();
      this.#options.log.info("hears other processes' changes again");
    } catch (error) {
      this.#options.log.warn({ attempt: this.#failures }, `cannot reconnect to hear other processes: ${messageOf(error)}`);
      this.#reconnectLater();
    }
    void this.#flush();
  }

  #call(listener: () => void): void {
    try {
      listener();
    } catch (error) {
      this.#options.log.error({ err: error }, `a listener failed: ${messageOf(error)}`);
    }
  }

  // A dead peer sends no end. A message to oneself that does not come back tells that the line brings nothing any more.
  #checkBeat(line: Line): void {
    if (this.#beatHeard === this.#beatSent) {
      this.#beatSent += 1;
      return this.#enqueue({ topic: 'beat', id: String(this.#beatSent), from: this.#me });
    }
    // After a long block of the event loop timers run first: let what has already arrived be read before judging.
    setImmediate(() => {
      if (this.#line === line && this.#beatHeard !== this.#beatSent) line.cut();
    });
  }

  // ---- messages ------------------------------------------------------------------------------------------------------------

  #hear(text: string): void {
    const message = parse(text);
    if (!message) return this.#options.log.warn('heard something that is no message of Berth');
    const mine = message.from === this.#me;
    if (message.topic !== 'beat') {
      if (!mine) this.#listeners.tell(message.topic, message.id);
    } else if (mine) this.#beatHeard = Math.max(this.#beatHeard, Number(message.id));
  }

  #enqueue(message: Message): void {
    if (this.#waiting.size >= MOST_WAITING) {
      return this.#options.log.error(
        { topic: message.topic, id: message.id },
        'too many changes wait to be told to other processes',
      );
    }
    const text = JSON.stringify(message);
    // Postgres refuses longer ones, and with it the whole batch, again and again.
    if (text.length > LONGEST)
      return this.#options.log.error({ topic: message.topic }, 'an id is too long to be told to other processes');
    this.#waiting.add(text);
    // Later in this turn of the event loop, so that what one request changes goes out together.
    if (!this.#sending) setImmediate(() => void this.#flush());
  }

  #flush(): Promise<void> {
    return (this.#sending ??= this.#sendAll().finally(() => (this.#sending = undefined)));
  }

  async #sendAll(): Promise<void> {
    while (this.#waiting.size > 0) {
      const batch = [...this.#waiting].slice(0, BATCH);
      for (const text of batch) this.#waiting.delete(text);
      try {
        await (this.#line ? this.#line.send(batch) : this.#options.sendAside(batch));
      } catch (error) {
        // Perhaps some of them got through; hearing of a change twice is harmless. The reconnection sends the rest.
        for (const text of batch) this.#waiting.add(text);
        this.#options.log.warn({ waiting: this.#waiting.size }, `cannot tell other processes what changed: ${messageOf(error)}`);
        return;
      }
    }
  }
}

/** A record and no list: one that is missing is an error of types. */
const TOPICS: Record<Message['topic'], true> = {
  key: true,
  user: true,
  agent: true,
  deployment: true,
  instance: true,
  event: true,
  tier: true,
  vault: true,
  snapshot: true,
  turn: true,
  beat: true,
};

function parse(text: string): Message | undefined {
  try {
    const value = JSON.parse(text) as Partial<Message> | null;
    return typeof value?.id === 'string' && typeof value.from === 'string' && Object.hasOwn(TOPICS, value.topic ?? '')
      ? (value as Message)
      : undefined;
  } catch {
    // Anyone with the database's password can notify on the channel; what is no JSON is not ours.
    return undefined;
  }
}
