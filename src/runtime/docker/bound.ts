import type { DiskBound } from '../runtime.js';
import { type Disks, whyNoDisks } from './disks.js';
import type { DockerRuntimeOptions } from './docker.js';

/** How volumes that are made now are bounded: tried once, and again only where it failed though it must not. */
export class Bound {
  readonly #disks: Disks | undefined;
  readonly #options: Pick<DockerRuntimeOptions, 'disks' | 'dockerHost' | 'log'>;
  #tried: Promise<string | undefined> | undefined;

  constructor(disks: Disks | undefined, options: Pick<DockerRuntimeOptions, 'disks' | 'dockerHost' | 'log'>) {
    this.#disks = disks;
    this.#options = options;
  }

  async get(): Promise<DiskBound> {
    const { disks: wish, dockerHost, log } = this.#options;
    if (this.#disks === undefined || wish === undefined || wish.limits === 'soft')
      return { kind: 'soft', why: 'the operator wants it so' };
    this.#tried ??= whyNoDisks(this.#disks, dockerHost);
    const why = await this.#tried;
    if (why === undefined || wish.limits === 'hard') return { kind: 'hard' };
    log.debug({ why }, 'volumes are not bounded by file systems of their own');
    return { kind: 'soft', why };
  }
}
