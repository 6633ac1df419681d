import { describe, expect, test } from 'vitest';
import { CONNECT_TIMEOUT_MS, whyItEnded } from '../../src/reconciler/endings.js';
import { type Incoming, INCOMING_LINK_MS } from '../../src/reconciler/plan-replacement.js';
import { plan, type Situation } from '../../src/reconciler/plan.js';
import type { Observed } from '../../src/runtime/runtime.js';

const observed = (more: Partial<Observed> = {}): Observed => ({
  name: 'n',
  runtimeId: 'r',
  instanceId: 'ins',
  deploymentId: 'dep',
  generation: 1,
  state: 'running',
  createdAt: 0,
  ...more,
});
const settled: Situation = {
  desired: 'running',
  filesAwake: false,
  rest: null,
  limits: 'few',
  limitsGrow: false,
  specHash: 'a',
  configVersion: 3,
  hasRoom: true,
  diskBehind: false,
  mustStopWriting: false,
  instance: { specHash: 'a', limits: 'few', appliedVersion: 3, startedMsAgo: 1_000, runtimeStartedAtMs: 500, isStopped: false },
  observed: observed({ startedAt: 500 }),
  linkUp: true,
  unlinkedMs: 0,
  isRollable: false,
  rollWaitMs: 0,
  probationMs: 10_000,
};
const instance = (more: object) => ({
  specHash: 'a',
  limits: 'few',
  appliedVersion: 3,
  startedMsAgo: 1_000,
  runtimeStartedAtMs: 500,
  isStopped: false,
  ...more,
});

