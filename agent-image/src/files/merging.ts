import { randomUUID } from 'node:crypto';
import { FileError } from './file-error.js';
import type { Folder } from './folder.js';

/** One step of a merge, told so that it can be taken back: a file or folder that came to a place, and where what it replaced is. */
interface Step {
  path: string[];
  kept: string | undefined;
}

const PAUSE_EVERY = 200;

/**
 * Moves all that is staged into a folder: files replace files, folders are merged. What stands in the way is found before the first
 * move; should one fail all the same (a full disk, an agent that meddles), those before it are taken back. `kept` is a folder for
 * what is replaced; the caller deletes it.
 */
export async function merge(stage: Folder, target: Folder, kept: Folder): Promise<void> {
  check(stage, target);
  const steps: Step[] = [];
  try {
    await apply(stage, target, [], { kept, steps });
  } catch (error) {
    for (const step of steps.reverse()) takeBack(target, kept, step);
    throw error;
  }
}

function check(stage: Folder, target: Folder): void {
  for (const { name } of stage.entries()) {
    const coming = stage.stat(name);
    const there = target.stat(name);
    if (!coming || !there) continue;
    if (!coming.isDirectory() && there.isDirectory())
      throw new FileError('is_folder', 'A folder is where the archive has a file.');
    if (coming.isDirectory() && !there.isDirectory())
      throw new FileError('not_folder', 'A file or link is where the archive has a folder.');
    if (coming.isDirectory()) inBoth(stage, target, name, check);
  }
}

async function apply(stage: Folder, target: Folder, path: string[], log: { kept: Folder; steps: Step[] }): Promise<void> {
  // Listed whole before anything is moved out of it: there are as many as an archive may have.
  const entries = [...stage.entries()];
  for (const { name: bytes } of entries) {
    const name = bytes.toString('utf8');
    if (log.steps.length % PAUSE_EVERY === PAUSE_EVERY - 1) await new Promise(setImmediate);
    const there = target.stat(name);
    if (there?.isDirectory() && stage.stat(name)?.isDirectory()) {
      await inBoth(stage, target, name, (from, to) => apply(from, to, [...path, name], log));
      continue;
    }
    const kept = there ? randomUUID() : undefined;
    // A second name keeps what is replaced, so that there is no moment at which a reader finds nothing.
    if (kept !== undefined) target.link(name, log.kept, kept);
    stage.move(name, target, name);
    log.steps.push({ path: [...path, name], kept });
  }
}

function takeBack(target: Folder, kept: Folder, { path, kept: old }: Step): void {
  const opened: Folder[] = [target];
  try {
    const name = path.at(-1) as string;
    for (const part of path.slice(0, -1)) opened.push((opened.at(-1) as Folder).enter(part));
    const at = opened.at(-1) as Folder;
    if (old === undefined) at.move(name, kept, randomUUID());
    else kept.move(old, at, name);
  } catch {
    // Somebody else has changed that place meanwhile; the others are still taken back.
  } finally {
    for (const folder of opened.slice(1)) folder.close();
  }
}

function inBoth<T>(one: Folder, other: Folder, name: string | Buffer, work: (one: Folder, other: Folder) => T): T {
  const first = one.enter(name);
  let second: Folder | undefined;
  const close = () => {
    first.close();
    second?.close();
  };
  let result: T;
  try {
    second = other.enter(name);
    result = work(first, second);
  } catch (error) {
    close();
    throw error;
  }
  if (result instanceof Promise) return result.finally(close) as T;
  close();
  return result;
}
