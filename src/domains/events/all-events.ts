import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import type { Bus } from '../../events/bus.js';
import { AppError } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import * as store from './all-events.store.js';
import { AllFeed, type AllFeedOptions, type AllGap, type AllReader, gapAfter } from './all-feed.js';
import { type AllEventsAnswer, type AllGapAnswer, eventAnswer, type OwnedEventAnswer } from './events.schema.js';
import { findAgent } from './events.store.js';
import { matches } from './filter.js';
import { placeCursor, placeOfCursor } from './place.js';

export interface AllEventsOptions {
  db: Kysely<Schema>;
  bus: Bus;
  log: Log;
  feed?: Pick<AllFeedOptions, 'pollMs' | 'readersAtMost'> | undefined;
}

export interface AllEventsWish {
  type?: string[] | undefined;
  user?: string | undefined;
  agent?: string | undefined;
  order?: 'asc' | 'desc' | undefined;
  cursor?: string | undefined;
  offset?: number | undefined;
  limit?: number | undefined;
}

/** What happened to the things of all users, for admins: in the order of transactions, each once. */
export class AllEvents {
  readonly #db: Kysely<Schema>;
  readonly #feed: AllFeed;

  constructor({ db, bus, log, feed }: AllEventsOptions) {
    this.#db = db;
    this.#feed = new AllFeed({ db, bus, log, ...feed });
  }

  start(): void {
    this.#feed.start();
  }

  stop(): Promise<void> {
    return this.#feed.stop();
  }

  async list(wish: AllEventsWish): Promise<AllEventsAnswer> {
    const after = placeOfCursor(wish.cursor);
    const page = { after, descending: wish.order === 'desc', offset: wish.offset ?? 0, limit: wish.limit ?? 50 };
    const filter = await this.filter(wish);
    const edge = await store.readEdgeAcrossTenants(this.#db);
    const rows = await store.listAllAcrossTenants(this.#db, filter, edge.xid, page);
    const data = rows.slice(0, page.limit).map(ownedAnswer);
    const more = rows.length > page.limit;
    const gap = page.descending ? undefined : gapAfter(after, edge);
    return {
      data,
      pagination: { next_cursor: more ? (data.at(-1)?.cursor ?? null) : null, has_more: more, total: null },
      gap: gap ? allGapAnswer(gap) : null,
    };
  }

  /** `not_found` for a user, or an agent of it, that there is not. */
  async filter({ type = [], user, agent }: AllEventsWish): Promise<store.OwnedFilter> {
    const userId = user === undefined ? undefined : await this.#userId(user);
    return { types: type, userId, agentId: await this.#agentId(userId, agent) };
  }

  /** A reader of what comes after that cursor, or from now on. To be closed. */
  open(cursor: string | undefined): Promise<AllReader> {
    return this.#feed.open(placeOfCursor(cursor));
  }

  async #userId(user: string): Promise<string> {
    // Events outlive nobody: a user that is gone has none.
    const found = await store.findUserAcrossTenants(this.#db, user);
    if (found === undefined) throw new AppError('not_found', 'user not found');
    return found;
  }

  async #agentId(userId: string | undefined, agent: string | undefined): Promise<string | undefined> {
    if (agent === undefined || agent.startsWith('agt_')) return agent;
    if (userId === undefined) {
      throw new AppError('invalid_request', 'name the user too, or the agent by its id', {
        fields: [{ path: 'query.agent', message: 'must be an id where no user is named: names are unique within a user' }],
      });
    }
    const found = await findAgent(this.#db, userId, agent);
    if (found === undefined) throw new AppError('not_found', 'agent not found');
    return found;
  }
}

export function isWanted(filter: store.OwnedFilter, event: store.OwnedEvent): boolean {
  return (filter.userId === undefined || filter.userId === event.userId) && matches(filter, event);
}

export function ownedAnswer(event: store.OwnedEvent): OwnedEventAnswer {
  return { ...eventAnswer(event), user_id: event.userId, cursor: placeCursor(event) };
}

export function allGapAnswer({ ahead, place }: AllGap): AllGapAnswer {
  return { reason: ahead ? 'unknown' : 'expired', cursor: placeCursor(place) };
}
