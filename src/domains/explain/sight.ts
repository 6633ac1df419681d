import { withDeadline } from '../../lib/deadline.js';
import { AppError } from '../../lib/errors.js';
import type { InstanceStats, Observed, Runtime } from '../../runtime/runtime.js';

/** What the engine says of an instance now, or that it says nothing. */
export interface Sight {
  answers: boolean;
  /** Why it does not. */
  detail: string | null;
  observed: Observed | undefined;
  stats: InstanceStats | undefined;
}

/** Whoever asks why something hangs must not hang too. */
const LOOK_TIMEOUT_MS = 2_000;

/** Never throws for an engine that is away, slow or broken: that is part of the answer. */
export async function lookAt(runtime: Runtime, name: string | null, signal: AbortSignal): Promise<Sight> {
  const blind = { observed: undefined, stats: undefined };
  try {
    return await withDeadline(
      'asking the container engine',
      LOOK_TIMEOUT_MS,
      async () => {
        if (name === null) {
          await runtime.check();
          return { answers: true, detail: null, ...blind };
        }
        const [observed, stats] = await Promise.all([runtime.inspect(name), runtime.stats(name)]);
        return { answers: true, detail: null, observed, stats };
      },
      signal,
    );
  } catch (error) {
    signal.throwIfAborted();
    // Said to tenants: no more than our own words.
    return { answers: false, detail: error instanceof AppError ? error.message : 'the container engine fails', ...blind };
  }
}
