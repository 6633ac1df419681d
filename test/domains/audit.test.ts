import { createPublicKey, verify as verifySignature } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { Audit } from '../../src/domains/audit/audit.js';
import { createLog } from '../../src/lib/log.js';
import { Vault } from '../../src/vault/vault.js';
import { startApp, type TestApp } from '../support/app.js';
import { databaseKinds } from '../support/database.js';
import { until } from '../support/until.js';
import { berth } from './audit-export.js';

interface Act {
  operation: string;
  outcome: string;
  [field: string]: unknown;
}

describe.each(databaseKinds)('the audit on %s', (kind) => {
  let app: TestApp;
  let user: { id: string; name: string; key: string };
  beforeAll(async () => {
    app = await startApp({ database: kind });
    user = await app.user();
  });
  afterAll(() => app.stop());

  const verify = async (query = '') => (await app.get(`/api/v1/audit/verify${query}`, app.adminKey)).json;
  const acts = async (query: string, key = app.adminKey, path = '/api/v1/admin/audit'): Promise<Act[]> => {
    const answer = await app.get(`${path}${query}`, key);
    expect(answer.status, answer.text).toBe(200);
    return answer.json.data;
  };
  /** The last act of an operation, once it has ended. */
  const last = async (operation: string): Promise<Act> => {
    let found: Act | undefined;
    await until(
      async () => {
        [found] = await acts(`?operation=${operation}&limit=1`);
        return found !== undefined && found.outcome !== 'open';
      },
      () => `${operation} to end: ${JSON.stringify(found)}`,
    );
    return found!;
  };
  const sealed = () => until(async () => (await verify()).unsealed === 0, 'all entries to be sealed');

  test('says of a change who made it, from where, to what, and how it ended', async () => {
    const path = `/api/v1/users/${user.name}/agents`;
    const answer = await app.post(path, user.key, { name: 'ada' }, { 'x-request-id': 'mine-1' });
    expect(answer.status).toBe(202);
    const made = await last('postUsersByUserAgents');
    expect(made).toMatchObject({
      actor: expect.stringMatching(/^user:key_/),
      person: user.name,
      address: '127.0.0.1',
      path,
      user_id: user.id,
      resource: answer.json.id,
      request_id: 'mine-1',
      outcome: 'done',
      status: 202,
      code: null,
      before_digest: null,
      request_digest: expect.stringMatching(/^[0-9a-f]{64}$/),
      after_digest: expect.stringMatching(/^[0-9a-f]{64}$/),
    });
  });

  test('keeps digests of what was there before and after; what is equal has equal ones, and no body is kept', async () => {
    const put = async (text: string) => {
      const answer = await app.call('PUT', '/api/v1/agents/ada/templates', { key: user.key, body: { 'SOUL.md': text } });
      expect(answer.status, answer.text).toBe(200);
      return last('putUsersByUserAgentsByAgentTemplates');
    };
    const [first, second] = [await put('a lighthouse'), await put('a harbour')];
    expect(first.before_digest).not.toBe(first.after_digest);
    expect(second.before_digest).toBe(first.after_digest);
    expect(second.request_digest).not.toBe(first.request_digest);
    const { rows } = await sql<{ all: string }>`select string_agg(e::text, ' ') as all from audit_entries e`.execute(
      app.database.db,
    );
    expect(rows[0]!.all).not.toMatch(/lighthouse|127\.0\.0\.1/);
  });

  test('a change that fails is there with its error, and one that is repeated with its key once', async () => {
    expect((await app.post('/api/v1/agents', user.key, { name: 'me' })).status).toBe(400);
    expect(await last('postUsersByUserAgents')).toMatchObject({ outcome: 'failed', status: 400, code: 'invalid_request' });
    const once = { 'idempotency-key': 'once' };
    const before = (await acts('?operation=postUsersByUserKeys')).length;
    for (let n = 0; n < 3; n++) expect((await app.post('/api/v1/keys', user.key, {}, once)).status).toBe(201);
    expect((await acts('?operation=postUsersByUserKeys')).length).toBe(before + 1);
  });

  test('nothing is changed while it cannot be put on record', async () => {
    await sql`alter table audit_open rename to audit_away`.execute(app.database.db);
    const refused = await app.post('/api/v1/users', app.adminKey, { name: 'nobody' });
    await sql`alter table audit_away rename to audit_open`.execute(app.database.db);
    expect([refused.status, refused.json.code]).toEqual([503, 'unavailable']);
    expect((await app.get('/api/v1/users/nobody', app.adminKey)).status).toBe(404);
  });

  test('an act whose process died is said to have been cut off, once', async () => {
    const vault = await Vault.open({ masterKey: Buffer.from(app.masterKey) });
    const parts = { db: app.database.db, bus: app.database.bus };
    const of = (processId: string) =>
      new Audit({ ...parts, vault, log: createLog('silent'), installationId: app.installation.id, processId });
    const asked = { requestId: 'req-dead', operation: 'theDead', caller: undefined, userId: user.id, address: '::1', path: '/x' };
    await of('p-dead').trail.begin({ ...asked, resource: undefined });
    expect((await acts('?operation=theDead'))[0]).toMatchObject({ outcome: 'open' });
    await Promise.all([of('p-a').tidy(), of('p-b').tidy()]);
    expect(await last('theDead')).toMatchObject({ outcome: 'cut_off', status: null });
    const ends = await sql`select from audit_entries where operation = 'theDead' and kind = 'ended'`.execute(app.database.db);
    expect(ends.rows.length).toBe(1);
  });

  test('whoever is refused is there: without a key, with one that may not, and for a stranger as for a neighbour', async () => {
    const neighbour = await app.user();
    await app.get('/api/v1/users', undefined);
    await app.get('/api/v1/users', user.key);
    await app.get(`/api/v1/users/${neighbour.id}/agents`, user.key);
    await until(async () => (await acts('?operation=getUsersByUserAgents')).length > 0, 'refusals to be written');
    const strangers = (await acts('?operation=getUsers')).filter(({ actor }) => actor === 'anonymous');
    expect(strangers).toMatchObject([
      { outcome: 'refused', status: 401, code: 'unauthorized', address: '127.0.0.1', user_id: null },
    ]);
    expect(await acts('?operation=getUsers')).toContainEqual(expect.objectContaining({ status: 403, user_id: user.id }));
    // On the record of who asked, and not of whom was asked about.
    expect(await acts('?operation=getUsersByUserAgents')).toMatchObject([{ status: 404, user_id: user.id, outcome: 'refused' }]);
  });

  test('a user sees its own, an admin all, and nobody another', async () => {
    await app.call('PUT', `/api/v1/users/${user.id}/tier`, { key: app.adminKey, body: { tier: 'business' } });
    const own = await acts('?limit=200', user.key, '/api/v1/users/me/audit');
    expect(own.every(({ user_id }) => user_id === user.id)).toBe(true);
    expect(own.map(({ actor }) => (actor as string).split(':')[0])).toContain('admin');
    expect(own.length).toBeLessThan((await acts('?limit=200')).length);
    const other = await app.user();
    expect((await app.get(`/api/v1/users/${user.id}/audit`, other.key)).status).toBe(404);
    const others = await acts('', other.key, '/api/v1/users/me/audit');
    expect(others.every(({ user_id }) => user_id === other.id)).toBe(true);
    expect((await app.get('/api/v1/audit', user.key)).status).toBe(403);
    const first = (await app.get('/api/v1/audit?limit=2', app.adminKey)).json;
    const second = await acts(`?limit=2&cursor=${first.pagination.next_cursor}`);
    expect(new Set([...first.data, ...second].map(({ id }: Act) => id)).size).toBe(4);
  });

  test('the key that signs outlives a change of the master key', async () => {
    await sealed();
    const before = (await app.get('/api/v1/audit/head', app.adminKey)).json;
    expect((await app.post('/api/v1/vault/rotations', app.adminKey, undefined)).status).toBe(202);
    const current = async () => (await app.get('/api/v1/vault/rotations/current', app.adminKey)).json;
    await until(async () => (await current()).state === 'done', 'the rotation to end');
    const { to_key: newKey } = await current();
    const keys = await app.database.db.selectFrom('audit_keys').selectAll().executeTakeFirstOrThrow();
    expect([keys.seed, keys.data_key].map((bytes) => bytes.toString('hex', 1, 9))).toEqual([newKey, newKey]);
    await sealed();
    const after = (await app.get('/api/v1/audit/head', app.adminKey)).json;
    expect(after.public_key).toBe(before.public_key);
    expect(after.seq).toBeGreaterThan(before.seq);
    expect(await verify(`?earlier_seq=${before.seq}&earlier_hash=${before.hash}`)).toMatchObject({ ok: true, findings: [] });
    // What was sealed under the key before opens as well.
    expect(await last('postUsersByUserAgents')).toMatchObject({ address: '127.0.0.1' });
  });

  test('a deleted user leaves digests, a signed receipt, and a chain that holds', async () => {
    const gone = await app.user();
    await app.agent(gone, 'secret-diary');
    await app.ready(gone);
    const { id: keyId } = (await app.post('/api/v1/keys', gone.key, {}, { 'x-request-id': 'of-the-gone' })).json;
    await app.get('/api/v1/users', gone.key);
    await sealed();
    const { id: agentId } = (await app.get('/api/v1/agents/secret-diary', gone.key)).json;
    expect((await app.call('DELETE', '/api/v1/users/me', { key: gone.key })).status).toBe(202);
    await until(async () => (await app.get(`/api/v1/users/${gone.id}`, app.adminKey)).status === 404, 'the user to be gone');
    await sealed();
    const { rows } = await sql<{ all: string }>`
      select string_agg(e::text, ' ') || (select coalesce(string_agg(o::text, ' '), '') from audit_open o) as all from audit_entries e`.execute(
      app.database.db,
    );
    for (const word of [gone.id, gone.name, keyId, agentId, 'of-the-gone', 'secret-diary'])
      expect(rows[0]!.all.includes(word), word).toBe(false);
    expect(await verify()).toMatchObject({ ok: true, findings: [] });

    const receipt = (await app.get(`/api/v1/audit/receipts/${gone.id}`, app.adminKey)).json;
    expect(JSON.stringify(receipt)).not.toContain(gone.id);
    const { installation, user_digest: digest, entry, at, signature, public_key: publicKey } = receipt;
    const key = createPublicKey({
      key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(publicKey, 'base64').toString('base64url') },
      format: 'jwk',
    });
    const text = ['berth deletion receipt 1', installation, digest, entry, at].join('\n');
    expect(verifySignature(null, Buffer.from(text), key, Buffer.from(signature, 'base64'))).toBe(true);
    expect((await app.get(`/api/v1/audit/receipts/${user.id}`, app.adminKey)).status).toBe(404);
    const folder = await mkdtemp(join(tmpdir(), 'audit-'));
    expect(await berth(app, ['audit', 'export', join(folder, 'a.jsonl')])).toMatchObject({ code: 0 });
    expect(await berth(app, ['audit', 'verify', join(folder, 'a.jsonl'), '--key', publicKey])).toMatchObject({
      code: 0,
      output: expect.stringMatching(/^Whole: \d+ entries/),
    });
    await rm(folder, { recursive: true });
  });

  test('entries that were written are neither changed nor removed, by mistake', async () => {
    const { db } = app.database;
    await expect(sql`update audit_entries set operation = 'x'`.execute(db)).rejects.toThrow(/never changed/);
    await expect(sql`update audit_entries set seq = seq + 1`.execute(db)).rejects.toThrow(/never changed/);
    await expect(sql`delete from audit_entries`.execute(db)).rejects.toThrow(/never removed/);
    await expect(sql`truncate audit_entries`.execute(db)).rejects.toThrow(/never removed/);
  });

  test('a chain with thousands of links is checked in parts that fit', async () => {
    const { head } = await verify();
    const half = Math.floor(head.seq / 2);
    expect(await verify(`?after=${half}`)).toMatchObject({ ok: true, checked: head.seq - half, next: null });
  });
});
