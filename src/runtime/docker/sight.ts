import { AppError, messageOf } from '../../lib/errors.js';
import type { Engine } from './engine.js';
import { statusOf } from './faults.js';

/** An image that nobody has: with it the engine refuses every container, after it has looked at the folders that are to be in it. */
const NO_IMAGE = 'berth-no-such-image:never';
const TARGET = '/seen';

/**
 * Why the engine does not see a folder of ours where we see it, as one in another mount namespace or on another machine; undefined where it does. It is
 * asked for a container that cannot be made, and tells by what it finds wrong first; so nothing is made.
 */
export async function whyUnseen(engine: Engine, path: string, timeoutMs: number): Promise<string | undefined> {
  if (!(await missesFolder(engine, path, timeoutMs))) {
    // One that misses nothing at all is no witness.
    if (await missesFolder(engine, `${path}-that-is-nowhere`, timeoutMs)) return undefined;
    return 'the engine does not tell whether it sees what Berth mounts';
  }
  return 'the engine does not see what Berth mounts: it is in another mount namespace, or on another machine';
}

async function missesFolder(engine: Engine, path: string, timeoutMs: number): Promise<boolean> {
  const mounts = [{ Type: 'bind' as const, Source: path, Target: TARGET, ReadOnly: true }];
  try {
    const made = await engine.call('asking what it sees', timeoutMs, (docker, abortSignal) =>
      docker.createContainer({ Image: NO_IMAGE, HostConfig: { Mounts: mounts, NetworkMode: 'none' }, abortSignal }),
    );
    await engine.call('removing what was not to be made', timeoutMs, () => made.remove({ force: true }));
    return false;
  } catch (error) {
    if (statusOf(error) === undefined || (error instanceof AppError && error.code === 'unavailable')) throw error;
    return /bind source path does not exist/i.test(messageOf(error));
  }
}
