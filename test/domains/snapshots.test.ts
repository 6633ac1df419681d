import { createHash } from 'node:crypto';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { startApp, type TestApp } from '../support/app.js';
import { tar, type TarEntry } from '../support/archives.js';
import { Desk } from '../support/snapshot-desk.js';
import { until } from '../support/until.js';

// A machine that does much else takes its time to start containers, which these tests do many times.
vi.setConfig({ testTimeout: 180_000 });

let app: TestApp;
beforeAll(async () => {
  app = await startApp({ runtime: 'process', env: { UNDELETE_HOURS: '24' }, app: { snapshots: { everyMs: 200 } } });
});
afterAll(() => app.stop());

const newDesk = async (): Promise<Desk> => new Desk(app, await app.user());

describe('a restore in place', () => {
  test('puts workspace, memory, conversations and journal back, and can itself be undone', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'before');
    const { conversation_id: conversation } = await desk.say('a', 'first');
    const snapshot = await desk.take('a');
    await desk.write('a', 'kept.txt', 'after');
    await desk.write('a', 'new.txt', 'after');
    await desk.say('a', 'second', conversation);
    expect((await desk.say('a', '/history', conversation)).message).toContain('second');

    const { status, json: restore } = await desk.post('a', `snapshots/${snapshot}/restore`);
    expect(status).toBe(202);
    await desk.restored('a', restore);
    expect((await desk.read('a', 'kept.txt')).text).toBe('before');
    expect((await desk.read('a', 'new.txt')).status).toBe(404);
    const history = (await desk.say('a', '/history', conversation)).message;
    expect(history).toContain('first');
    expect(history).not.toContain('second');
    expect((await desk.get('a', `restores/${restore.id}`)).json).toMatchObject({ state: 'done', turns_removed: 2 });

    const undo = await desk.post('a', `snapshots/${restore.before_id}/restore`, { keep_current: false });
    await desk.restored('a', undo.json);
    expect((await desk.read('a', 'kept.txt')).text).toBe('after');
    expect((await desk.read('a', 'new.txt')).text).toBe('after');
    expect((await desk.say('a', '/history', conversation)).message).toContain('second');
  });
});

describe('a duplicate', () => {
  test('with state has files, memory and settings of its own from then on; without it has the settings alone', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a', { instructions: 'Be brief.', description: 'first' });
    await app.call('PUT', desk.at('a', 'templates'), { key: desk.user.key, body: { 'SOUL.md': 'I am {{agent.name}}.' } });
    await app.call('PATCH', desk.at('a', 'config'), { key: desk.user.key, body: { max_steps: 7 } });
    await app.call('PUT', desk.at('a', 'secrets/TOKEN'), { key: desk.user.key, body: { value: 'not-for-others' } });
    await desk.write('a', 'kept.txt', 'of a');
    const { conversation_id: conversation } = await desk.say('a', 'remember me');

    const whole = await desk.post('a', 'duplicate', { name: 'b' });
    expect(whole).toMatchObject({ status: 202, json: { name: 'b', instructions: 'Be brief.', description: 'first' } });
    const bare = await desk.post('a', 'duplicate', { name: 'c', state: false });
    expect((await desk.post('a', 'duplicate', { name: 'c' })).status).toBe(409);
    await desk.restored('b', whole.json.restore);
    await desk.restored('c', bare.json.restore);

    expect((await desk.read('b', 'kept.txt')).text).toBe('of a');
    expect((await desk.read('c', 'kept.txt')).status).toBe(404);
    for (const name of ['b', 'c']) {
      expect((await desk.get(name, 'config')).json.config.max_steps).toBe(7);
      expect((await desk.get(name, 'templates')).json.templates['SOUL.md'].rendered).toBe(`I am ${name}.`);
      expect((await desk.get(name, 'secrets')).text).not.toContain('TOKEN');
    }
    const { rows } = await sql<{ id: string; said: number }>`select c.id, count(t.id)::int as said from conversations c
      join turns t on t.conversation_id = c.id where c.agent_id = ${whole.json.id} group by c.id`.execute(app.database.db);
    expect(rows).toMatchObject([{ said: 1 }]);
    expect(rows[0]!.id).not.toBe(conversation);
    expect((await desk.say('b', '/history', rows[0]!.id)).message).toContain('remember me');
    await desk.write('b', 'kept.txt', 'of b');
    expect((await desk.read('a', 'kept.txt')).text).toBe('of a');
    // What was taken for the copying alone is gone.
    expect(await desk.files()).toEqual([]);
  });
});

