import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { withDeadline } from '../../lib/deadline.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Runtime } from '../../runtime/runtime.js';
import * as store from './health.store.js';

const CHECK_TIMEOUT_MS = 3_000;

export interface Part {
  status: 'ok' | 'unavailable';
  detail: string;
}

/** Whether Berth can do its work: without its database nothing, without its engine all but new containers. */
export class Health {
  readonly #db: Kysely<Schema>;
  readonly #runtime: Runtime;

  constructor({ db, runtime }: { db: Kysely<Schema>; runtime: Runtime }) {
    this.#db = db;
    this.#runtime = runtime;
  }

  async ready(): Promise<{ status: 'ready' | 'degraded' | 'unavailable'; parts: { database: Part; engine: Part } }> {
    const [database, engine] = await Promise.all([
      part('database', async () => {
        await store.askAcrossTenants(this.#db);
        return 'answers';
      }),
      part('engine', async () => {
        const { name, version } = await this.#runtime.check();
        return `${name} ${version}`;
      }),
    ]);
    const status = database.status !== 'ok' ? 'unavailable' : engine.status !== 'ok' ? 'degraded' : 'ready';
    return { status, parts: { database, engine } };
  }
}

async function part(name: string, ask: () => Promise<string>): Promise<Part> {
  try {
    return { status: 'ok', detail: await withDeadline(name, CHECK_TIMEOUT_MS, ask) };
  } catch (error) {
    // Said to anybody who asks, so it holds no more than our own words.
    return { status: 'unavailable', detail: error instanceof AppError ? messageOf(error) : `the ${name} does not answer` };
  }
}
