import { setTimeout as sleep } from 'node:timers/promises';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { KeptTurnsClient } from '../../gateway/kept-turns.js';
import type { EventSink } from '../../http/sse.js';
import { AppError } from '../../lib/errors.js';
import { readEventRows } from './turn-writer.store.js';
import type { KeptTurns } from './kept-turns.js';
import { decodeEvents, serverEventOf } from './turn-event.js';
import * as store from './turns.store.js';

export interface FollowerOptions {
  db: Kysely<Schema>;
  turns: KeptTurns;
  kept: KeptTurnsClient;
}

const ROWS_AT_ONCE = 50;
/** Between two looks at a turn of which nothing new can be had just now. */
const PAUSE_MS = 100;
/** A turn of which all has been heard is ended by its process within this time, or by this one. */
const ENDED_WITHIN_MS = 2_000;

/** A turn as a client follows it. */
export interface Followed {
  userId: string;
  turnId: string;
  resumable: boolean;
}

/**
 * Shows kept turns to clients: what is written down from the journal, the rest from the process that writes it down where that is this one, and
 * from the instance where it is not. The numbers of events are the gateway's, so that it is the same whoever tells it.
 */
export class Follower {
  readonly #options: FollowerOptions;

  constructor(options: FollowerOptions) {
    this.#options = options;
  }

  /** Sends what comes after that event. Resolves with the turn when it has ended and all was sent; with nothing when this process stops. */
  async follow(turn: Followed, cursor: number, sink: EventSink): Promise<store.TurnRow | undefined> {
    let heardAll: number | undefined;
    for (;;) {
      sink.signal.throwIfAborted();
      // Looked at first: of a turn that had ended by then, the journal is whole.
      const row = await store.findTurn(this.#options.db, turn.userId, turn.turnId);
      if (!row) throw new AppError('not_found', 'turn not found');
      const replayed = await this.#replay(turn, cursor, sink);
      if (row.status !== 'running') return row;
      const live = await this.#live(turn, row, replayed, sink);
      if (live.how === 'left') return undefined;
      if (live.how === 'done') heardAll ??= performance.now();
      if (heardAll !== undefined && performance.now() - heardAll > ENDED_WITHIN_MS) {
        await this.#options.turns.adoptOne(turn.turnId);
        heardAll = undefined;
      }
      if (live.cursor === cursor)
        await sleep(PAUSE_MS, undefined, { signal: sink.signal }).catch(() => sink.signal.throwIfAborted());
      cursor = live.cursor;
    }
  }

  async #live(turn: Followed, row: store.TurnRow, cursor: number, sink: EventSink): Promise<{ how: string; cursor: number }> {
    const here = this.#options.turns.get(turn.turnId);
    if (here?.reachesBackTo(cursor)) return here.relay(cursor, sink);
    if (here || row.instance_id === null) return { how: 'nothing', cursor };
    return this.#fromInstance(turn, row.instance_id, cursor, sink);
  }

  /** What is written down after that event. */
  async #replay(turn: Followed, cursor: number, sink: EventSink): Promise<number> {
    for (;;) {
      const rows = await readEventRows(this.#options.db, turn.userId, turn.turnId, cursor, ROWS_AT_ONCE);
      for (const row of rows) {
        // The beginning was let go of: its end tells all that is left of it.
        if (row.from_seq > cursor + 1) return cursor;
        for (const event of decodeEvents(row.events)) if (event.seq > cursor) await show(turn, event, sink);
        cursor = Math.max(cursor, row.to_seq);
      }
      if (rows.length < ROWS_AT_ONCE) return cursor;
    }
  }

  async #fromInstance(
    turn: Followed,
    instanceId: string,
    cursor: number,
    sink: EventSink,
  ): Promise<{ how: 'done' | 'nothing'; cursor: number }> {
    try {
      const events = await this.#options.kept.follow(instanceId, turn.turnId, cursor, sink.signal);
      if (events === 'gone') return { how: 'nothing', cursor };
      if (events === 'unknown') return { how: 'done', cursor };
      for await (const event of events) {
        // How it ended is in its row before long.
        if (event.type === 'error') break;
        const seq = event.seq ?? 0;
        if (seq <= cursor) continue;
        await show(turn, { ...event, seq }, sink);
        cursor = seq;
      }
      return { how: 'done', cursor };
    } catch (error) {
      if (sink.signal.aborted || !(error instanceof AppError)) throw error;
      return { how: 'nothing', cursor };
    }
  }
}

async function show(turn: Followed, event: Parameters<typeof serverEventOf>[0], sink: EventSink): Promise<void> {
  const shown = serverEventOf(event, turn.resumable ? turn.turnId : undefined);
  const room = shown && sink.send(shown);
  if (room) await room;
}
