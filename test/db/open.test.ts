import { describe, expect, test } from 'vitest';
import { databaseKinds, testDatabase } from '../support/database.js';

describe.each(databaseKinds)('a fresh test database on %s', (kind) => {
  test.each([1, 2, 3])('is migrated, %i', async () => {
    const database = await testDatabase(kind);
    const tiers = await database.db.selectFrom('tiers').select('name').orderBy('name').execute();
    expect(tiers.map((tier) => tier.name)).toEqual(['business', 'free', 'pro']);
    await database.close();
  });
});
