import type { Conversations } from './conversation.js';
import { TurnStopped } from './errors.js';
import type { RunningTurns } from './running.js';

export interface ReleaseWish {
  agents: string[];
  /** How long the call waits for one of them to have no turn. */
  waitMs: number;
  /** Whether new turns are refused from now on, also of those that still have some. */
  close: boolean;
  /** Whether turns are ended rather than waited for. */
  end: boolean;
}

/**
 * Agents that this instance lets go of, so that another one on the same volume can take them up: from the moment that one is released here no
 * turn of it runs, none begins, and nothing of its conversations is remembered. A config decides in the end; until it comes, a release stands.
 */
export class Releases {
  readonly #running: RunningTurns;
  readonly #conversations: Conversations;
  /** As the config in force says. */
  #given = new Set<string>();
  /** As was asked for since. */
  readonly #closed = new Set<string>();

  constructor({ running, conversations }: { running: RunningTurns; conversations: Conversations }) {
    this.#running = running;
    this.#conversations = conversations;
  }

  /** Whether no turn of the agent may begin here. */
  has(agentId: string): boolean {
    return this.#given.has(agentId) || this.#closed.has(agentId);
  }

  get ids(): string[] {
    return [...new Set([...this.#given, ...this.#closed])];
  }

  /** Takes over what a config says, whatever was asked for before. */
  async set(given: Set<string>): Promise<void> {
    this.#given = given;
    for (const id of given) await this.#end(id);
    this.#closed.clear();
  }

  /** Releases those of the agents that have no turn as soon as one of them has none; answers which. */
  async release({ agents, waitMs, close, end }: ReleaseWish): Promise<string[]> {
    if (close || end) for (const id of agents) this.#closed.add(id);
    if (end) for (const id of agents) await this.#end(id);
    const deadline = performance.now() + waitMs;
    for (;;) {
      const idle = agents.filter((id) => !this.#running.has(id));
      const leftMs = deadline - performance.now();
      if (idle.length > 0 || leftMs <= 0) {
        for (const id of idle) {
          this.#closed.add(id);
          this.#conversations.forget(id);
        }
        return idle;
      }
      await this.#running.oneEnded(leftMs);
    }
  }

  async #end(id: string): Promise<void> {
    await this.#running.stopAgent(id, new TurnStopped('moved'));
    this.#conversations.forget(id);
  }
}
