import { EventReader } from './event-reader.js';
import { until } from './until.js';

/** A client that chats in a loop, plain and streamed, and keeps what went wrong. */
export class Talker {
  readonly failures: string[] = [];
  turns = 0;
  #stopped = false;
  readonly #loops: Promise<void>[] = [];
  readonly #base: string;
  readonly #key: string;

  /** `base`: the URL of an agent's chat. */
  constructor(base: string, key: string) {
    this.#base = base;
    this.#key = key;
  }

  begin(content: string, more: object = {}): this {
    const body = { messages: [{ role: 'user', content }], ...more };
    this.#loops.push(
      this.#loop(() => this.#plain(body)),
      this.#loop(() => this.#streamed(body)),
    );
    return this;
  }

  /** Waits until so many more turns have come to their end. */
  async more(turns: number, withinMs = 30_000): Promise<void> {
    const goal = this.turns + turns;
    await until(() => this.turns >= goal, `${turns} more turns; failed: ${this.failures.join('; ')}`, withinMs);
  }

  async end(): Promise<void> {
    this.#stopped = true;
    await Promise.all(this.#loops);
  }

  async #loop(turn: () => Promise<string | undefined>): Promise<void> {
    while (!this.#stopped) {
      const failure = await turn().catch(String);
      if (failure !== undefined) this.failures.push(failure);
      this.turns += 1;
    }
  }

  async #plain(body: object): Promise<string | undefined> {
    const response = await fetch(this.#base, {
      method: 'POST',
      headers: { 'x-api-key': this.#key, 'content-type': 'application/json' },
      body: JSON.stringify(body),
    });
    const text = await response.text();
    return response.status === 200 ? undefined : `${response.status} ${text}`;
  }

  async #streamed(body: object): Promise<string | undefined> {
    const reader = await EventReader.open(`${this.#base}/stream`, { key: this.#key, body });
    await reader.end();
    return reader.events.at(-1)?.event === 'done' ? undefined : reader.text.slice(-500);
  }
}
