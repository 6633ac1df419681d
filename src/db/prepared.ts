import type { PostgresPool, PostgresPoolClient } from 'kysely';
import type pg from 'pg';
import { codeOf } from './errors.js';

/** Statements kept on a connection; those that come after them are parsed each time. */
const KEPT_AT_MOST = 500;
/** Statements with more are lists of ever other lengths. */
const PARAMETERS_AT_MOST = 32;
const IN_FAILED_TRANSACTION = '25P02';

/**
 * Names the statements of a pool, so that the server parses and plans each once per connection and not every time: half of the cost of a
 * small query on PGlite.
 */
export function preparedPool(pool: pg.Pool): PostgresPool {
  const clients = new WeakMap<pg.PoolClient, PostgresPoolClient>();
  return {
    async connect() {
      const client = await pool.connect();
      const known = clients.get(client) ?? preparedClient(client);
      clients.set(client, known);
      return known;
    },
    end: () => pool.end(),
  };
}

/** Kysely's type also has cursors, which Berth does not use. */
function preparedClient(client: pg.PoolClient): PostgresPoolClient {
  return new PreparedClient(client) as unknown as PostgresPoolClient;
}

let clientsMade = 0;

/** One connection. All connections to a PGlite are the same session of it, so names are never used by a second one. */
class PreparedClient {
  readonly #client: pg.PoolClient;
  readonly #names = new Map<string, string>();
  #prefix = '';

  constructor(client: pg.PoolClient) {
    this.#client = client;
    // A connection that breaks while it is in use fails the statements on it, and is thrown away when it is given back. It says so by an event
    // as well, which the pool hears only of those that are idle: unheard, it would end the process.
    client.on('error', () => undefined);
    this.#forget();
  }

  async query(text: string, values: unknown[]): Promise<pg.QueryResult> {
    const name = this.#nameOf(text, values.length);
    if (name === undefined) return this.#client.query(text, values);
    try {
      return await this.#client.query({ name, text, values });
    } catch (error) {
      if (!isOutdated(error)) throw error;
      this.#forget();
      return this.#again(text, values, error);
    }
  }

  release(): void {
    this.#client.release();
  }

  #nameOf(text: string, parameters: number): string | undefined {
    const known = this.#names.get(text);
    if (known !== undefined) return known;
    if (parameters === 0 || parameters > PARAMETERS_AT_MOST || this.#names.size >= KEPT_AT_MOST) return undefined;
    const name = `${this.#prefix}${this.#names.size}`;
    this.#names.set(text, name);
    return name;
  }

  #forget(): void {
    this.#names.clear();
    this.#prefix = `berth_${++clientsMade}_`;
  }

  /** Nothing was done yet; within a transaction, however, the failure has ended it, and only the first error says why. */
  async #again(text: string, values: unknown[], first: unknown): Promise<pg.QueryResult> {
    try {
      return await this.#client.query(text, values);
    } catch (error) {
      throw codeOf(error) === IN_FAILED_TRANSACTION ? first : error;
    }
  }
}

/** What was prepared is gone, or was made for tables that have changed since: a newer Berth has migrated the database. */
function isOutdated(error: unknown): boolean {
  const code = codeOf(error);
  return code === '26000' || (code === '0A000' && error instanceof Error && error.message.includes('cached plan'));
}