describe('an agent whose state did not come', () => {
  test('cannot be kept, and says so instead of waiting for it', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    const { json: made } = await desk.post('a', 'duplicate', { name: 'b' });
    // Before its container is there, so that nothing of it can have been taken.
    expect((await app.call('DELETE', '/api/v1/agents/a', { key: desk.user.key })).status).toBeLessThan(300);
    await until(
      async () => (await desk.get('b', `restores/${made.restore.id}`)).json.state === 'failed',
      'the restore to fail',
      60_000,
    );
    const { json: snapshot } = await desk.post('b', 'snapshots');
    const now = async () => (await desk.get('b', `snapshots/${snapshot.id}`)).json;
    await until(async () => (await now()).state === 'failed', 'the snapshot to fail', 60_000);
    expect(await now()).toMatchObject({ reason: 'the agent has no state: none came' });
  });
});

describe('an export', () => {
  test('is the same bytes each time, says its digest, and becomes an agent of another user with all it had', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a', { instructions: 'Be brief.' });
    await app.call('PUT', desk.at('a', 'secrets/TOKEN'), { key: desk.user.key, body: { value: 'not-for-others' } });
    await desk.write('a', 'notes/kept.txt', 'of a');
    await desk.say('a', 'remember me');
    const bytes = await exportOf(desk, 'a', await desk.take('a'));
    expect(bytes.includes('not-for-others')).toBe(false);
    expect(bytes.includes(desk.user.key)).toBe(false);

    const other = await newDesk();
    const { status, json } = await importTo(other, 'b', bytes);
    expect({ status, instructions: json.instructions }).toEqual({ status: 202, instructions: 'Be brief.' });
    await other.restored('b', json.restore);
    expect((await other.read('b', 'notes/kept.txt')).text).toBe('of a');
    const { rows } = await sql<{ id: string }>`select id from conversations where agent_id = ${json.id}`.execute(app.database.db);
    expect((await other.say('b', '/history', rows[0]!.id)).message).toContain('remember me');
    expect((await importTo(other, 'b', bytes)).status).toBe(409);
    // What came is a snapshot of the new agent, and goes on as the same file but for its name and time.
    const { data } = (await other.get('b', 'snapshots')).json;
    expect(data).toMatchObject([{ kind: 'imported', state: 'ready' }]);
  });

  test('that is damaged, lies or has more in it than it may is refused whole', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'of a');
    await desk.say('a', 'remember me');
    const good = membersOf(await exportOf(desk, 'a', await desk.take('a')));
    const before = await desk.files();
    const state = (...entries: TarEntry[]) => tar([{ name: 'workspace/', type: '5' }, ...entries]);
    const hostile: Record<string, [says: string, bytes: Buffer]> = {
      nothing: ['ends before manifest.json|is no tar', Buffer.alloc(0)],
      'something else': ['is no tar', Buffer.from('x'.repeat(5_000))],
      'cut in its state': ['ends too early', sealed(good).subarray(0, -6_000)],
      'cut before its end': ['ends too early|SHA256SUMS', sealed(good).subarray(0, -2_048)],
      'a flipped byte of a file': ['checksums', flipped(sealed(good), 'of a')],
      'a flipped byte of the journal': ['checksums', flipped(sealed(good), 'remember me')],
      'a checksum that is another': [
        'checksums',
        tar(entriesOf({ ...good, SHA256SUMS: good['SHA256SUMS']!.replace(/[0-9a-f]/, 'g') })),
      ],
      'a name that leads out': [
        'plain path',
        sealed({ ...good, 'state.tar': state({ name: 'workspace/../../../etc/cron.d/x', bytes: 'x' }) }),
      ],
      'an absolute name': ['plain path', sealed({ ...good, 'state.tar': state({ name: '/etc/x', bytes: 'x' }) })],
      'something beside the parts': [
        'something else than workspace',
        sealed({ ...good, 'state.tar': state({ name: 'secrets/x', bytes: 'x' }) }),
      ],
      'a link that leads out': [
        'link that leads out',
        sealed({ ...good, 'state.tar': state({ name: 'workspace/l', type: '2', target: '/etc/passwd' }) }),
      ],
      'a hard link': [
        'hard links',
        sealed({ ...good, 'state.tar': state({ name: 'workspace/l', type: '1', target: '/etc/passwd' }) }),
      ],
      'a device': ['devices', sealed({ ...good, 'state.tar': state({ name: 'workspace/d', type: '3' }) })],
      'a pipe': ['devices', sealed({ ...good, 'state.tar': state({ name: 'workspace/p', type: '6' }) })],
      'a file that says it is vast': [
        'ends too early',
        sealed({
          ...good,
          'state.tar': state({ name: 'workspace/v', bytes: 'x', size: 8_589_934_591 }),
        }),
      ],
      'a state that is no tar': ['state is no tar', sealed({ ...good, 'state.tar': Buffer.from('x'.repeat(2_048)) })],
      'secrets in its manifest': [
        'manifest that cannot be taken',
        sealed(good, (manifest) => ({ ...manifest, secrets: { TOKEN: 'x' } })),
      ],
      'secrets among its settings': [
        'manifest that cannot be taken',
        sealed(good, (manifest) => ({
          ...manifest,
          settings: { ...manifest.settings, secrets: {} },
        })),
      ],
      'a manifest that is not JSON': ['not JSON', tar(entriesOf({ ...good, 'manifest.json': '{' }))],
      'a journal of nobody': ['none of a journal', sealed({ ...good, 'journal.jsonl': '{"turn":{"id":"x"}}\n' })],
      'one member more': ['more in it', tar([...entriesOf(good), { name: 'secrets.json', bytes: '{}' }])],
      'one member twice': ['in this order', tar([...entriesOf(good).slice(0, 2), ...entriesOf(good).slice(1)])],
      'another order': ['in this order', tar(entriesOf(good).toReversed())],
      'a link for a member': [
        'in this order',
        tar(entriesOf(good).map((one, i) => (i === 1 ? { name: one.name, type: '2', target: 'x' } : one))),
      ],
    };
    for (const [what, [says, bytes]] of Object.entries(hostile)) {
      const answer = await importTo(desk, 'b', bytes);
      expect({ what, status: answer.status, text: answer.text }).toMatchObject({ what, status: 422 });
      expect(answer.text, what).toMatch(new RegExp(says));
      expect(answer.text).not.toMatch(/etc|TOKEN|remember/);
    }
    expect(
      await importTo(
        desk,
        'b',
        sealed(good, (manifest) => tooMuch(manifest)),
      ),
    ).toMatchObject({ status: 413 });
    expect((await desk.get('b', '')).status).toBe(404);
    expect(await desk.files()).toEqual(before);
    const { data } = (await app.get(`/api/v1/users/${desk.user.id}/agents`, desk.user.key)).json;
    expect(data).toHaveLength(1);
    // What is only odd is made plain: nobody gets rights by a mode.
    const odd = state({ name: 'workspace/s', bytes: '#!/bin/sh', mode: 0o6755 });
    const { json } = await importTo(desk, 'b', sealed({ ...good, 'state.tar': odd }));
    await desk.restored('b', json.restore);
    expect((await desk.read('b', 's')).text).toBe('#!/bin/sh');
  });
});

