import type { Lease, Leased } from '../domains/deployments/work.js';
import type { Hands, Next } from './apply.js';
import type { Progress } from './progress.js';
import { limitsOf } from './spec.js';

/** Carries out what holds a deployment to what it may take: its turn on the host, and its disk. All of it may be killed at any line and done again. */
export class Holding {
  readonly #hands: Hands;

  constructor(hands: Hands) {
    this.#hands = hands;
  }

  /** Room on the host, or a place among those who wait for it: then nothing is done here until it is its turn. */
  async queue(lease: Lease, leased: Leased, progress: Progress): Promise<Next> {
    const { deployment } = leased;
    const why = await this.#hands.admission.ask(lease, limitsOf(deployment).memoryMib);
    if (why === undefined) return 'unchanged';
    const reason = `it waits for room on the host: ${why}`;
    if (deployment.queued_at === null)
      await this.#hands.work.enter(lease, { state: 'deploying', stage: 'queued', stages: progress.close(), reason });
    return { lookAgainInMs: undefined };
  }

  /** Written down before the volume is made, so that whoever goes on after a crash makes the same. */
  async chooseDisk(lease: Lease, leased: Leased): Promise<Leased> {
    const { kind } = await this.#hands.runtime.diskBound();
    const disk = { disk: kind, ...(kind === 'hard' ? { disk_size_mib: leased.deployment.disk_mib } : {}) };
    await this.#hands.work.note(lease, disk);
    return { ...leased, deployment: { ...leased.deployment, ...disk } };
  }

  /** What cannot be done while the volume is used is done before its instance starts the next time. */
  async grow(lease: Lease, { deployment }: Leased): Promise<Next> {
    const { volume, disk_mib: sizeMib } = deployment;
    const isDone = await this.#hands.runtime.growVolume(volume, sizeMib);
    await this.#hands.work.note(lease, { disk_size_mib: sizeMib, disk_pending: !isDone });
    return 'unchanged';
  }
}
