import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test, vi } from 'vitest';
import { startApp } from '../support/app.js';
import { Desk } from '../support/snapshot-desk.js';

vi.setConfig({ testTimeout: 180_000 });

const FULL = 'the disk on which Berth keeps snapshots is full';
const MB = 1024 * 1024;

// Whoever may not mount a file system of 4 MB has this run elsewhere.
test('a full disk is said, nothing half-written is left, and the agent is as before', async ({ skip }) => {
  const app = await startApp({ runtime: 'process', app: { snapshots: { everyMs: 200 } } });
  const dir = join(app.dataDir, 'snapshots');
  await mkdir(dir, { recursive: true });
  const isMounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', dir]).status === 0;
  try {
    if (!isMounted) return skip();
    const desk = new Desk(app, await app.user());
    await app.agent(desk.user, 'a');
    await desk.write('a', 'kept.txt', 'before');
    const good = await desk.take('a');
    const exported = Buffer.from(await bytesOf(desk, 'a', good));
    await desk.write('a', 'kept.txt', 'now');
    await desk.write('a', 'much.txt', randomBytes(3 * MB).toString('hex'));
    const before = await desk.files();

    const { json } = await desk.post('a', 'snapshots');
    await desk.ended('a', `snapshots/${json.id}`, 'failed');
    expect((await desk.get('a', `snapshots/${json.id}`)).json.reason).toBe(FULL);
    expect(await desk.files()).toEqual(before);

    // What is there now could not be kept, so nothing is put in its place.
    const { json: restore } = await desk.post('a', `snapshots/${good}/restore`);
    await desk.ended('a', `restores/${restore.id}`, 'failed');
    expect((await desk.get('a', `restores/${restore.id}`)).json.reason).toMatch(/no snapshot could be taken of what is there/);
    expect((await desk.read('a', 'kept.txt')).text).toBe('now');
    expect((await desk.say('a', 'still here')).message).toBeDefined();
    expect(await desk.files()).toEqual(before);

    // Not a byte of it is free.
    await writeFile(join(dir, 'ballast'), Buffer.alloc(8 * MB)).catch(() => undefined);
    const refused = await importTo(desk, 'b', exported);
    expect(refused).toMatchObject({ status: 507 });
    expect(await refused.text()).toContain(FULL);
    const stranger = new Desk(app, await app.user());
    await app.agent(stranger.user, 'a');
    const other = await stranger.post('a', 'snapshots');
    await stranger.ended('a', `snapshots/${other.json.id}`, 'failed');
    expect(await stranger.files()).toEqual([]);
    expect(await desk.files()).toEqual(before);

    await rm(join(dir, 'ballast'));
    await app.call('DELETE', desk.at('a', 'files/much.txt'), { key: desk.user.key });
    await desk.restored('a', (await desk.post('a', `snapshots/${good}/restore`)).json);
    expect((await desk.read('a', 'kept.txt')).text).toBe('before');
  } finally {
    await app.leave();
    if (isMounted) spawnSync('umount', ['-l', dir]);
    await app.stop();
  }
});

function bytesOf(desk: Desk, agent: string, snapshot: string): Promise<ArrayBuffer> {
  const url = `${desk.app.url}${desk.at(agent, `snapshots/${snapshot}/export`)}`;
  return fetch(url, { headers: { 'x-api-key': desk.user.key } }).then((response) => response.arrayBuffer());
}

function importTo(desk: Desk, name: string, body: Buffer): Promise<Response> {
  const headers = { 'content-type': 'application/x-tar', 'x-api-key': desk.user.key };
  return fetch(`${desk.app.url}${desk.at(name, 'import')}`, { method: 'PUT', headers, body });
}
