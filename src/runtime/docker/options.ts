import { createHash } from 'node:crypto';
import type Docker from 'dockerode';
import { heapMib } from '../heap.js';
import type { InstanceSpec, Limits } from '../runtime.js';
import { SECCOMP_PROFILE } from './seccomp.js';

/** The labels that Berth puts on what it makes. They are the durable truth of what a container or volume belongs to. */
export const LABEL = {
  installation: 'berth.installation',
  deployment: 'berth.deployment',
  instance: 'berth.instance',
  user: 'berth.user',
  generation: 'berth.generation',
  spec: 'berth.spec',
  /** Name of the volume, on what has one that is a file system of its own. */
  disk: 'berth.disk',
} as const;

const MIB = 1024 * 1024;

/**
 * The engine's options for one instance: sealed off from network, host and neighbours, with every resource bounded. A pure
 * function of the spec; nothing in it is secret, since whoever may ask the engine sees all of it.
 */
export function containerOptions(spec: InstanceSpec): Docker.ContainerCreateOptions {
  return {
    name: spec.name,
    Image: spec.image,
    Hostname: spec.hostname,
    User: `${spec.uid}:${spec.uid}`,
    Env: [`NODE_OPTIONS=--max-old-space-size=${heapMib(spec.limits.memoryMib)}`, `BERTH_INSTANCE=${spec.instanceId}`],
    // An engine-side check costs 45 ms of CPU each time; the link tells sooner and for nothing.
    Healthcheck: { Test: ['NONE'] },
    StopTimeout: 10,
    Labels: { ...ownerLabels(spec), [LABEL.spec]: specHash(spec) },
    HostConfig: hostConfig(spec),
  };
}

/**
 * The engine's options for a deployment's data volume. It outlives instances, so it carries no instance. `folder`: where its own file system
 * is mounted, where it has one.
 */
export function volumeOptions(spec: InstanceSpec, folder?: string): Docker.VolumeCreateOptions {
  const { [LABEL.instance]: _instance, [LABEL.generation]: _generation, ...labels } = ownerLabels(spec);
  const options = { Name: spec.volume, Driver: 'local', Labels: labels };
  return folder === undefined ? options : { ...options, DriverOpts: { type: 'none', o: 'bind', device: folder } };
}

/** Tells two specs apart: 16 hex digits over all fields, whatever their order. */
export function specHash(spec: InstanceSpec): string {
  const sorted = (value: unknown): unknown =>
    value !== null && typeof value === 'object'
      ? Object.fromEntries(
          Object.entries(value)
            .sort(([a], [b]) => (a < b ? -1 : 1))
            .map(([key, inner]) => [key, sorted(inner)]),
        )
      : value;
  return createHash('sha256')
    .update(JSON.stringify(sorted(spec)))
    .digest('hex')
    .slice(0, 16);
}

function ownerLabels(spec: InstanceSpec): Record<string, string> {
  return {
    [LABEL.installation]: spec.installationId,
    [LABEL.deployment]: spec.deploymentId,
    [LABEL.instance]: spec.instanceId,
    [LABEL.user]: spec.userId,
    [LABEL.generation]: String(spec.generation),
    ...(spec.diskMib === undefined ? {} : { [LABEL.disk]: spec.volume }),
  };
}

/** The limits as the engine takes them, at the creation of an instance and later. */
export function limitOptions({ memoryMib, cpuMillis, pids }: Limits) {
  const memory = memoryMib * MIB;
  // MemorySwap equal to Memory: no swap.
  return { Memory: memory, MemorySwap: memory, NanoCpus: cpuMillis * 1_000_000, PidsLimit: pids };
}

function hostConfig(spec: InstanceSpec): Docker.HostConfig {
  return {
    NetworkMode: 'none',
    Init: true,
    ReadonlyRootfs: true,
    CapDrop: ['ALL'],
    SecurityOpt: ['no-new-privileges:true', `seccomp=${SECCOMP_PROFILE}`],
    IpcMode: 'private',
    ...limitOptions(spec.limits),
    Ulimits: [
      { Name: 'nofile', Soft: 1024, Hard: 4096 },
      { Name: 'core', Soft: 0, Hard: 0 },
    ],
    Tmpfs: {
      '/tmp': 'size=64m,mode=1777,nosuid,nodev,noexec',
      // The engine mounts these two writable; nothing but /data and /tmp is to be.
      '/dev/shm': 'ro,size=4k,mode=0555',
      '/dev/mqueue': 'ro,size=4k,mode=0555',
    },
    // Only the reconciler restarts instances.
    RestartPolicy: { Name: 'no' },
    LogConfig: { Type: 'json-file', Config: { 'max-size': '5m', 'max-file': '2' } },
    // `Mounts`, not `Binds`: a missing folder is then refused, where `Binds` would make one that belongs to root.
    Mounts: [dataMount(spec), { Type: 'bind', Source: spec.linkDir, Target: '/run/berth', ReadOnly: true }],
  };
}

/** A file system of its own has its owner already; any other volume takes over what the image has in its place. */
function dataMount({ volume, diskMib }: InstanceSpec): Docker.MountSettings {
  const mount: Docker.MountSettings = { Type: 'volume', Source: volume, Target: '/data' };
  if (diskMib === undefined) return mount;
  return { ...mount, VolumeOptions: { NoCopy: true, Labels: {}, DriverConfig: { Name: 'local', Options: {} } } };
}
