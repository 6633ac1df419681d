import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readdir, readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { BerthProcess } from '../support/berth-process.js';
import { until } from '../support/until.js';

const USERS = 100;
/** From before the first row is sealed to after the files have changed places. */
const KILL_AFTER_MS = [0, 8, 25, 80];
const CLI = fileURLToPath(new URL('../../scripts/berth.mjs', import.meta.url));
const run = promisify(execFile);

describe('kill -9 of Berth while it changes its master key', () => {
  let berth: BerthProcess;
  let admin: string;
  const users: { key: string; last4: string }[] = [];
  beforeAll(async () => {
    berth = await BerthProcess.prepare({ RUNTIME: 'process' });
    await berth.start();
    admin = await berth.adminKey();
    for (let n = 0; n < USERS; n++) {
      const { json } = await berth.call('POST', '/api/v1/users', admin, { name: `u${n}` });
      const last4 = randomBytes(2).toString('hex');
      await berth.call('PUT', '/api/v1/secrets', json.api_key, { TOKEN: `twelve-and-${last4}` });
      users.push({ key: json.api_key, last4 });
    }
  }, 60_000);
  afterAll(() => berth.kill().then(() => berth.destroy()));

  const current = async () => (await berth.call('GET', '/api/v1/vault/rotations/current', admin)).json;
  const settled = () =>
    until(
      async () => ['done', 'none'].includes((await current()).state) && !(await keyFiles()).includes('master.key.next'),
      'the rotation to end',
      30_000,
    );
  const keyFiles = async () => (await readdir(berth.dataDir)).filter((name) => name.startsWith('master.key'));
  const masterKey = () => readFile(join(berth.dataDir, 'master.key'), 'utf8');

  async function readAll(): Promise<void> {
    for (const { key, last4 } of users) {
      const { status, json } = await berth.call('GET', '/api/v1/secrets', key);
      expect(status).toBe(200);
      expect(json.data).toMatchObject([{ name: 'TOKEN', readable: true, last4 }]);
    }
  }

  test('at many points: the next start goes on by itself, and every secret can be read', async () => {
    for (const afterMs of KILL_AFTER_MS) {
      const before = await masterKey();
      // What was answered must come to an end; what was not answered may have begun.
      const asked = berth.call('POST', '/api/v1/vault/rotations', admin).catch(() => undefined);
      if (afterMs > 0) await asked;
      await new Promise((resolve) => setTimeout(resolve, afterMs));
      await berth.kill('SIGKILL');
      const answered = await asked;
      await berth.start();
      const writer = users[KILL_AFTER_MS.indexOf(afterMs)]!;
      writer.last4 = randomBytes(2).toString('hex');
      expect((await berth.call('PUT', '/api/v1/secrets', writer.key, { TOKEN: `twelve-and-${writer.last4}` })).status).toBe(200);
      await settled();
      if (answered?.status === 202) expect(await masterKey(), `killed after ${afterMs} ms`).not.toBe(before);
      await readAll();
    }
    expect((await keyFiles()).toSorted()).toEqual(['master.key', 'master.key.previous']);
  }, 180_000);

  test('the command line does it, beside the Berth that runs, and says how far it is', async () => {
    const before = await masterKey();
    const env = { PATH: process.env.PATH, BERTH_URL: berth.url, DATA_DIR: berth.dataDir };
    const { stdout } = await run(process.execPath, [CLI, 'vault', 'rotate'], { env });
    expect(stdout).toMatch(/The master key was changed \([0-9a-f]{16} -> [0-9a-f]{16}\) at .*: \d+ things sealed anew\.\n$/);
    expect(await masterKey()).not.toBe(before);
    expect((await run(process.execPath, [CLI, 'vault', 'status'], { env })).stdout).toMatch(/^The master key was changed/);
    const refused = (args: string[], more: object) =>
      run(process.execPath, [CLI, ...args], { env: { ...env, ...more } }).catch(
        (error: unknown) => error as { code: number; stderr: string },
      );
    expect(await refused(['vault', 'rotate'], { ADMIN_API_KEY: 'x'.repeat(40) })).toMatchObject({
      code: 1,
      stderr: 'the API key is not valid\n',
    });
    expect(await refused(['vault', 'rotate'], { BERTH_URL: 'http://127.0.0.1:1' })).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('no Berth answers'),
    });
    expect(await refused(['vault', 'burn'], {})).toMatchObject({ code: 1, stderr: expect.stringContaining('Usage:') });
    await readAll();
    expect(berth.output).toContain('the master key was changed');
    expect(berth.output).not.toContain((await masterKey()).trim());
  }, 60_000);

  test('a wrong master key at the start: it refuses, says so, and touches nothing', async () => {
    await berth.kill('SIGTERM');
    const files = await keyFiles();
    const [right, previous] = [join(berth.dataDir, 'master.key'), join(berth.dataDir, 'master.key.previous')];
    await rename(right, `${right}.kept`);
    await rename(previous, `${previous}.kept`);
    const wrong = `${randomBytes(32).toString('base64')}\n`;
    await writeFile(right, wrong, { mode: 0o600 });
    await expect(berth.start()).rejects.toThrow(/master key is not the one this database was sealed with. Nothing was changed/);
    expect(await readFile(right, 'utf8')).toBe(wrong);
    await rename(`${right}.kept`, right);
    await rename(`${previous}.kept`, previous);
    await berth.start();
    expect((await keyFiles()).toSorted()).toEqual(files.toSorted());
    await readAll();
  }, 60_000);
});
