import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import type { Runtime, RuntimeEvent } from '../runtime/runtime.js';

export interface Watched {
  runtime: Pick<Runtime, 'events'>;
  log: Log;
  /** What is done with each event before the next one is read. */
  take(event: RuntimeEvent): Promise<void>;
  /** Between the end of one stream of events and the beginning of the next; tests wait for no time. */
  pause?: (signal: AbortSignal) => Promise<void>;
}

const PAUSE_MS = 1_000;

/** Follows what the runtime sees happen until `signal` aborts. A stream that ends, well or not, is opened anew after a pause. */
export async function watch({ runtime, log, take, pause = pauseFor }: Watched, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    try {
      for await (const event of runtime.events(signal)) await take(event);
    } catch (error) {
      if (!signal.aborted) log.warn({ err: error }, `watching the engine failed: ${messageOf(error)}`);
    }
    if (!signal.aborted) await pause(signal);
  }
}

async function pauseFor(signal: AbortSignal): Promise<void> {
  // An abort ends the pause, and with it the watching.
  await sleep(PAUSE_MS, undefined, { signal }).catch(() => undefined);
}