describe('an agent that was deleted', () => {
  test('comes back with what it had, as long as that is kept; its name is free at once', async () => {
    const desk = await newDesk();
    const { id } = await app.agent(desk.user, 'a', { instructions: 'Be brief.' });
    await desk.write('a', 'kept.txt', 'of the first');
    const { conversation_id: conversation } = await desk.say('a', 'remember me');
    await app.call('DELETE', '/api/v1/agents/a', { key: desk.user.key });
    await app.agent(desk.user, 'a');
    expect((await desk.read('a', 'kept.txt')).status).toBe(404);
    const { data } = (await app.get(`/api/v1/users/${desk.user.id}/deleted-agents`, desk.user.key)).json;
    expect(data).toMatchObject([{ id, name: 'a' }]);

    expect((await desk.post('a', 'undelete')).status).toBe(409);
    const back = await desk.post(id, 'undelete', { name: 'old' });
    expect(back).toMatchObject({ status: 202, json: { id, name: 'old', instructions: 'Be brief.' } });
    await desk.restored('old', back.json.restore);
    expect((await desk.read('old', 'kept.txt')).text).toBe('of the first');
    expect((await desk.say('old', '/history', conversation)).message).toContain('remember me');
    expect((await desk.read('a', 'kept.txt')).status).toBe(404);

    await app.call('DELETE', '/api/v1/agents/old', { key: desk.user.key });
    const kept = async () => (await app.get(`/api/v1/users/${desk.user.id}/deleted-agents`, desk.user.key)).json.data;
    await until(async () => (await kept())[0]?.snapshot.state === 'ready', 'the last snapshot');
    await sql`update snapshots set expires_at = now() where agent_id = ${id}`.execute(app.database.db);
    expect((await desk.post(id, 'undelete')).status).toBe(404);
    await until(async () => (await desk.files()).length === 0, 'the files of the expired to go');
  });

  test('was the only one of its container: that goes once the last snapshot is there', async () => {
    const desk = await newDesk();
    const { id } = await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'alone');
    await app.call('DELETE', '/api/v1/agents/a', { key: desk.user.key });
    await app.ready(desk.user);
    await until(
      async () => (await app.get(`/api/v1/users/${desk.user.id}/deploy/status`, desk.user.key)).json.deployments.length === 0,
      'the container to go',
    );
    const back = await desk.post('a', 'undelete');
    await desk.restored('a', back.json.restore);
    expect((await desk.read('a', 'kept.txt')).text).toBe('alone');
    expect(back.json.id).toBe(id);
  });

  test('stays gone with its user, files and all', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'x');
    await desk.take('a');
    await app.call('DELETE', '/api/v1/agents/a', { key: desk.user.key });
    expect(await desk.files()).not.toEqual([]);
    await app.call('DELETE', `/api/v1/users/${desk.user.id}`, { key: app.adminKey });
    await until(
      async () => (await app.get(`/api/v1/users/${desk.user.id}`, app.adminKey)).status === 404,
      'the user to go',
      60_000,
    );
    const folders = await readdir(join(app.dataDir, 'snapshots'));
    expect(folders).not.toContain(desk.user.id);
    for (const table of ['snapshots', 'restores', 'snapshot_schedules', 'kept_lines']) {
      const { rows } = await sql`select 1 from ${sql.table(table)} where user_id = ${desk.user.id}`.execute(app.database.db);
      expect(rows).toEqual([]);
    }
  });
});

