/** What can change. A message says that something about the thing with this id is new; never what. */
export type Topic = 'key' | 'user' | 'agent' | 'deployment' | 'instance' | 'event' | 'tier' | 'turn' | 'vault' | 'snapshot';

/**
 * Says that something changed: to this process at once, to the other Berth processes on the same Postgres by NOTIFY. Messages may be
 * lost while `trusted` is false, so whoever keeps a copy of a row must read it anew until then.
 */
export interface Bus {
  /** Call after the commit. Never throws; local subscribers have run when it returns. */
  publish(topic: Topic, id: string): void;
  /** Returns the function that ends the subscription. */
  subscribe(topic: Topic | '*', listener: (id: string, topic: Topic) => void): () => void;
  /** False while messages of other processes may be missed. */
  readonly trusted: boolean;
  /** Called each time `trusted` becomes false: drop every copy. Returns the function that ends the subscription. */
  onTrustLost(listener: () => void): () => void;
}
