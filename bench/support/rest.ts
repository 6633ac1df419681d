import type pg from 'pg';
import type { Berth } from './berth.js';

/** Rests all that a user has, as the idle job does, only sooner. */
export async function restAll(berth: Berth, client: pg.Client, user: { id: string; key: string }, rest: 'paused' | 'stopped') {
  const wish = (only = '') =>
    client.query(
      `update deployments set rest = $2, idle_at = null, due_at = now(), wish = wish + 1
       where user_id = $1 and rest is distinct from $2 ${only}`,
      [user.id, rest],
    );
  await wish();
  await berth.child.until(async () => {
    const { deployments } = await berth.call('GET', `/api/v1/users/${user.id}/deploy/status`, user.key);
    // What works still, by the look that Berth keeps on uses, is left awake: wished anew.
    if (deployments.some((one: { rest: string | null }) => one.rest === null)) await wish('and rest is null');
    const sleeps = (one: { state: string; rest: string | null }) => one.state === 'asleep' && one.rest === rest;
    return deployments.every(sleeps) || undefined;
  }, 300_000);
}
