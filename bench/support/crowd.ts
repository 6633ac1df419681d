import { type Kysely, sql } from 'kysely';
import type { Schema } from '../../src/db/schema.js';

/** Users with an agent each, whose deployments are settled: by SQL, since by the API they would take hours. Numbered from `from` to before `to`. */
export async function addCrowd(db: Kysely<Schema>, from: number, to: number, state: 'asleep' | 'pending'): Promise<void> {
  const rows = sql`generate_series(${sql.lit(from)}, ${sql.lit(to - 1)}) n`;
  const id = (prefix: string) => sql`${sql.lit(`${prefix}_`)} || lpad(n::text, 26, '0')`;
  const isSettled = state === 'asleep';
  await sql`insert into users (id, name, tier, data_key) select ${id('usr')}, 'crowd' || n, 'business', '' from ${rows}`.execute(
    db,
  );
  await sql`insert into deployments (id, user_id, kind, uid, volume, state, rest, due_at, generation, config_version)
    select ${id('dep')}, ${id('usr')}, 'shared', n, 'crowd-' || n, ${state}, ${isSettled ? 'stopped' : null},
      case when ${!isSettled} then now() end, ${isSettled ? 1 : 0}, 1 from ${rows}`.execute(db);
  await sql`insert into agents (id, user_id, deployment_id, name, model, isolation, config_version, beat_planned)
    select ${id('agt')}, ${id('usr')}, ${id('dep')}, 'agent', 'demo/echo', 'shared', 1, 1 from ${rows}`.execute(db);
  await sql`insert into api_keys (id, kind, user_id, name, digest, hint)
    select ${id('key')}, 'user', ${id('usr')}, 'crowd', decode(md5(n::text), 'hex'), 'xxxx' from ${rows}`.execute(db);
  if (isSettled) {
    await sql`insert into instances (id, deployment_id, user_id, generation, name, spec_hash, token_digest, applied_version, started_at, stopped_at)
      select ${id('ins')}, ${id('dep')}, ${id('usr')}, 1, 'crowd-' || n, '', md5(n::text), 1, now(), now() from ${rows}`.execute(
      db,
    );
  }
  // As they are decided for agents without a HEARTBEAT.md.
  await sql`insert into heartbeats (agent_id, user_id, every_ms, next_at)
    select ${id('agt')}, ${id('usr')}, 1800000, null from ${rows}`.execute(db);
  await sql`analyze`.execute(db);
}
