import type { PGlite } from '@electric-sql/pglite';

/** What a migrated database looked like before a test had it. */
interface Origin {
  shape: string;
  tables: string[];
  /** Rows that migrations have put there, as JSON, by table. */
  rows: Map<string, string>;
}

/**
 * Keeps one PGlite for the next test of the file. Loading another takes 0.7 s of processor time, emptying this one 0.03 s. It is
 * only used again when it looks as it did: a test that changes tables costs a new one.
 */
export class LitePool {
  readonly #make: () => Promise<PGlite>;
  readonly #origins = new WeakMap<PGlite, Origin>();
  #idle: PGlite | undefined;

  constructor(make: () => Promise<PGlite>) {
    this.#make = make;
  }

  async take(): Promise<PGlite> {
    const idle = this.#idle;
    this.#idle = undefined;
    if (idle) return idle;
    const lite = await this.#make();
    this.#origins.set(lite, await look(lite));
    return lite;
  }

  /** Nothing may use it any more. */
  async giveBack(lite: PGlite): Promise<void> {
    const origin = this.#origins.get(lite);
    if (this.#idle || !origin || !(await restore(lite, origin))) await lite.close();
    else this.#idle = lite;
  }

  async close(): Promise<void> {
    const idle = this.#idle;
    this.#idle = undefined;
    await idle?.close();
  }
}

async function look(lite: PGlite): Promise<Origin> {
  const { rows: tables } = await lite.query<{ name: string }>(
    `select quote_ident(tablename) as name from pg_tables where schemaname = 'public' and tablename not like 'migrations%'`,
  );
  const rows = new Map<string, string>();
  for (const { name } of tables) {
    const { rows: found } = await lite.query<{ json: string | null }>(`select json_agg(t)::text as json from ${name} t`);
    if (found[0]?.json) rows.set(name, found[0].json);
  }
  return { shape: await shapeOf(lite), tables: tables.map(({ name }) => name), rows };
}

/** Every relation, column, constraint and function, as far as their numbers go. */
async function shapeOf(lite: PGlite): Promise<string> {
  const { rows } = await lite.query<{ shape: string }>(`select concat_ws(' ',
    (select count(*) || '/' || max(oid) from pg_class), (select count(*) from pg_attribute),
    (select count(*) || '/' || max(oid) from pg_constraint), (select count(*) || '/' || max(oid) from pg_proc),
    (select count(*) from pg_namespace)) as shape`);
  return rows[0]!.shape;
}

async function restore(lite: PGlite, origin: Origin): Promise<boolean> {
  // One by one: several statements in one text would be a transaction, in which a session cannot be reset.
  await lite.exec('rollback');
  await lite.exec('discard all');
  if ((await shapeOf(lite)) !== origin.shape) return false;
  // Without foreign keys and triggers, so that the order of tables does not matter.
  await lite.exec('set session_replication_role = replica');
  await lite.exec(origin.tables.map((table) => `delete from ${table}`).join(';'));
  for (const [table, json] of origin.rows) {
    await lite.query(`insert into ${table} select * from json_populate_recordset(null::${table}, $1)`, [json]);
  }
  await lite.exec('select setval(seqrelid::regclass, seqstart, false) from pg_sequence; reset session_replication_role');
  return true;
}
