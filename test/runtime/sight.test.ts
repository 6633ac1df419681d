import { existsSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import { join } from 'node:path';
import { afterAll, afterEach, describe, expect, test } from 'vitest';
import { DockerRuntime } from '../../src/runtime/docker/docker.js';
import type { Log } from '../../src/lib/log.js';
import { Bench, silentLog } from './harness.js';
import { PrivateEngine } from './private-engine.js';

const MAY_MOUNT = process.getuid?.() === 0 && existsSync('/dev/loop-control');
const bench = new Bench('any:1');
const servers: Server[] = [];
afterEach(() => Promise.all(servers.splice(0).map((server) => new Promise((resolve) => server.close(resolve)))));
afterAll(() => bench.dispose());

/** What an engine says when it is asked for a container with that folder in it. */
type Answer = (folder: string) => { status: number; message: string };

const missing = (folder: string) => ({
  status: 400,
  message: `invalid mount config for type "bind": bind source path does not exist: ${folder}`,
});
const noImage = () => ({ status: 404, message: 'No such image: berth-no-such-image:never' });

/** A runtime on an engine that answers so, and what it was asked and warned of. */
async function runtimeOn(answer: Answer) {
  const seen = { asked: [] as string[], warned: [] as string[] };
  const path = join(bench.folder, `${Math.random().toString(36).slice(2)}.sock`);
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const piece of request) body += String(piece);
    expect([request.method, request.url?.split('?')[0]]).toEqual(['POST', '/containers/create']);
    const folder = JSON.parse(body).HostConfig.Mounts[0].Source as string;
    seen.asked.push(folder);
    const { status, message } = answer(folder);
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify({ message }));
  });
  servers.push(server);
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const log = { ...silentLog, warn: (fields: { why: string }) => seen.warned.push(fields.why) } as unknown as Log;
  const disks = { dir: join(bench.folder, 'disks'), limits: 'auto' as const };
  const runtime = new DockerRuntime({ installationId: bench.run, dockerHost: `unix://${path}`, log, disks });
  return { runtime, seen };
}

describe.skipIf(!MAY_MOUNT)('how volumes are bounded where Berth may mount', () => {
  test('by disks of their own where the engine sees what Berth mounts; it is asked once', async () => {
    const { runtime, seen } = await runtimeOn((folder) => (existsSync(folder) ? noImage() : missing(folder)));
    expect([await runtime.diskBound(), await runtime.diskBound()]).toEqual([{ kind: 'hard' }, { kind: 'hard' }]);
    expect(seen.warned).toEqual([]);
    // A folder that is there, and one that is nowhere.
    expect(seen.asked).toHaveLength(2);
    await runtime.close();
  });

  test.each<[string, Answer, RegExp]>([
    ['is in another mount namespace', missing, /^the engine does not see what Berth mounts/],
    ['does not look at folders first', noImage, /^the engine does not tell whether it sees/],
    ['refuses for another reason', () => ({ status: 403, message: 'no binds here' }), /^the engine does not tell whether/],
  ])('by a look now and then where the engine %s, and the log says why', async (_, answer, why) => {
    const { runtime, seen } = await runtimeOn(answer);
    expect(await runtime.diskBound()).toEqual({ kind: 'soft', why: expect.stringMatching(why) });
    await runtime.diskBound();
    expect(seen.warned).toEqual([expect.stringMatching(why)]);
    await runtime.close();
  });

  test('by a look now and then under a real engine that is in a mount namespace of its own', async () => {
    const engine = await PrivateEngine.create(64, { apart: true });
    try {
      await engine.start();
      const disks = { dir: join(bench.folder, 'apart'), limits: 'auto' as const };
      const runtime = new DockerRuntime({ installationId: bench.run, dockerHost: engine.host, log: silentLog, disks });
      expect(await runtime.diskBound()).toMatchObject({
        kind: 'soft',
        why: expect.stringMatching(/does not see what Berth mounts/),
      });
      expect((await runtime.list()).instances).toEqual([]);
      await runtime.close();
    } finally {
      await engine.dispose();
    }
  }, 60_000);

  test('is not decided while the engine is away', async () => {
    let isAway = true;
    const { runtime } = await runtimeOn((folder) => {
      if (isAway) return { status: 503, message: 'starting' };
      return existsSync(folder) ? noImage() : missing(folder);
    });
    await expect(runtime.diskBound()).rejects.toMatchObject({ code: 'unavailable' });
    isAway = false;
    expect(await runtime.diskBound()).toEqual({ kind: 'hard' });
    await runtime.close();
  });
});
