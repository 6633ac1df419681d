/** A connection to a database that nothing else uses meanwhile. */
export interface Session {
  query(text: string, values?: unknown[]): Promise<{ rows: unknown[] }>;
  /** Several statements in one text. */
  exec(text: string): Promise<unknown>;
}

/** How databases of one kind are made, looked at and destroyed. */
export interface Kind<T> {
  make(): Promise<T>;
  /** `work` gets a session of the database; whoever else is connected to it still is cut off first. */
  alone<R>(database: T, work: (session: Session) => Promise<R>): Promise<R>;
  destroy(database: T): Promise<void>;
}

/** What a migrated database looked like before a test had it. */
interface Origin {
  shape: string;
  tables: string[];
  /** Rows that migrations have put there, as JSON, by table. */
  rows: Map<string, string>;
}

/**
 * Keeps one database for the next test of the file. Loading another PGlite takes 0.7 s of processor time, another Postgres 0.1 s, emptying
 * either 0.03 s. It is only used again when it looks as it did: a test that changes tables costs a new one.
 */
export class DatabasePool<T extends object> {
  readonly #kind: Kind<T>;
  readonly #origins = new WeakMap<T, Origin>();
  #idle: T | undefined;

  constructor(kind: Kind<T>) {
    this.#kind = kind;
  }

  async take(): Promise<T> {
    const idle = this.#idle;
    this.#idle = undefined;
    if (idle) return idle;
    const database = await this.#kind.make();
    this.#origins.set(database, await this.#kind.alone(database, look));
    return database;
  }

  /** Nothing may use it any more. */
  async giveBack(database: T): Promise<void> {
    const origin = this.#origins.get(database);
    const isAsItWas = !this.#idle && origin && (await this.#kind.alone(database, (session) => restore(session, origin)));
    if (!isAsItWas || this.#idle) await this.#kind.destroy(database);
    else this.#idle = database;
  }

  async close(): Promise<void> {
    const idle = this.#idle;
    this.#idle = undefined;
    if (idle) await this.#kind.destroy(idle);
  }
}

async function look(session: Session): Promise<Origin> {
  const { rows: tables } = await session.query(
    `select quote_ident(tablename) as name from pg_tables where schemaname = 'public' and tablename not like 'migrations%'`,
  );
  const names = (tables as { name: string }[]).map(({ name }) => name);
  const { rows: found } = await session.query(
    names.map((name) => `select '${name}' as name, json_agg(t)::text as json from ${name} t`).join(' union all '),
  );
  const rows = (found as { name: string; json: string | null }[]).flatMap(({ name, json }) =>
    json === null ? [] : [[name, json] as const],
  );
  return { shape: await shapeOf(session), tables: names, rows: new Map(rows) };
}

/** Every relation, column, constraint and function, as far as their numbers go. */
async function shapeOf(session: Session): Promise<string> {
  const { rows } = await session.query(`select concat_ws(' ',
    (select count(*) || '/' || max(oid) from pg_class), (select count(*) from pg_attribute),
    (select count(*) || '/' || max(oid) from pg_constraint), (select count(*) || '/' || max(oid) from pg_proc),
    (select count(*) from pg_namespace)) as shape`);
  return (rows as { shape: string }[])[0]!.shape;
}

async function restore(session: Session, origin: Origin): Promise<boolean> {
  // One by one: several statements in one text would be a transaction, in which a session cannot be reset.
  await session.exec('rollback');
  await session.exec('discard all');
  if ((await shapeOf(session)) !== origin.shape) return false;
  // Without foreign keys and triggers, so that the order of tables does not matter.
  await session.exec('set session_replication_role = replica');
  await session.exec(origin.tables.map((table) => `delete from ${table}`).join(';'));
  for (const [table, json] of origin.rows) {
    await session.query(`insert into ${table} select * from json_populate_recordset(null::${table}, $1)`, [json]);
  }
  await session.exec('select setval(seqrelid::regclass, seqstart, false) from pg_sequence; reset session_replication_role');
  return true;
}
