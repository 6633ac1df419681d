import { constants } from 'node:fs';
import { access, statfs } from 'node:fs/promises';
import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { withDeadline } from '../../lib/deadline.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Runtime } from '../../runtime/runtime.js';
import type { Part, ReadyAnswer } from './health.schema.js';
import * as store from './health.store.js';

const CHECK_TIMEOUT_MS = 3_000;
/** Less is soon nothing: the embedded database, sockets and keys are written there. */
const LEAST_FREE_BYTES = 256 * 1024 * 1024;

export interface HealthOptions {
  db: Kysely<Schema>;
  runtime: Runtime;
  /** Throws unless the vault has the key that the database is sealed with. */
  checkVault: () => Promise<void>;
  dataDir: string;
  linkDir: string;
}

/** Whether Berth can do its work: without its database or its keys nothing, without its engine all but new containers. */
export class Health {
  readonly #options: HealthOptions;

  constructor(options: HealthOptions) {
    this.#options = options;
  }

  async ready(): Promise<ReadyAnswer> {
    const { db, runtime, checkVault, dataDir, linkDir } = this.#options;
    const [database, vault, engine, links, disk] = await Promise.all([
      part('database', () => store.askAcrossTenants(db).then(() => 'answers')),
      part('vault', () => checkVault().then(() => 'has the key')),
      part('engine', async () => {
        const { name, version } = await runtime.check();
        return `${name} ${version}`;
      }),
      part('link folder', () => access(linkDir, constants.W_OK | constants.X_OK).then(() => 'can be written')),
      part('disk', () => freeOf(dataDir)),
    ]);
    const parts = { database, vault, engine, links, disk };
    const isDown = (...of: Part[]) => of.some(({ status }) => status !== 'ok');
    return { status: isDown(database, vault) ? 'unavailable' : isDown(engine, links, disk) ? 'degraded' : 'ready', parts };
  }
}

async function freeOf(dataDir: string): Promise<string> {
  const { bavail, bsize } = await statfs(dataDir);
  const free = bavail * bsize;
  const said = `${(free / 1024 ** 3).toFixed(1)} GiB free`;
  if (free < LEAST_FREE_BYTES) throw new AppError('insufficient_storage', said);
  return said;
}

async function part(name: string, ask: () => Promise<string>): Promise<Part> {
  try {
    return { status: 'ok', detail: await withDeadline(name, CHECK_TIMEOUT_MS, ask) };
  } catch (error) {
    // Said to anybody who asks, so it holds no more than our own words.
    return { status: 'unavailable', detail: error instanceof AppError ? messageOf(error) : `the ${name} does not answer` };
  }
}
