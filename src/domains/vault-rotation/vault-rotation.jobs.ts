import type { Job } from '../../lib/loop.js';
import type { VaultRotation } from './vault-rotation.js';

/** Begins and goes on with changes of the master key. Woken by the bus at each step of any process. */
export function rotateVaultJob(rotation: VaultRotation): Job {
  return { name: 'rotate the master key', everyMs: 2_000, run: (signal) => rotation.run(signal) };
}
