import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import type { Topic } from './bus.js';

type Listener = (id: string, topic: Topic) => void;

/** The subscribers of this process, by topic. One that throws is logged and hinders neither the others nor the publisher. */
export class Listeners {
  readonly #byTopic = new Map<Topic | '*', Set<Listener>>();
  readonly #log: Log;

  constructor(log: Log) {
    this.#log = log;
  }

  add(topic: Topic | '*', listener: Listener): () => void {
    // Wrapped, so that a function subscribed twice is called twice and each subscription ends by itself.
    const entry: Listener = (id, of) => listener(id, of);
    const set = this.#byTopic.get(topic) ?? new Set();
    this.#byTopic.set(topic, set.add(entry));
    return () => {
      set.delete(entry);
      if (set.size === 0 && this.#byTopic.get(topic) === set) this.#byTopic.delete(topic);
    };
  }

  tell(topic: Topic, id: string): void {
    const all = [...(this.#byTopic.get(topic) ?? []), ...(this.#byTopic.get('*') ?? [])];
    for (const listener of all) {
      try {
        listener(id, topic);
      } catch (error) {
        this.#log.error({ err: error, topic, id }, `a listener failed: ${messageOf(error)}`);
      }
    }
  }
}
