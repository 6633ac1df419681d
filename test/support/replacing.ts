import { sql } from 'kysely';
import type { TestApp } from './app.js';
import type { TestDatabase } from './database.js';
import { until } from './until.js';

type With = Pick<TestApp, 'database'> | { database: TestDatabase };

/** The instances of a deployment that live, the current one first. */
export async function liveInstances({ database }: With, deploymentId: string) {
  return database.db
    .selectFrom('instances')
    .select(['id', 'name', 'role', 'generation', 'started_at', 'handing_at', 'handed_at'])
    .where('deployment_id', '=', deploymentId)
    .where('ended_at', 'is', null)
    .orderBy('generation')
    .execute();
}

/** Wishes another image, as a change of an agent's config does. */
export async function wishImage({ database }: With, deploymentId: string, image: string | null): Promise<void> {
  await database.db
    .updateTable('deployments')
    .set({ image, due_at: sql<Date>`now()`, wish: sql<string>`wish + 1` })
    .where('id', '=', deploymentId)
    .execute();
}

/** Waits until one instance lives, of a later generation than that. */
export async function untilReplaced(app: With, deploymentId: string, before: number, withinMs = 40_000): Promise<void> {
  let seen = '';
  await until(
    async () => {
      const all = await liveInstances(app, deploymentId);
      seen = JSON.stringify(all);
      return all.length === 1 && all[0]!.role === 'current' && all[0]!.generation > before;
    },
    () => `the instance to be replaced: ${seen}`,
    withinMs,
  );
}
