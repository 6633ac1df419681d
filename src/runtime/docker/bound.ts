import type { DiskBound } from '../runtime.js';
import { type Disks, whyNoDisks } from './disks.js';
import type { DockerRuntimeOptions } from './docker.js';

/** How volumes that are made now are bounded: tried once. */
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
    // Wished all the same, it is tried with each volume, and what is in the way is the reason why the deployment is not ready.
    if (wish.limits === 'hard') return { kind: 'hard' };
    this.#tried ??= whyNoDisks(this.#disks, dockerHost).then((why) => {
      if (why !== undefined) log.info({ why }, 'new volumes are not file systems of their own: their bound is soft');
      return why;
    });
    const why = await this.#tried;
    return why === undefined ? { kind: 'hard' } : { kind: 'soft', why };
  }
}
