import { describe, expect, test } from 'vitest';
import { createLog } from '../../src/lib/log.js';
import { watch } from '../../src/reconciler/watching.js';
import type { RuntimeEvent } from '../../src/runtime/runtime.js';

const EVENT: RuntimeEvent = { type: 'resync' };

/** What happens when `events` is watched, up to the third pause. */
async function seenOf(events: () => AsyncGenerator<RuntimeEvent>, take = async () => {}): Promise<string[]> {
  const stop = new AbortController();
  const seen: string[] = [];
  await watch(
    {
      runtime: {
        events() {
          seen.push('open');
          // A watcher that does not pause is let go all the same.
          if (seen.length > 20) stop.abort();
          return events();
        },
      },
      log: createLog('silent'),
      async take(event) {
        seen.push(event.type);
        await take();
      },
      async pause() {
        seen.push('pause');
        if (seen.filter((one) => one === 'pause').length === 3) stop.abort();
      },
    },
    stop.signal,
  );
  return seen;
}

const thrice = (...seen: string[]) => [...seen, ...seen, ...seen];

describe('the watcher of the runtime pauses', () => {
  test('after events that end by themselves', async () => {
    // eslint-disable-next-line require-yield
    expect(await seenOf(async function* () {})).toEqual(thrice('open', 'pause'));
    expect(
      await seenOf(async function* () {
        yield EVENT;
      }),
    ).toEqual(thrice('open', 'resync', 'pause'));
  });

  test('after events that break off', async () => {
    const breaking = async function* () {
      yield EVENT;
      throw new Error('the engine went away');
    };
    expect(await seenOf(breaking)).toEqual(thrice('open', 'resync', 'pause'));
  });

  test('after an event that could not be dealt with', async () => {
    const failing = async () => {
      throw new Error('the database is away');
    };
    const two = async function* () {
      yield EVENT;
      yield EVENT;
    };
    expect(await seenOf(two, failing)).toEqual(thrice('open', 'resync', 'pause'));
  });

  test('no more once it is stopped', async () => {
    const stop = new AbortController();
    let pauses = 0;
    await watch(
      {
        runtime: {
          async *events() {
            stop.abort();
            yield EVENT;
          },
        },
        log: createLog('silent'),
        take: async () => {},
        pause: async () => void pauses++,
      },
      stop.signal,
    );
    expect(pauses).toBe(0);
  });
});
