import {
  type KyselyPlugin,
  type PluginTransformQueryArgs,
  type PluginTransformResultArgs,
  type RootOperationNode,
  sql,
  type Transaction,
} from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Schema } from '../../src/db/schema.js';
import type { Topic } from '../../src/events/bus.js';
import { appendEvent } from '../../src/events/outbox.js';
import { type Answer, startApp, type TestApp } from '../support/app.js';
import { testDatabase } from '../support/database.js';
import { until } from '../support/until.js';

let app: TestApp;
beforeAll(async () => {
  app = await startApp({ database: 'postgres' });
});
afterAll(() => app.stop());

/** Sessions of this database that wait for a row somebody holds. */
async function waiting(): Promise<number> {
  const { rows } = await sql<{ n: number }>`
    select count(*)::int as n from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
    app.database.db,
  );
  return rows[0]?.n ?? 0;
}

/** Holds a deployment, as another writer would in the midst of its transaction, until `work` is done and its calls wait. */
async function whileHeld<T>(
  deploymentId: string,
  work: () => Promise<T>[],
  waits: number,
  then?: (trx: Transaction<Schema>) => Promise<unknown>,
): Promise<T[]> {
  return app.database.db
    .transaction()
    .execute(async (trx) => {
      await sql`update deployments set updated_at = now() where id = ${deploymentId}`.execute(trx);
      const calls = work();
      await until(async () => (await waiting()) >= waits, `${waits} to wait`);
      await then?.(trx);
      return calls;
    })
    .then((calls) => Promise.all(calls));
}

describe('changes at the same moment', () => {
  test('the last two agents, deleted at once, take their deployment with them', async () => {
    const user = await app.user();
    const [a] = [await app.agent(user, 'a'), await app.agent(user, 'b')];
    await app.ready(user);
    const answers = await whileHeld(
      a.deploymentId,
      () => ['a', 'b'].map((name) => app.call('DELETE', `/api/v1/agents/${name}`, { key: user.key })),
      2,
    );
    expect(answers.map((answer) => answer.status)).toEqual([202, 202]);
    await until(
      async () => (await app.get('/api/v1/deploy/status', user.key)).json.deployments.length === 0,
      'the deployment to go',
      5_000,
    );
  });

  test('an agent made while the last one is deleted does not land in a deployment that goes', async () => {
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'old');
    await app.ready(user);
    const call = {
      create: () => app.post('/api/v1/agents', user.key, { name: 'fresh' }),
      remove: () => app.call('DELETE', '/api/v1/agents/old', { key: user.key }),
    };
    const answers = await whileHeld(
      deploymentId,
      () => {
        const created = call.create();
        const removed = until(async () => (await waiting()) >= 1, 'the create to wait').then(call.remove);
        return [created, removed];
      },
      2,
    );
    expect(answers.map((answer) => answer.status)).toEqual([202, 202]);
    await app.ready(user, 10_000);
    const chat = await app.post('/api/v1/agents/fresh/chat', user.key, { messages: [{ role: 'user', content: 'hi' }] });
    expect(chat.status, chat.text).toBe(200);
  });

  test('an agent made while the reconciler writes an event of the same user is no deadlock', async () => {
    const user = await app.user();
    const { deploymentId } = await app.agent(user, 'a');
    await app.ready(user);
    const [answer] = await whileHeld(
      deploymentId,
      () => [app.post('/api/v1/agents', user.key, { name: 'b' })],
      1,
      (trx) => appendEvent(trx, user.id, { type: 'deployment.ready', actor: 'reconciler', requestId: null, payload: {} }),
    );
    expect(answer?.status, answer?.text).toBe(202);
  });

  test('of two rotations at once one key is left', async () => {
    const user = await app.user();
    const agent = await app.agent(user, 'a');
    const { answers } = await app.database.db.transaction().execute(async (trx) => {
      await sql`update api_keys set name = name where agent_id = ${agent.id}`.execute(trx);
      const calls = [1, 2].map(() => app.post('/api/v1/agents/a/rotate-key', user.key, undefined));
      await until(async () => (await waiting()) >= 2, 'both to wait');
      return { answers: calls };
    });
    const keys = (await Promise.all(answers)).map((answer) => answer.json.api_key as string);
    const statuses = await Promise.all(keys.map(async (key) => (await app.get('/api/v1/agents/a', key)).status));
    expect(statuses.toSorted()).toEqual([200, 401]);
  });

  test.each<[string, (key: string) => Promise<{ status: number; text: string }>]>([
    ['changed', (key) => app.call('PUT', '/api/v1/agents/a', { key, body: { description: 'x' } })],
    ['given a new key', (key) => app.post('/api/v1/agents/a/rotate-key', key, undefined)],
    ['given another key', (key) => app.post('/api/v1/keys', key, { kind: 'agent', agent: 'a' })],
  ])('an agent that is deleted while it is %s is not found', async (_, change) => {
    const user = await app.user();
    const [a] = [await app.agent(user, 'a'), await app.agent(user, 'b')];
    const { answer } = await app.database.db.transaction().execute(async (trx) => {
      await sql`select 1 from users where id = ${user.id} for no key update`.execute(trx);
      await sql`delete from agents where id = ${a.id}`.execute(trx);
      const call = change(user.key);
      await until(async () => (await waiting()) >= 1, 'it to wait');
      return { answer: call };
    });
    const { status, text } = await answer;
    expect(status, text).toBe(404);
  });
});

test('a user on the way out gets no new key', async () => {
  const user = await app.user();
  await app.agent(user, 'a');
  await app.ready(user);
  app.engine.goDown();
  expect((await app.call('DELETE', `/api/v1/users/${user.id}`, { key: app.adminKey })).status).toBe(202);
  const answer = await app.post(`/api/v1/users/${user.id}/keys`, app.adminKey, {});
  app.engine.comeBack();
  expect(answer.status, answer.text).toBe(404);
});

/** The answer to a call whose database is away from the moment that its change is announced. */
async function answeredDuringOutage(
  topic: Topic,
  call: (other: TestApp, user: { id: string; key: string }) => Promise<Answer>,
): Promise<Answer> {
  let down = false;
  class Outage implements KyselyPlugin {
    transformQuery({ node }: PluginTransformQueryArgs): RootOperationNode {
      if (down) throw new Error('the database is away');
      return node;
    }
    async transformResult({ result }: PluginTransformResultArgs) {
      return result;
    }
  }
  const own = await testDatabase('pglite');
  const other = await startApp({ database: { ...own, db: own.db.withPlugin(new Outage()) } });
  const user = await other.user();
  const end = other.database.bus.subscribe(topic, () => (down = true));
  const answer = await call(other, user);
  end();
  down = false;
  await other.stop();
  return answer;
}

test('a user that was deleted is answered so, even where its row is gone by then', async () => {
  const answer = await answeredDuringOutage('user', (other, user) =>
    other.call('DELETE', `/api/v1/users/${user.id}`, { key: user.key }),
  );
  expect(answer.status, answer.text).toBe(202);
});

test('a user that cannot be erased keeps no other from it', async () => {
  const [stuck, next] = [await app.user(), await app.user()];
  const { deploymentId } = await app.agent(next, 'a');
  // Nothing that Berth does leaves such a row.
  await sql`insert into agents (id, user_id, deployment_id, name, model, isolation, config_version) values ('agt_x', ${stuck.id}, ${deploymentId}, 'x', 'demo/echo', 'shared', 1)`.execute(
    app.database.db,
  );
  await sql`update users set deleting_at = now() - interval '1 hour' where id = ${stuck.id}`.execute(app.database.db);
  const other = await app.user();
  expect((await app.call('DELETE', `/api/v1/users/${other.id}`, { key: app.adminKey })).status).toBe(202);
  await until(
    async () => (await app.get(`/api/v1/users/${other.id}`, app.adminKey)).status === 404,
    'the other to be gone',
    10_000,
  );
  expect((await app.get(`/api/v1/users/${stuck.id}`, app.adminKey)).json.status).toBe('deleting');
});

test('every foreign key has an index, or a deletion would read all rows of all tenants', async () => {
  const { rows } = await sql<{ column: string }>`
    select c.conrelid::regclass || '.' || a.attname as column from pg_constraint c
    join pg_attribute a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
    where c.contype = 'f' and not exists (select from pg_index i where i.indrelid = c.conrelid and i.indkey[0] = c.conkey[1])`.execute(
    app.database.db,
  );
  // Tiers are never deleted.
  expect(rows.map((row) => row.column)).toEqual(['users.tier']);
});

test('agents that were made are answered with their keys, whatever happens to the database then', async () => {
  const answer = await answeredDuringOutage('deployment', (other, user) =>
    other.post('/api/v1/agents', user.key, [{ name: 'a' }, { name: 'b' }]),
  );
  expect(answer.status, answer.text).toBe(202);
  expect(answer.json.agents.map((agent: { name: string }) => agent.name)).toEqual(['a', 'b']);
});

describe('NUL', () => {
  test.each<[string, (key: string) => Promise<{ status: number; text: string }>]>([
    ['the agent of a key', (key) => app.post('/api/v1/keys', key, { kind: 'agent', agent: 'a\0b' })],
    ['a path: key', (key) => app.call('DELETE', '/api/v1/keys/a%00b', { key })],
    ['a path: agent', (key) => app.get('/api/v1/agents/a%00b', key)],
    ['a path: user', () => app.get('/api/v1/users/a%00b', app.adminKey)],
    [
      'a conversation',
      (key) => app.post('/api/v1/agents/a/chat', key, { conversation_id: 'a\0b', messages: [{ role: 'user', content: 'hi' }] }),
    ],
    [
      'an OpenAI user',
      (key) =>
        app.post('/v1/chat/completions', key, { model: 'berth/a', user: 'a\0b', messages: [{ role: 'user', content: 'hi' }] }),
    ],
  ])('in %s is refused', async (_, call) => {
    const user = await app.user();
    await app.agent(user, 'a');
    const { status, text } = await call(user.key);
    expect(status, text).toBeGreaterThanOrEqual(400);
    expect(status, text).toBeLessThan(500);
  });
});
