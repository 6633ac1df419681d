import { createHash } from 'node:crypto';
import type { Leased } from '../domains/deployments/work.js';
import type { InstanceSpec } from '../runtime/runtime.js';

/** Deterministic: two processes that wrongly both create generation 3 of a deployment collide on this name. */
export function instanceName(installationId: string, deploymentId: string, generation: number): string {
  return `berth-${installationId.slice(-8)}-${deploymentId}-${generation}`;
}

/** Raised when what a runtime makes of a spec changes (capabilities, mounts, the seccomp profile), so that older containers are replaced. */
const PROFILE = 1;

/** What an instance must be made of; a change of any of it needs another container. */
export function specHashOf({ deployment }: Leased, image: string): string {
  const wish = {
    profile: PROFILE,
    image,
    memory: deployment.memory_mib,
    cpu: deployment.cpu_millis,
    pids: deployment.pids,
    uid: deployment.uid,
    volume: deployment.volume,
  };
  return createHash('sha256').update(JSON.stringify(wish)).digest('hex').slice(0, 16);
}

/** The full wish for the live instance. */
export function specFor(
  { deployment, instance }: Leased,
  surroundings: { installationId: string; image: string; linkDir: string },
): InstanceSpec {
  if (!instance) throw new Error(`deployment ${deployment.id} has no live instance`);
  return {
    ...surroundings,
    name: instance.name,
    instanceId: instance.id,
    deploymentId: deployment.id,
    userId: deployment.user_id,
    generation: instance.generation,
    uid: deployment.uid,
    volume: deployment.volume,
    hostname: deployment.id.replaceAll('_', '-'),
    limits: { memoryMib: deployment.memory_mib, cpuMillis: deployment.cpu_millis, pids: deployment.pids },
  };
}
