import { describe, expect, test } from 'vitest';
import { EventQueue } from '../../src/runtime/event-queue.js';
import { Gate } from '../../src/runtime/gate.js';
import { joinSignals } from '../../src/lib/joined-signal.js';
import type { RuntimeEvent } from '../../src/runtime/runtime.js';
import { eventually } from './harness.js';

describe('the gate', () => {
  test('lets so many in, in order, and forgets one that gave up', async () => {
    const gate = new Gate(2);
    const seen: number[] = [];
    const doors: (() => void)[] = [];
    const work = (n: number) => () => {
      seen.push(n);
      return new Promise<void>((resolve) => doors.push(resolve));
    };
    const impatient = new AbortController();
    const runs = [gate.run(work(1)), gate.run(work(2)), gate.run(work(3), impatient.signal), gate.run(work(4))];
    await eventually(() => expect(seen).toEqual([1, 2]));
    impatient.abort(new Error('gave up'));
    await expect(runs[2]).rejects.toThrow('gave up');
    doors.shift()!();
    await eventually(() => expect(seen).toEqual([1, 2, 4]));
    for (const open of doors) open();
    await Promise.all([runs[0], runs[1], runs[3]]);
    expect(gate.isIdle).toBe(true);
    await expect(gate.run(() => Promise.reject(new Error('failed')))).rejects.toThrow('failed');
    expect(gate.isIdle).toBe(true);
  });
});

describe('the event queue', () => {
  const event = (name: string): RuntimeEvent => ({ type: 'start', name, instanceId: 'i', deploymentId: 'd' });

  test('keeps order, waits for more, and ends with its signal', async () => {
    const queue = new EventQueue();
    const stop = new AbortController();
    const reader = queue.read(stop.signal);
    queue.push(event('a'));
    queue.push(event('b'));
    expect((await reader.next()).value).toMatchObject({ name: 'a' });
    expect((await reader.next()).value).toMatchObject({ name: 'b' });
    const waiting = reader.next();
    queue.push(event('c'));
    expect((await waiting).value).toMatchObject({ name: 'c' });
    const last = reader.next();
    stop.abort();
    expect((await last).done).toBe(true);
  });

  test('past its limit it asks for a resync instead of growing', async () => {
    const queue = new EventQueue(3);
    const stop = new AbortController();
    const reader = queue.read(stop.signal);
    for (const name of ['a', 'b', 'c', 'lost', 'd']) queue.push(event(name));
    expect((await reader.next()).value).toEqual({ type: 'resync' });
    expect((await reader.next()).value).toMatchObject({ name: 'd' });
    // What waits is moot once everything is looked at again.
    queue.push(event('e'));
    queue.push({ type: 'resync' });
    expect((await reader.next()).value).toEqual({ type: 'resync' });
    stop.abort();
  });
});

describe('joined signals', () => {
  test('abort with any source and its reason, also one that aborted before, and no more once released', () => {
    const [one, two] = [new AbortController(), new AbortController()];
    const joined = joinSignals(one.signal, two.signal);
    const released = joinSignals(one.signal, two.signal);
    released.release();
    two.abort('two');
    expect(joined.signal.reason).toBe('two');
    expect(joinSignals(one.signal, two.signal).signal.reason).toBe('two');
    expect(released.signal.aborted).toBe(false);
  });
});
