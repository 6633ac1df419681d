import type { Log } from '../lib/log.js';
import type { Bus, Topic } from './bus.js';
import { Listeners } from './listeners.js';

/** The bus of a process that has its database to itself: nobody else could change anything, so it is always to be trusted. */
export class LocalBus implements Bus {
  readonly trusted = true;
  readonly #listeners: Listeners;

  constructor(log: Log) {
    this.#listeners = new Listeners(log);
  }

  publish(topic: Topic, id: string): void {
    this.#listeners.tell(topic, id);
  }

  subscribe(topic: Topic | '*', listener: (id: string, topic: Topic) => void): () => void {
    return this.#listeners.add(topic, listener);
  }

  onTrustLost(): () => void {
    return () => {};
  }
}
