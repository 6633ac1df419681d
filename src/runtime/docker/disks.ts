import { execFile } from 'node:child_process';
import { access, chown, lstat, mkdir, open, readlink, rename, rm, rmdir, stat, statfs, truncate } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { AppError, messageOf } from '../../lib/errors.js';
import { Gate } from '../gate.js';
import type { DiskUse } from '../runtime.js';

const MIB = 1024 * 1024;
const TOOL_TIMEOUT_MS = 120_000;
/** No program or device of a tenant counts on the host; what is deleted is given back; and no table that nobody uses is written out. */
const MOUNT_OPTIONS = 'loop,nosuid,nodev,discard,noinit_itable';
const TRIAL_MIB = 8;

/**
 * Volumes that are ext4 file systems of their own, each in a sparse file that is mounted while it is used: full is full, whatever is done inside. A
 * volume is `<dir>/<volume>/`: `disk.ext4`, and `mnt` where it is mounted. What a tenant has is `mnt/data`, which is there only while it is mounted, so that
 * an engine that is told to start a container behind Berth's back, as after the host's restart, finds nothing rather than something else.
 */
export class Disks {
  readonly #dir: string;
  /** One change of the mounts at a time: the tools find free loop devices by looking for them. */
  readonly #turns = new Gate(1);

  constructor(dir: string) {
    this.#dir = dir;
  }

