import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { readEvents, type StoredEvent } from '../../events/outbox.js';
import { messageOf as errorText } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import { isAbout } from './condition.js';
import { type Happening, record } from './recorder.js';
import * as store from './rules.store.js';
import { agentOf, eventHappening, eventKey } from './wording.js';

const USERS_AT_ONCE = 200;
const PAGE = 200;

/**
 * Holds the rules on events against the outbox, each event once: the place up to which a user's events were read is locked by whoever reads on,
 * and moves in the transaction that writes what they made of it.
 */
export class Matching {
  readonly #db: Kysely<Schema>;
  readonly #log: Log;

  constructor({ db, log }: { db: Kysely<Schema>; log: Log }) {
    this.#db = db;
    this.#log = log;
  }

  /** Reads on for those users of whom something is new; `undefined`: for all. */
  async run(of: string[] | undefined, signal: AbortSignal): Promise<void> {
    let after = '';
    for (;;) {
      const users = await store.unreadAcrossTenants(this.#db, { of, after, atMost: USERS_AT_ONCE });
      for (const userId of users) if (!signal.aborted) await this.#readAll(userId, signal);
      after = users.at(-1) ?? '';
      if (users.length < USERS_AT_ONCE || signal.aborted) return;
    }
  }

  /** What goes wrong with one user holds up no other, and is tried again at the next look. */
  async #readAll(userId: string, signal: AbortSignal): Promise<void> {
    try {
      while (!signal.aborted && (await this.#readOn(userId)));
    } catch (error) {
      this.#log.error({ user: userId, err: error }, `rules cannot be held against events: ${errorText(error)}`);
    }
  }

  /** One page; answers whether there may be another. */
  #readOn(userId: string): Promise<boolean> {
    return this.#db.transaction().execute(async (trx) => {
      const position = await store.takeReader(trx, userId);
      if (position === undefined) return false;
      const rules = await store.eventRules(trx, userId);
      if (rules.length === 0) return false;
      // What happened before any of the rules was there is nothing to them.
      const from = Math.max(position, Math.min(...rules.map((rule) => Number(rule.from_seq))));
      const events = await readEvents(trx, userId, from, PAGE);
      await this.#write(trx, userId, events.at(-1)?.seq ?? from, happeningsOf(rules, events));
      return events.length === PAGE;
    });
  }

  async #write(trx: Transaction<Schema>, userId: string, position: number, happenings: Happening[]): Promise<void> {
    await store.moveReader(trx, userId, position);
    await record(trx, userId, happenings);
  }
}

/** What the rules make of some events: one happening for all that are the same. */
function happeningsOf(rules: store.RuleRow[], events: StoredEvent[]): Happening[] {
  return rules.flatMap((rule) => {
    const byKey = new Map<string, { event: StoredEvent; count: number }>();
    for (const event of events) {
      if (event.seq <= Number(rule.from_seq) || !isAbout(rule, { type: event.type, agentId: agentOf(event) })) continue;
      const same = byKey.get(eventKey(event)) ?? { event, count: 0 };
      same.count += 1;
      byKey.set(eventKey(event), same);
    }
    return [...byKey.values()].map(({ event, count }) => eventHappening(rule, event, count));
  });
}