describe('what goes wrong', () => {
  test('a second restore of an agent is refused while one runs; a snapshot in use is not deleted', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'x');
    const snapshot = await desk.take('a');
    const answers = await Promise.all([1, 2].map(() => desk.post('a', `snapshots/${snapshot}/restore`)));
    expect(answers.map(({ status }) => status).toSorted()).toEqual([202, 409]);
    const remove = await app.call('DELETE', desk.at('a', `snapshots/${snapshot}`), { key: desk.user.key });
    expect(remove.status).toBe(409);
    await desk.restored('a', answers.find(({ status }) => status === 202)!.json);
    expect((await desk.read('a', 'kept.txt')).text).toBe('x');
    const files = await desk.files();
    expect((await app.call('DELETE', desk.at('a', `snapshots/${snapshot}`), { key: desk.user.key })).status).toBe(204);
    expect(await desk.files()).toEqual(files.filter((name) => !name.startsWith(snapshot)));
  });

  test('a file that was altered changes nothing, and says so', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'before');
    const snapshot = await desk.take('a');
    await desk.write('a', 'kept.txt', 'now');
    const path = join(app.dataDir, 'snapshots', desk.user.id, `${snapshot}.snapshot`);
    const bytes = await readFile(path);
    expect(bytes.includes('before')).toBe(false);
    bytes[bytes.length - 20]! ^= 1;
    await writeFile(path, bytes);
    const { json } = await desk.post('a', `snapshots/${snapshot}/restore`, { keep_current: false });
    await desk.ended('a', `restores/${json.id}`, 'failed');
    expect((await desk.get('a', `restores/${json.id}`)).json.reason).toMatch(/altered or is damaged/);
    expect((await desk.read('a', 'kept.txt')).text).toBe('now');
    expect((await desk.say('a', 'still here')).message).toBeDefined();
  });

  test('snapshots take no more than the tier allows, and the refusal has the figures', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'x');
    const snapshot = await desk.take('a');
    const fill = (bytes: number) => sql`update snapshots set bytes = ${bytes} where id = ${snapshot}`.execute(app.database.db);
    const { rows } = await sql<{ mib: number }>`select disk_mib as mib from tiers where name = 'pro'`.execute(app.database.db);
    const allowed = 2 * rows[0]!.mib * 1024 * 1024;
    await fill(allowed - 100);
    const { json } = await desk.post('a', 'snapshots');
    await desk.ended('a', `snapshots/${json.id}`, 'failed');
    expect((await desk.get('a', `snapshots/${json.id}`)).json.reason).toContain(String(allowed));
    await fill(allowed);
    const refused = await desk.post('a', 'snapshots');
    expect(refused.status).toBe(507);
    expect(refused.text).toContain(String(allowed));
    expect((await desk.files()).length).toBe(1);
  });
});

