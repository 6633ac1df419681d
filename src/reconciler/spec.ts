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
    image: deployment.image ?? image,
    ...limitsOf(deployment),
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
  const { memory, cpu, pids } = limitsOf(deployment);
  return {
    ...surroundings,
    image: deployment.image ?? surroundings.image,
    name: instance.name,
    instanceId: instance.id,
    deploymentId: deployment.id,
    userId: deployment.user_id,
    generation: instance.generation,
    uid: deployment.uid,
    volume: deployment.volume,
    hostname: deployment.id.replaceAll('_', '-'),
    limits: { memoryMib: memory, cpuMillis: cpu, pids },
  };
}

/** What was asked for, and never more than the tier has. */
function limitsOf(deployment: Leased['deployment']): { memory: number; cpu: number; pids: number } {
  const { limits } = deployment;
  const atMost = (wished: number | undefined, allowed: number) => Math.min(wished ?? allowed, allowed);
  return {
    memory: atMost(limits?.memory_mib, deployment.memory_mib),
    cpu: atMost(limits?.cpu_millis, deployment.cpu_millis),
    pids: atMost(limits?.pids, deployment.pids),
  };
}