describe('the plan', () => {
  test.each<[string, Partial<Situation>, object]>([
    ['nothing lives: an instance is admitted', { instance: undefined, observed: undefined }, { do: 'admit' }],
    [
      'admitted, never started, no container: it is created',
      { instance: instance({ startedMsAgo: undefined }), observed: undefined },
      { do: 'create' },
    ],
    [
      'created: it is started',
      { instance: instance({ startedMsAgo: undefined }), observed: observed({ state: 'created' }), linkUp: false },
      { do: 'start' },
    ],
    [
      'runs, but nobody wrote down that it was started: started again, which changes nothing',
      { instance: instance({ startedMsAgo: undefined }) },
      { do: 'start' },
    ],
    ['runs without a link: waited for', { linkUp: false }, { do: 'connect' }],
    ['runs without a link for too long: ended', { linkUp: false, unlinkedMs: CONNECT_TIMEOUT_MS }, { do: 'end', failed: true }],
    [
      'runs for long, but its link was lost only now: waited for',
      { linkUp: false, instance: instance({ startedMsAgo: 3_600_000 }) },
      { do: 'connect' },
    ],
    ['was restarted from outside: noted, and told everything again', { observed: observed({ startedAt: 700 }) }, { do: 'start' }],
    ['knows an older config: told', { configVersion: 4 }, { do: 'configure' }],
    ['all as wished: settled', {}, { do: 'settle' }],
    [
      'of another image, paused, and in use again: thawed, to serve until the other is there',
      { specHash: 'b', isRollable: true, observed: observed({ state: 'paused' }), linkUp: false },
      { do: 'unpause' },
    ],
    ['paused: thawed', { observed: observed({ state: 'paused' }), linkUp: false }, { do: 'unpause' }],
    ['removed from outside: ended, then admitted anew', { observed: undefined, linkUp: false }, { do: 'end', failed: true }],
    ['died: ended', { observed: observed({ state: 'exited', exitCode: 1 }), linkUp: false }, { do: 'end', failed: true }],
    ['of another spec: replaced, with time to finish', { specHash: 'b' }, { do: 'end', failed: false, graceMs: 10_000 }],
    [
      'of another spec and not started: replaced',
      { specHash: 'b', observed: observed({ state: 'created' }), instance: instance({ startedMsAgo: undefined }) },
      { do: 'end', failed: false },
    ],
    ['to sleep, lives: ended, with time to finish', { desired: 'asleep' }, { do: 'end', failed: false, graceMs: 10_000 }],
    ['to sleep, nothing lives: rests', { desired: 'asleep', instance: undefined, observed: undefined }, { do: 'rest' }],
    [
      'to sleep, but its files are asked for: an instance is admitted',
      { desired: 'asleep', filesAwake: true, instance: undefined, observed: undefined },
      { do: 'admit' },
    ],
    ['to sleep, up for its files: settled', { desired: 'asleep', filesAwake: true }, { do: 'settle' }],
    ['of other limits: they are changed while it runs', { limits: 'more' }, { do: 'limit' }],
    ['of larger limits: they are changed while it runs', { limits: 'more', limitsGrow: true }, { do: 'limit' }],
    [
      'of larger limits, and knows an older config: told, since somebody waits for that',
      { limits: 'more', limitsGrow: true, configVersion: 4 },
      { do: 'configure' },
    ],
    [
      'of smaller limits, and knows an older config: the limits first, or it would work beyond them',
      { limits: 'less', configVersion: 4 },
      { do: 'limit' },
    ],
    [
      'of smaller limits, paused and in use again: the limits first',
      { limits: 'less', observed: observed({ state: 'paused' }), linkUp: false },
      { do: 'limit' },
    ],
    [
      'of larger limits, paused and in use again: thawed, since somebody waits for that',
      { limits: 'more', limitsGrow: true, observed: observed({ state: 'paused' }), linkUp: false },
      { do: 'unpause' },
    ],
    [
      'of larger limits, not started: the limits first',
      {
        limits: 'more',
        limitsGrow: true,
        observed: observed({ state: 'created' }),
        instance: instance({ startedMsAgo: undefined }),
      },
      { do: 'limit' },
    ],
    [
      'of larger limits, and its link is away: changed meanwhile',
      { limits: 'more', limitsGrow: true, linkUp: false },
      { do: 'limit' },
    ],
    [
      'of a smaller disk than its tier gives, and knows an older config: told first',
      { diskBehind: true, limitsGrow: true, configVersion: 4 },
      { do: 'configure' },
    ],
    [
      'nothing lives and the host has no room: it waits',
      { hasRoom: false, instance: undefined, observed: undefined },
      { do: 'queue' },
    ],
    [
      'admitted, but it gave its room back before there was a container: it waits',
      { hasRoom: false, instance: instance({ startedMsAgo: undefined }), observed: undefined },
      { do: 'queue' },
    ],
    [
      'woken after it was stopped, and the host has no room: it waits',
      { hasRoom: false, instance: instance({ isStopped: true }), observed: observed({ state: 'exited' }) },
      { do: 'queue' },
    ],
    [
      'paused, and it kept its memory: thawed at once',
      { observed: observed({ state: 'paused' }), linkUp: false },
      { do: 'unpause' },
    ],
    ['of a smaller disk than its tier gives: it grows', { diskBehind: true }, { do: 'grow' }],
    [
      'its volume holds too much: ended, with time to finish',
      { mustStopWriting: true },
      { do: 'end', failed: false, graceMs: 10_000 },
    ],
    [
      'its volume holds too much, and it was not started yet: it is, for its files',
      { mustStopWriting: true, observed: observed({ state: 'created' }), instance: instance({ startedMsAgo: undefined }) },
      { do: 'start' },
    ],
    [
      'of other limits, paused and idle: not woken for it',
      { limits: 'more', rest: 'paused', observed: observed({ state: 'paused' }) },
      { do: 'rest' },
    ],
    ['idle: paused', { rest: 'paused' }, { do: 'pause' }],
    ['idle and paused: rests', { rest: 'paused', observed: observed({ state: 'paused' }) }, { do: 'rest' }],
    ['idle for long: stopped', { rest: 'stopped', observed: observed({ state: 'paused' }) }, { do: 'stop' }],
    ['idle and stopped: rests', { rest: 'stopped', observed: observed({ state: 'exited', exitCode: 0 }) }, { do: 'rest' }],
    [
      'idle, of another spec: is not woken for it',
      { rest: 'paused', specHash: 'b', observed: observed({ state: 'paused' }) },
      { do: 'rest' },
    ],
    ['idle, removed from outside: ended without blame', { rest: 'stopped', observed: undefined }, { do: 'end', failed: false }],
    ['idle, nothing lives: rests', { rest: 'stopped', instance: undefined, observed: undefined }, { do: 'rest' }],
    [
      'woken after it was stopped: started',
      { instance: instance({ isStopped: true }), observed: observed({ state: 'exited' }) },
      { do: 'start' },
    ],
    [
      'woken after it was stopped, of another spec: replaced',
      { specHash: 'b', instance: instance({ isStopped: true }), observed: observed({ state: 'exited' }) },
      { do: 'end', failed: false },
    ],
    [
      'deleted while it sleeps: ended',
      { desired: 'deleted', rest: 'paused', observed: observed({ state: 'paused' }) },
      { do: 'end', failed: false },
    ],
    ['to be deleted, lives: ended', { desired: 'deleted' }, { do: 'end', failed: false, graceMs: 0 }],
    [
      'to be deleted, nothing lives: its volume goes',
      { desired: 'deleted', instance: undefined, observed: undefined },
      { do: 'remove_volume' },
    ],
    [
      'to be deleted while it has not even a container: ended',
      { desired: 'deleted', observed: undefined },
      { do: 'end', failed: false },
    ],
  ])('%s', (_, change, step) => {
    expect(plan({ ...settled, ...change })).toMatchObject(step);
  });

  test('an end is told in plain words', () => {
    expect(whyItEnded(observed({ state: 'exited', exitCode: 137, oomKilled: true }))).toBe(
      'the container ran out of memory and was killed',
    );
    // The flag alone does not mean it: a child was killed, the gateway went on and ended by itself.
    expect(whyItEnded(observed({ state: 'exited', exitCode: 0, oomKilled: true }))).toBe('the container ended with exit code 0');
    expect(whyItEnded(observed({ state: 'exited', exitCode: 3, childOomKilled: true }))).toBe(
      'the container ended with exit code 3, after a process in it had been killed for want of memory',
    );
    expect(whyItEnded(observed({ state: 'exited', exitCode: 137 }))).toContain('killed');
    expect(whyItEnded(observed({ state: 'exited', error: 'exec format error' }))).toContain('exec format error');
  });
});

