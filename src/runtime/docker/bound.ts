import type { DiskBound } from '../runtime.js';
import { type Disks, whyNoDisks } from './disks.js';
import type { DockerRuntimeOptions } from './docker.js';

/** How volumes that are made now are bounded: tried once, as soon as the engine answers. */
export class Bound {
  readonly #disks: Disks | undefined;
  readonly #options: Pick<DockerRuntimeOptions, 'disks' | 'dockerHost' | 'log'>;
  readonly #whyUnseen: (folder: string) => Promise<string | undefined>;
  #tried: Promise<string | undefined> | undefined;

  /** `whyUnseen` asks the engine whether it has a folder of this process's where this process has it. */
  constructor(
    disks: Disks | undefined,
    options: Pick<DockerRuntimeOptions, 'disks' | 'dockerHost' | 'log'>,
    whyUnseen: (folder: string) => Promise<string | undefined>,
  ) {
    this.#disks = disks;
    this.#options = options;
    this.#whyUnseen = whyUnseen;
  }

  async get(): Promise<DiskBound> {
    const { disks: wish, dockerHost, log } = this.#options;
    if (this.#disks === undefined || wish === undefined || wish.limits === 'soft')
      return { kind: 'soft', why: 'the operator wants it so' };
    // Wished all the same, it is tried with each volume, and what is in the way is the reason why the deployment is not ready.
    if (wish.limits === 'hard') return { kind: 'hard' };
    this.#tried ??= this.#try(this.#disks, dockerHost, log);
    const why = await this.#tried;
    return why === undefined ? { kind: 'hard' } : { kind: 'soft', why };
  }
  #try(disks: Disks, dockerHost: string | undefined, log: DockerRuntimeOptions['log']): Promise<string | undefined> {
    return whyNoDisks(disks, dockerHost, this.#whyUnseen).then(
      (why) => {
        if (why !== undefined) log.warn({ why }, 'new volumes are not file systems of their own: their bound is soft');
        return why;
      },
      (error: unknown) => {
        this.#tried = undefined;
        throw error;
      },
    );
  }
}
