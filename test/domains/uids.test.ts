import { sql } from 'kysely';
import { expect, test } from 'vitest';
import { takeUid } from '../../src/domains/installation/installation.js';
import { databaseKinds, testDatabase } from '../support/database.js';

test.each(databaseKinds)('uids never leave the range of the installation, on %s', async (kind) => {
  const { db } = await testDatabase(kind);
  await sql`insert into installation (id, uid_base, next_uid, pepper, key_check) values ('itl_a', 1000000, 1099998, '', '')`.execute(
    db,
  );
  await sql`insert into users (id, name, tier, data_key) values ('usr_a', 'a', 'free', '')`.execute(db);
  await sql`insert into deployments (id, user_id, kind, uid, volume) values ('dep_1', 'usr_a', 'dedicated', 1000000, 'v')`.execute(
    db,
  );
  const take = () => db.transaction().execute((trx) => takeUid(trx));
  // The first is still in use when its turn comes again.
  expect([await take(), await take(), await take()]).toEqual([1_099_998, 1_099_999, 1_000_001]);
});
