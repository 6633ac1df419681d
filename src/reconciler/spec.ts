import { createHash } from 'node:crypto';
import type { Leased } from '../domains/deployments/work.js';
import type { InstanceSpec, Limits } from '../runtime/runtime.js';

/** Deterministic: two processes that wrongly both create generation 3 of a deployment collide on this name. */
export function instanceName(installationId: string, deploymentId: string, generation: number): string {
  return `berth-${installationId.slice(-8)}-${deploymentId}-${generation}`;
}

/** Raised when what a runtime makes of a spec changes (capabilities, mounts, the seccomp profile), so that older containers are replaced. */
const PROFILE = 2;

/** The agent's own, else what a rollout gave it, else the usual one. */
export function imageOf({ deployment }: Leased, usual: string): string {
  return deployment.image ?? deployment.rolled_image ?? usual;
}

/** What an instance must be made of; a change of any of it needs another container. Its limits are not part of it: they change while it runs. */
export function specHashOf(leased: Leased, image: string): string {
  const { deployment } = leased;
  const wish = {
    profile: PROFILE,
    image: imageOf(leased, image),
    uid: deployment.uid,
    volume: deployment.volume,
    ...(deployment.restarts > 0 ? { restarts: deployment.restarts } : {}),
  };
  return createHash('sha256').update(JSON.stringify(wish)).digest('hex').slice(0, 16);
}

/** What a replacement is to bring, so that the same one that failed before is told from another. */
export function wishOf(leased: Leased, image: string): string {
  return `${specHashOf(leased, image)}, ${limitsText(limitsOf(leased.deployment))}`;
}

/** The full wish for the live instance. */
export function specFor(leased: Leased, surroundings: { installationId: string; image: string; linkDir: string }): InstanceSpec {
  const { deployment, instance } = leased;
  if (!instance) throw new Error(`deployment ${deployment.id} has no live instance`);
  return {
    ...surroundings,
    image: imageOf(leased, surroundings.image),
    name: instance.name,
    instanceId: instance.id,
    deploymentId: deployment.id,
    userId: deployment.user_id ?? '',
    generation: instance.generation,
    uid: deployment.uid,
    volume: deployment.volume,
    hostname: deployment.id.replaceAll('_', '-'),
    limits: limitsOf(deployment),
    diskMib: deployment.disk === 'hard' ? (deployment.disk_size_mib ?? deployment.disk_mib) : undefined,
  };
}

/** Whether its own file system was asked for less than its tier gives by now. It never shrinks. */
export function isDiskBehind({ disk, disk_size_mib: size, disk_mib: wished }: Leased['deployment']): boolean {
  return disk === 'hard' && size !== null && size < wished;
}

/** Whether nothing but somebody who looks holds its volume to its size, and it holds more: then no turn runs, so that none writes on. */
export function isOverfull({ disk, disk_full_at: since }: Leased['deployment']): boolean {
  return disk === 'soft' && since !== null;
}

/** What was asked for, and never more than the tier has. */
export function limitsOf(deployment: Leased['deployment']): Limits {
  const { limits } = deployment;
  const atMost = (wished: number | undefined, allowed: number) => Math.min(wished ?? allowed, allowed);
  return {
    memoryMib: atMost(limits?.memory_mib, deployment.memory_mib),
    cpuMillis: atMost(limits?.cpu_millis, deployment.cpu_millis),
    pids: atMost(limits?.pids, deployment.pids),
  };
}

/** What the row says where the engine cannot give it those limits as it is. */
export function refusedLimits(limits: string): string {
  return `not ${limits}`;
}

/** The limits as the instance's row keeps them, to tell whether it has the wished ones. */
export function limitsText({ memoryMib, cpuMillis, pids }: Limits): string {
  return `${memoryMib} MiB, ${cpuMillis} m, ${pids} pids`;
}

/** Whether limits are nowhere smaller than others, both as the rows keep them. */
export function isNowhereSmaller(wished: string, has: string): boolean {
  const [mine, theirs] = [wished, has].map((text) => /^(\d+) MiB, (\d+) m, (\d+) pids$/.exec(text)?.slice(1).map(Number));
  return mine !== undefined && theirs !== undefined && mine.every((value, at) => value >= (theirs[at] ?? Infinity));
}
