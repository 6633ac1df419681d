import { type Kysely, type Migration, Migrator, sql } from 'kysely';
import { migrations as all } from '../../migrations/index.js';
import { isConnectionLoss } from './errors.js';

// Any number will do as long as it stays: every process that migrates a database asks for this lock.
const LOCK = 7_263_409_915;
const TABLE = 'migrations';

/**
 * Brings the database to the newest migration of the list, in one transaction. Processes that start together wait for one
 * another. Returns the names of those that ran. A database that knows a migration this code does not was opened by a newer
 * Berth: that is refused before anything is changed.
 */
export async function migrate<T>(db: Kysely<T>, migrations: Record<string, Migration> = all): Promise<string[]> {
  return db.connection().execute(async (connection) => {
    // A migration may take longer than any request, and so may waiting for the process that runs it.
    await sql`select set_config('statement_timeout', '0', false)`.execute(connection);
    await sql`select pg_advisory_lock(${sql.lit(LOCK)})`.execute(connection);
    try {
      const done = await namesOf(connection);
      refuseNewerDatabase(done, migrations);
      // Kysely's own look takes four reads of the catalogue, half of an embedded database's start.
      return done.length === Object.keys(migrations).length ? [] : await run(connection, migrations);
    } finally {
      await unlock(connection);
    }
  });
}

async function unlock<T>(db: Kysely<T>): Promise<void> {
  try {
    await sql`select pg_advisory_unlock(${sql.lit(LOCK)})`.execute(db);
    await sql`reset statement_timeout`.execute(db);
  } catch (error) {
    // A connection that is gone has let go of its locks; the error that broke it is the one to report.
    if (!isConnectionLoss(error)) throw error;
  }
}

async function run<T>(db: Kysely<T>, migrations: Record<string, Migration>): Promise<string[]> {
  const migrator = new Migrator({
    db,
    provider: { getMigrations: () => Promise.resolve(migrations) },
    migrationTableName: TABLE,
    migrationLockTableName: `${TABLE}_lock`,
  });
  const { error, results = [] } = await migrator.migrateToLatest();
  if (!error) return results.map((result) => result.migrationName);
  const failed = results.find((result) => result.status === 'Error');
  throw new Error(failed ? `migration ${failed.migrationName} failed; nothing was changed` : 'the migrations cannot run', {
    cause: error,
  });
}

async function namesOf<T>(db: Kysely<T>): Promise<string[]> {
  const { rows: tables } = await sql<{ known: string | null }>`select to_regclass(${TABLE}) as known`.execute(db);
  if (!tables[0]?.known) return [];
  const { rows } = await sql<{ name: string }>`select name from ${sql.table(TABLE)} order by name`.execute(db);
  return rows.map((row) => row.name);
}

function refuseNewerDatabase(done: string[], migrations: Record<string, Migration>): void {
  const unknown = done.filter((name) => !Object.hasOwn(migrations, name));
  if (unknown.length === 0) return;
  throw new Error(
    `this database was migrated by a newer Berth (${unknown.join(', ')} unknown here); run that version, or restore the backup made before it`,
  );
}
