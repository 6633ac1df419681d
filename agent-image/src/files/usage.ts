import type { BigIntStats } from 'node:fs';
import { FileError } from './file-error.js';
import type { Folder } from './folder.js';

/** What the volume holds. */
export interface Figures {
  bytes: number;
  files: number;
  /** Whether all was counted; false where there is too much, or it lies too deep. */
  complete: boolean;
}

const FRESH_MS = 60_000;
/** Nothing is refused by a count that is older than this. */
const TO_REFUSE_MS = 1000;
const MOST_ENTRIES = 1_000_000;
const MOST_DEPTH = 100;
/** Files with several names count once; beyond so many of them, by each name. */
const MOST_LINKED = 50_000;
const PAUSE_EVERY = 200;
const BLOCK_BYTES = 512;

/**
 * How full the volume is, in allocated bytes, as `du` counts. Agents write without asking, so what is known is a count of a moment
 * ago and what passed through here since.
 */
export class DiskUsage {
  readonly #root: () => Folder;
  #figures: Figures | undefined;
  #countedAt = 0;
  #since = 0;
  #counting: Promise<Figures> | undefined;

  constructor(root: () => Folder) {
    this.#root = root;
  }

  /** The volume's figures, counted within `maxAgeMs`. */
  async figures(maxAgeMs = FRESH_MS): Promise<Figures> {
    if (!this.#figures || performance.now() - this.#countedAt > maxAgeMs) await this.#count();
    const { bytes, files, complete } = this.#figures as Figures;
    return { bytes: Math.max(0, bytes + this.#since), files, complete };
  }

  grow(bytes: number): void {
    this.#since += bytes;
  }

  shrink(bytes: number): void {
    this.#since -= bytes;
  }

  #count(): Promise<Figures> {
    this.#counting ??= this.#countAll().finally(() => (this.#counting = undefined));
    return this.#counting;
  }

  async #countAll(): Promise<Figures> {
    this.#since = 0;
    const count = new Count();
    const root = this.#root();
    try {
      await count.add(root, 0);
    } finally {
      root.close();
    }
    this.#figures = { bytes: count.bytes, files: count.files, complete: count.complete };
    this.#countedAt = performance.now();
    return this.#figures;
  }
}

class Count {
  bytes = 0;
  files = 0;
  complete = true;
  #entries = 0;
  readonly #linked = new Set<bigint>();

  async add(folder: Folder, depth: number): Promise<void> {
    for (const { name } of folder.entries()) {
      if (++this.#entries > MOST_ENTRIES) this.complete = false;
      if (this.#entries > MOST_ENTRIES) return;
      if (this.#entries % PAUSE_EVERY === 0) await new Promise(setImmediate);
      const stat = folder.stat(name);
      if (!stat || this.#isKnown(stat)) continue;
      this.bytes += allocatedBytes(stat);
      if (stat.isDirectory()) await this.#enter(folder, name, depth);
      else this.files += 1;
    }
  }

  async #enter(parent: Folder, name: Buffer, depth: number): Promise<void> {
    let folder;
    try {
      if (depth >= MOST_DEPTH) throw new Error('too deep');
      folder = parent.enter(name);
    } catch {
      // Gone meanwhile, closed to us, or too deep: it counts as a folder without content, and the count as not complete.
      this.complete = false;
      return;
    }
    try {
      await this.add(folder, depth + 1);
    } finally {
      folder.close();
    }
  }

  #isKnown(stat: { ino: bigint; nlink: bigint; isDirectory(): boolean }): boolean {
    if (stat.nlink < 2n || stat.isDirectory()) return false;
    if (this.#linked.has(stat.ino)) return true;
    if (this.#linked.size < MOST_LINKED) this.#linked.add(stat.ino);
    return false;
  }
}

/** What a folder and all below it takes of the disk. */
export async function allocatedBelow(folder: Folder): Promise<number> {
  const count = new Count();
  await count.add(folder, 0);
  return count.bytes;
}

/** What a file takes of the disk, which is less than its size where it has holes. */
export function allocatedBytes(stat: BigIntStats): number {
  return Number(stat.blocks) * BLOCK_BYTES;
}

/** How much one write may take of the volume. It is taken bit by bit, and given back when the write comes to nothing. */
export class Allowance {
  readonly #usage: DiskUsage;
  readonly #limit: number | undefined;
  /** What the write will free when it is done. */
  #credit: number;
  #taken = 0;

  constructor(usage: DiskUsage, limit: number | undefined, credit = 0) {
    this.#usage = usage;
    this.#limit = limit;
    this.#credit = credit;
  }

  get taken(): number {
    return this.#taken;
  }

  /** Says of more that will be freed when all is done. */
  willFree(bytes: number): void {
    this.#credit += bytes;
  }

  /** Throws 413 with figures where there is no room for so much; nothing is refused that a fresh count would let pass. */
  async take(bytes: number): Promise<void> {
    if (this.#limit !== undefined && (await this.#passes(this.#limit, bytes)))
      throw new FileError('quota', 'There is not so much room left for this agent.', {
        fields: { limit: this.#limit, used: Math.max(0, (await this.#usage.figures()).bytes - this.#taken) },
      });
    this.#taken += bytes;
    this.#usage.grow(bytes);
  }

  giveBack(): void {
    this.#usage.shrink(this.#taken);
    this.#taken = 0;
  }

  async #passes(limit: number, bytes: number): Promise<boolean> {
    const passes = ({ bytes: used }: Figures) => used + bytes - this.#credit > limit;
    return passes(await this.#usage.figures()) && passes(await this.#usage.figures(TO_REFUSE_MS));
  }
}
