import type { NetConnectOpts } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { WordReader, type Wish } from './canned.js';
import { cpuMsOf } from './child.js';
import { Connection } from './connection.js';
import { Times } from './measure.js';

/** Something that streams answers. */
export interface Target {
  readonly name: string;
  readonly address: NetConnectOpts;
  /** The process that answers; it may be that of other targets too. */
  readonly pid: number;
  request(wish: Wish): string;
}

export interface Load extends Wish {
  concurrency: number;
  /** Turns of each of the concurrent clients, in one round. */
  turns: number;
  /** How often each target has its round. */
  rounds: number;
}

/** What the clients of one target saw, over all its rounds. */
export class Seen {
  /** From the request to the first word. */
  readonly first = new Times();
  /** From the moment the upstream wrote a word to its arrival; without the first, which also waits for the turn to begin. */
  readonly word = new Times();
  readonly whole = new Times();
  seconds = 0;
  /** Processor time of the answering processes, which tells more than the clock does on a machine that others use too. */
  cpuMs = 0;

  get perS(): number {
    return this.whole.n / this.seconds;
  }

  get cpuMsEach(): number {
    return this.cpuMs / this.whole.n;
  }
}

/** Puts the load on each of the groups of targets in turn, so that a noisy machine hits all alike. A group shares its clients evenly. */
export async function alternate(groups: readonly (readonly Target[])[], load: Load): Promise<Seen[]> {
  const seen = groups.map(() => new Seen());
  for (let round = 0; round < load.rounds; round++) {
    for (const [i, group] of groups.entries()) await oneRound(group, load, seen[i]!);
  }
  return seen;
}

async function oneRound(group: readonly Target[], load: Load, seen: Seen): Promise<void> {
  const clients = await Promise.all(
    Array.from({ length: load.concurrency }, async (_, i) => {
      const target = group[i % group.length]!;
      return { target, connection: await Connection.open(target.address) };
    }),
  );
  const pids = [...new Set(group.map(({ pid }) => pid))];
  const cpuBefore = cpuMsOf(pids);
  const began = performance.now();
  await Promise.all(
    clients.map(async ({ target, connection }, i) => {
      // Answers that take their time begin one after the other, not all at the same instant.
      await sleep((load.words * load.gapMs * i) / clients.length);
      for (let turn = 0; turn < load.turns; turn++) await oneTurn(connection, target.request(load), load, seen);
    }),
  );
  seen.seconds += (performance.now() - began) / 1000;
  seen.cpuMs += cpuMsOf(pids) - cpuBefore;
  for (const { connection } of clients) connection.close();
}

export async function oneTurn(connection: Connection, request: string, wish: Wish, seen: Seen): Promise<void> {
  const began = performance.now();
  const reader = new WordReader(wish.words);
  let firstMs: number | undefined;
  const status = await connection.exchange(request, (bytes) => {
    reader.take(bytes);
    if (firstMs === undefined && reader.delaysMs.length > 0) firstMs = performance.now() - began;
  });
  if (status !== 200 || firstMs === undefined || reader.delaysMs.length !== wish.words) {
    throw new Error(`a turn answered ${status} with ${reader.delaysMs.length} of ${wish.words} words`);
  }
  seen.first.add(firstMs);
  seen.word.addAll(reader.delaysMs.slice(1));
  seen.whole.add(performance.now() - began);
}