describe('the plan of a replacement', () => {
  const incoming: Incoming = {
    ...instance({ specHash: 'b' }),
    observed: observed({ startedAt: 500 }),
    linkUp: true,
    unlinkedMs: 0,
    handed: 1,
    left: 0,
    handedMsAgo: 60_000,
  };
  const rolling: Situation = { ...settled, specHash: 'b', isRollable: true, incoming };
  const fresh = { startedMsAgo: undefined, appliedVersion: 0, handed: 0, left: 1, linkUp: false };
  test.each<[string, Partial<Situation>, Partial<Incoming> | undefined, object]>([
    ['one that serves is replaced by another beside it', {}, undefined, { do: 'admit', of: 'incoming' }],
    [
      'limits that the engine refused are reason enough',
      { specHash: 'a', instance: instance({ limits: 'not few' }) },
      undefined,
      { do: 'admit', of: 'incoming' },
    ],
    ['not while the last attempt is too near', { rollWaitMs: 500 }, undefined, { do: 'settle', againInMs: 500 }],
    ['one that serves nobody yet is ended first', { instance: instance({ appliedVersion: 0 }) }, undefined, { do: 'end' }],
    ['one whose link is down is waited for, since it may run turns', { linkUp: false }, undefined, { do: 'connect' }],
    ['made', {}, { ...fresh, observed: undefined }, { do: 'create', of: 'incoming' }],
    ['started', {}, { ...fresh, observed: observed({ state: 'created' }) }, { do: 'start', of: 'incoming' }],
    ['waited for', {}, { ...fresh, startedMsAgo: 5 }, { do: 'connect', of: 'incoming' }],
    ['told', {}, { appliedVersion: 0, handed: 0, left: 1 }, { do: 'configure', of: 'incoming' }],
    ['the old one is told of changes first', { configVersion: 4 }, { handed: 0, left: 1 }, { do: 'configure' }],
    ['takes over', {}, { handed: 0, left: 1 }, { do: 'hand_over' }],
    ['is watched for a while', {}, { handedMsAgo: 4_000 }, { do: 'watch', ms: 6_000 }],
    ['takes the place', {}, {}, { do: 'promote', graceMs: 10_000 }],
    ['never starts: undone', {}, { observed: observed({ state: 'exited', exitCode: 1 }) }, { do: 'undo', failed: true }],
    ['removed from outside: undone', {}, { observed: undefined }, { do: 'undo', failed: true }],
    ['no link in time: undone', {}, { linkUp: false, unlinkedMs: INCOMING_LINK_MS }, { do: 'undo', failed: true }],
    [
      'the old one dies: the new one takes its place at once',
      { observed: observed({ state: 'exited' }) },
      fresh,
      { do: 'promote', graceMs: 0 },
    ],
    ['the old one was removed: the same', { observed: undefined }, { handed: 0, left: 1 }, { do: 'promote' }],
    ['no more wished: undone', { specHash: 'a' }, { handed: 0, left: 1 }, { do: 'undo', failed: false }],
    ['no more wished, but it serves already: goes on', { specHash: 'c' }, { handed: 1, left: 1 }, { do: 'hand_over' }],
    ['to be deleted: undone, then the old one ends', { desired: 'deleted' }, {}, { do: 'undo', failed: false }],
    ['to rest: undone', { rest: 'paused' }, {}, { do: 'undo', failed: false }],
  ])('%s', (_, change, more, step) => {
    expect(plan({ ...rolling, incoming: more && { ...incoming, ...more }, ...change })).toMatchObject(step);
  });
});
