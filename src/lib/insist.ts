import { setTimeout as sleep } from 'node:timers/promises';

const FIRST_PAUSE_MS = 100;
const LONGEST_PAUSE_MS = 2_000;

/** Does something until it is done, or `signal` aborts: for what has to be written down once the database is back. */
export async function insist<T>(work: () => Promise<T>, failed: (error: unknown) => void, signal?: AbortSignal): Promise<T> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(2 * pauseMs, LONGEST_PAUSE_MS)) {
    try {
      return await work();
    } catch (error) {
      failed(error);
      signal?.throwIfAborted();
      await sleep(pauseMs, undefined, { ref: false });
    }
  }
}