  /** Makes the volume's file system unless there is one, mounts it, and answers the folder that is the tenant's. */
  make(volume: string, sizeMib: number, uid: number): Promise<string> {
    return this.#turns.run(async () => {
      const { folder, file, mountPoint } = this.#placeOf(volume);
      await mkdir(mountPoint, { recursive: true, mode: 0o711 });
      if (!(await exists(file))) {
        const unborn = join(folder, 'disk.new');
        await (await open(unborn, 'w', 0o600)).close();
        await truncate(unborn, bytesFor(sizeMib));
        await run('mkfs.ext4', ['-q', '-F', '-m0', '-b4096', '-J', 'size=4', '-E', 'lazy_itable_init=1,nodiscard', unborn]);
        await rename(unborn, file);
      }
      await this.#mount(volume);
      const data = join(mountPoint, 'data');
      await mkdir(data, { recursive: true, mode: 0o700 });
      // Its parent is root's: no tenant can put something else in its place.
      if ((await lstat(data)).uid !== uid) await chown(data, uid, uid);
      return data;
    });
  }

  /** Mounts a volume that was made before. */
  mount(volume: string): Promise<void> {
    return this.#turns.run(async () => {
      if (!(await exists(this.#placeOf(volume).file))) throw new AppError('conflict', `the disk of volume ${volume} is missing`);
      await this.#mount(volume);
    });
  }

  /** Takes it off the host. A container that has it goes on with it. */
  release(volume: string): Promise<void> {
    return this.#turns.run(() => this.#unmount(volume));
  }

  /**
   * Makes it larger, never smaller. While it is mounted that takes a privilege that root may lack, as in some virtual machines: then it is done once
   * it is grown again with nobody using it. Answers whether it is as large as asked.
   */
  grow(volume: string, sizeMib: number): Promise<boolean> {
    return this.#turns.run(async () => {
      const { file } = this.#placeOf(volume);
      if (!(await exists(file))) return false;
      if ((await stat(file)).size < bytesFor(sizeMib)) await truncate(file, bytesFor(sizeMib));
      // It leaves out the last blocks of the file where they are too few to be of use.
      if ((await sizeOfFileSystem(file)) >= bytesFor(sizeMib) - 4 * MIB) return true;
      const device = await deviceOf(file);
      if (device === undefined) {
        await run('e2fsck', ['-f', '-p', file], [0, 1]);
        await run('resize2fs', [file]);
        return true;
      }
      await this.#mount(volume);
      await run('losetup', ['-c', device]);
      return run('resize2fs', [device]).then(
        () => true,
        () => false,
      );
    });
  }

  /** What it holds and what is left; undefined while it is not mounted. */
  async use(volume: string): Promise<DiskUse | undefined> {
    if (!(await this.#isMounted(volume))) return undefined;
    const { blocks, bfree, bavail, bsize } = await statfs(this.#placeOf(volume).mountPoint);
    return { usedBytes: (blocks - bfree) * bsize, freeBytes: bavail * bsize };
  }

  /** Removes it and everything in it; one that is gone is left alone. */
  remove(volume: string): Promise<void> {
    return this.#turns.run(async () => {
      if (!(await exists(this.#placeOf(volume).folder))) return;
      await this.#unmount(volume);
      // Fails where it is mounted still, so that nothing is removed through it.
      await rmdir(this.#placeOf(volume).mountPoint).catch(unlessGone);
      await rm(this.#placeOf(volume).folder, { recursive: true, force: true });
    });
  }

  /** Makes and removes a small one, and has its folder looked at while it is there: what it says no to is not to be had here. */
  async tryOut<T>(look: (folder: string) => Promise<T>): Promise<T> {
    const trial = `trial-${process.pid}`;
    try {
      return await look(await this.make(trial, TRIAL_MIB, process.getuid?.() ?? 0));
    } finally {
      await this.remove(trial);
    }
  }

  async #mount(volume: string): Promise<void> {
    if (await this.#isMounted(volume)) return;
    const { file, mountPoint } = this.#placeOf(volume);
    try {
      await run('mount', ['-t', 'ext4', '-o', MOUNT_OPTIONS, file, mountPoint]);
    } catch (error) {
      // Another process of Berth was quicker.
      if (!(await this.#isMounted(volume))) throw error;
    }
  }

  async #unmount(volume: string): Promise<void> {
    if (await this.#isMounted(volume)) await run('umount', [this.#placeOf(volume).mountPoint]);
  }

  async #isMounted(volume: string): Promise<boolean> {
    const { folder, mountPoint } = this.#placeOf(volume);
    const [outside, inside] = await Promise.all([folder, mountPoint].map((path) => stat(path).catch(() => undefined)));
    return outside !== undefined && inside !== undefined && outside.dev !== inside.dev;
  }

  #placeOf(volume: string): { folder: string; file: string; mountPoint: string } {
    if (!/^[A-Za-z0-9][\w.-]*$/.test(volume)) throw new AppError('internal', 'the name of a volume is no name of a folder');
    const folder = join(this.#dir, volume);
    return { folder, file: join(folder, 'disk.ext4'), mountPoint: join(folder, 'mnt') };
  }
}

/**
 * Why volumes cannot be bounded here, in plain words; undefined where they can. `whyUnseen` asks the engine about a folder. Throws where the engine does not
 * answer: that says nothing of disks.
 */
export async function whyNoDisks(
  disks: Disks,
  dockerHost: string | undefined,
  whyUnseen: (folder: string) => Promise<string | undefined>,
): Promise<string | undefined> {
  if (dockerHost !== undefined && !dockerHost.startsWith('unix://') && !dockerHost.startsWith('/'))
    return 'the container engine is not reached by a socket of this machine';
  if (process.getuid?.() !== 0) return 'Berth does not run as root';
  if (!(await exists('/dev/loop-control'))) return 'this machine has no loop devices';
  const [own, first] = await Promise.all(['self', '1'].map((pid) => readlink(`/proc/${pid}/ns/mnt`).catch(() => undefined)));
  if (own !== undefined && first !== undefined && own !== first) return 'the engine would not see what Berth mounts';
  try {
    return await disks.tryOut(whyUnseen);
  } catch (error) {
    if (error instanceof AppError && error.code === 'unavailable') throw error;
    return messageOf(error);
  }
}

/** As large as it takes for that much to fit: the file system needs something for itself. */
export function bytesFor(sizeMib: number): number {
  return (sizeMib + Math.ceil(sizeMib * 0.03) + 8) * MIB;
}

/** What the file system in it has, by its superblock, which may be smaller than the file. */
async function sizeOfFileSystem(file: string): Promise<number> {
  const handle = await open(file, 'r');
  try {
    const { buffer } = await handle.read(Buffer.alloc(1024), 0, 1024, 1024);
    return buffer.readUInt32LE(4) * 1024 * 2 ** buffer.readUInt32LE(24);
  } finally {
    await handle.close();
  }
}

/** The loop device that shows the file; undefined where none does. */
async function deviceOf(file: string): Promise<string | undefined> {
  return (await run('losetup', ['--noheadings', '--output', 'NAME', '--associated', file])).trim().split('\n')[0] || undefined;
}

async function exists(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

function unlessGone(error: unknown): void {
  if ((error as { code?: string }).code !== 'ENOENT') throw error;
}

async function run(tool: string, args: string[], fine: number[] = [0]): Promise<string> {
  // A service's PATH may leave out where these are.
  const env = { PATH: '/usr/sbin:/usr/bin:/sbin:/bin', LC_ALL: 'C' };
  try {
    const { stdout } = await promisify(execFile)(tool, args, { env, timeout: TOOL_TIMEOUT_MS });
    return stdout;
  } catch (error) {
    const { code, stderr } = error as { code?: number | string; stderr?: string };
    if (typeof code === 'number' && fine.includes(code)) return '';
    const words = code === 'ENOENT' ? 'it is not installed' : (stderr ?? '').trim().split('\n').at(-1);
    const isFull = /no space left/i.test(words ?? '');
    throw new AppError(isFull ? 'limit_exceeded' : 'unprocessable', `${tool} failed: ${words}`, { cause: error });
  }
}