describe('a schedule', () => {
  test('takes snapshots by itself and keeps the newest; those that a user took stay', async () => {
    const desk = await newDesk();
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'x');
    const own = await desk.take('a');
    const put = (body: object) => app.call('PUT', desk.at('a', 'snapshot-schedule'), { key: desk.user.key, body });
    expect((await put({ cron: '0 3 * * *', time_zone: 'Europe/Berlin', keep: 1 })).json).toMatchObject({
      keep: 1,
      every_s: null,
    });
    expect((await put({ every_s: 3_600, keep: 1 })).json).toMatchObject({ every_s: 3_600, cron: null });
    const list = async () => (await desk.get('a', 'snapshots')).json.data as { id: string; kind: string; state: string }[];
    const seen = new Set<string>();
    for (let round = 1; round <= 2; round++) {
      await sql`update snapshot_schedules set next_at = now() where user_id = ${desk.user.id}`.execute(app.database.db);
      await until(async () => {
        for (const { id, kind, state } of await list()) if (kind === 'scheduled' && state === 'ready') seen.add(id);
        return seen.size === round;
      }, `snapshot ${round} of the schedule`);
    }
    await until(async () => (await list()).length === 2, 'the older one to go');
    expect((await list()).map(({ id }) => id)).toEqual([[...seen][1], own]);
    expect((await app.call('DELETE', desk.at('a', 'snapshot-schedule'), { key: desk.user.key })).status).toBe(204);
    expect((await desk.get('a', 'snapshot-schedule')).status).toBe(404);
    for (const [body, path] of [
      [{ cron: '* * * * *', keep: 1 }, 'cron'],
      [{ cron: '0 0 31 2 *', keep: 1 }, 'cron'],
      [{ cron: 'often', keep: 1 }, 'cron'],
      [{ every_s: 10, keep: 1 }, 'every_s'],
      [{ cron: '0 3 * * *', every_s: 600, keep: 1 }, 'cron'],
      [{ cron: '0 3 * * *', time_zone: 'Mars', keep: 1 }, 'time_zone'],
      [{ every_s: 600, keep: 0 }, 'keep'],
    ] as const) {
      const answer = await put(body);
      expect({ body, status: answer.status, fields: answer.json.fields }).toMatchObject({ status: 400, fields: [{ path }] });
    }
  });
});

