import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Readable } from 'node:stream';
import { fileURLToPath } from 'node:url';
import { withDeadline } from '../../lib/deadline.js';
import { AppError, messageOf } from '../../lib/errors.js';
import { heapMib } from '../heap.js';
import type { InstanceSpec } from '../runtime.js';
import { identify } from './proc.js';
import type { Launch, Store } from './store.js';

export const SHIM = fileURLToPath(new URL('shim.mjs', import.meta.url));
const REPORT_MS = 10_000;
const PATH = '/usr/local/bin:/usr/bin:/bin';

export interface Program {
  gatewayPath: string;
  allowTools: boolean;
}

/** What is run for an instance. Its environment is all that is here: nothing of Berth's own, which holds its keys, goes in. */
export function launchOf(spec: InstanceSpec, dataDir: string, { gatewayPath, allowTools }: Program): Launch {
  const tools = allowTools ? 'on' : 'off';
  return {
    id: randomBytes(6).toString('hex'),
    command: process.execPath,
    args: [gatewayPath],
    cwd: dataDir,
    env: {
      PATH,
      HOME: join(dataDir, 'home'),
      LANG: 'C.UTF-8',
      NODE_OPTIONS: `--max-old-space-size=${heapMib(spec.limits.memoryMib)}`,
      BERTH_INSTANCE: spec.instanceId,
      BERTH_LINK_DIR: resolve(spec.linkDir),
      BERTH_DATA_DIR: dataDir,
      BERTH_PROXY_PORT: 'off',
      BERTH_SHELL: tools,
      BERTH_FETCH: tools,
    },
  };
}

/** Starts an instance under a shim, in a session of its own so that both outlive Berth; returns once it runs, or has ended. */
export async function launch(store: Store, boot: string, spec: InstanceSpec, program: Program): Promise<void> {
  const wanted = launchOf(spec, store.dataFolder(spec.volume), program);
  mkdirSync(wanted.env['HOME']!, { recursive: true, mode: 0o700 });
  store.saveLaunch(spec.name, wanted);
  const shim = spawn(process.execPath, ['--max-old-space-size=32', SHIM, store.folder(spec.name), store.stateFile(spec.name)], {
    cwd: '/',
    env: { PATH },
    detached: true,
    stdio: ['ignore', 'ignore', 'ignore', 'pipe'],
  });
  let failure: unknown;
  shim.on('error', (error) => (failure = error));
  const pipe = shim.stdio[3] as Readable;
  const id = shim.pid === undefined ? undefined : identify(shim.pid);
  // At once, with nothing awaited in between: from here on a Berth that comes back knows of it.
  if (id) store.saveShim(spec.name, { id: wanted.id, boot, ...id });
  shim.unref();
  await reported(pipe);
  if (!id) throw new AppError('upstream_error', `no process could be made: ${messageOf(failure)}`, { cause: failure });
}

/** The shim closes its pipe once it has written how the start went. */
async function reported(pipe: Readable): Promise<void> {
  try {
    await withDeadline('starting the process', REPORT_MS, (signal) => once(pipe.resume(), 'close', { signal }));
  } catch (error) {
    throw new AppError('unavailable', `the process did not start within ${REPORT_MS} ms`, { cause: error });
  } finally {
    pipe.destroy();
  }
}