// ---- exports, taken apart and put together ---------------------------------------------------------------------------------

async function exportOf(desk: Desk, agent: string, snapshot: string): Promise<Buffer> {
  const download = async () => {
    const response = await fetch(`${app.url}${desk.at(agent, `snapshots/${snapshot}/export`)}`, {
      headers: { 'x-api-key': desk.user.key },
    });
    expect(response.status).toBe(200);
    return { digest: response.headers.get('repr-digest'), bytes: Buffer.from(await response.arrayBuffer()) };
  };
  const [one, two] = [await download(), await download()];
  expect(one.bytes.equals(two.bytes)).toBe(true);
  expect(one.digest).toBe(`sha-256=:${createHash('sha256').update(one.bytes).digest('base64')}:`);
  return one.bytes;
}

async function importTo(desk: Desk, name: string, bytes: Buffer) {
  const headers = { 'content-type': 'application/x-tar', 'x-api-key': desk.user.key };
  const response = await fetch(`${app.url}${desk.at(name, 'import')}`, { method: 'PUT', headers, body: bytes });
  const text = await response.text();
  return { status: response.status, text, json: JSON.parse(text) };
}

type Members = Record<string, string | Buffer>;

function membersOf(bytes: Buffer): Record<string, string> & Members {
  const members: Record<string, string> = {};
  for (let at = 0; bytes[at] !== 0;) {
    const size = Number.parseInt(bytes.toString('latin1', at + 124, at + 135), 8);
    const name = bytes.toString('latin1', at, at + 100).replace(/\0.*/, '');
    members[name] = bytes.toString('latin1', at + 512, at + 512 + size);
    at += 512 + size + (-size & 511);
  }
  expect(Object.keys(members)).toEqual(['manifest.json', 'journal.jsonl', 'state.tar', 'SHA256SUMS']);
  return members;
}

function entriesOf(members: Members): TarEntry[] {
  return Object.entries(members).map(([name, bytes]) => ({ name, bytes: bytesOf(bytes) }));
}

function bytesOf(bytes: string | Buffer): Buffer {
  return typeof bytes === 'string' ? Buffer.from(bytes, 'latin1') : bytes;
}

// eslint-disable-next-line @typescript-eslint/no-explicit-any
type ManifestOf = any;

/** An export of these parts whose manifest and checksums agree with them, as a forger would make it. */
function sealed(members: Members, change: (manifest: ManifestOf) => ManifestOf = (manifest) => manifest): Buffer {
  const [journal, state] = [bytesOf(members['journal.jsonl']!), bytesOf(members['state.tar']!)];
  const manifest = JSON.parse(String(members['manifest.json']));
  const digest = (bytes: Buffer) => createHash('sha256').update(bytes).digest('hex');
  const sizes = {
    journal_bytes: journal.length,
    journal_sha256: digest(journal),
    state_bytes: state.length,
    state_sha256: digest(state),
  };
  const files = state.toString('latin1').match(/workspace\/s\0/) ? { files: 1 } : {};
  const head = Buffer.from(JSON.stringify(change({ ...manifest, contents: { ...manifest.contents, ...sizes, ...files } })));
  const parts = { 'manifest.json': head, 'journal.jsonl': journal, 'state.tar': state };
  const sums = Object.entries(parts).map(([name, bytes]) => `${digest(bytes)}  ${name}\n`);
  return tar(entriesOf({ ...parts, SHA256SUMS: sums.join('') }));
}

function tooMuch(manifest: ManifestOf): ManifestOf {
  return { ...manifest, contents: { ...manifest.contents, state_bytes: 2 ** 50 } };
}

function flipped(bytes: Buffer, at: string): Buffer {
  const copy = Buffer.from(bytes);
  copy[copy.lastIndexOf(at)]! ^= 1;
  return copy;
}
