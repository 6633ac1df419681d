import { describe, expect, test } from 'vitest';
import { containerOptions, specHash, volumeOptions } from '../../src/runtime/docker/options.js';
import { SECCOMP_PROFILE } from '../../src/runtime/docker/seccomp.js';
import { heapMib } from '../../src/runtime/heap.js';
import type { InstanceSpec } from '../../src/runtime/runtime.js';

const spec: InstanceSpec = {
  name: 'berth-itl_1-dep_1-7',
  installationId: 'itl_1',
  instanceId: 'ins_1',
  deploymentId: 'dep_1',
  userId: 'usr_1',
  generation: 7,
  image: 'berth-agent:full',
  uid: 20_001,
  volume: 'berth-itl_1-dep_1',
  linkDir: '/srv/berth/link/ins_1',
  hostname: 'dep-1',
  limits: { memoryMib: 256, cpuMillis: 500, pids: 128 },
};

describe('container options', () => {
  test('are exactly this profile', () => {
    expect(containerOptions(spec)).toEqual({
      name: 'berth-itl_1-dep_1-7',
      Image: 'berth-agent:full',
      Hostname: 'dep-1',
      User: '20001:20001',
      Env: ['NODE_OPTIONS=--max-old-space-size=179', 'BERTH_INSTANCE=ins_1'],
      Healthcheck: { Test: ['NONE'] },
      StopTimeout: 10,
      Labels: {
        'berth.installation': 'itl_1',
        'berth.deployment': 'dep_1',
        'berth.instance': 'ins_1',
        'berth.user': 'usr_1',
        'berth.generation': '7',
        'berth.spec': specHash(spec),
      },
      HostConfig: {
        NetworkMode: 'none',
        Init: true,
        ReadonlyRootfs: true,
        CapDrop: ['ALL'],
        SecurityOpt: ['no-new-privileges:true', `seccomp=${SECCOMP_PROFILE}`],
        IpcMode: 'private',
        Memory: 268_435_456,
        MemorySwap: 268_435_456,
        NanoCpus: 500_000_000,
        PidsLimit: 128,
        Ulimits: [
          { Name: 'nofile', Soft: 1024, Hard: 4096 },
          { Name: 'core', Soft: 0, Hard: 0 },
        ],
        Tmpfs: {
          '/tmp': 'size=64m,mode=1777,nosuid,nodev,noexec',
          '/dev/shm': 'ro,size=4k,mode=0555',
          '/dev/mqueue': 'ro,size=4k,mode=0555',
        },
        RestartPolicy: { Name: 'no' },
        LogConfig: { Type: 'json-file', Config: { 'max-size': '5m', 'max-file': '2' } },
        Mounts: [
          { Type: 'volume', Source: 'berth-itl_1-dep_1', Target: '/data' },
          { Type: 'bind', Source: '/srv/berth/link/ins_1', Target: '/run/berth', ReadOnly: true },
        ],
      },
    });
  });

  test('the volume carries what outlives an instance, and nothing else', () => {
    expect(volumeOptions(spec)).toEqual({
      Name: 'berth-itl_1-dep_1',
      Driver: 'local',
      Labels: { 'berth.installation': 'itl_1', 'berth.deployment': 'dep_1', 'berth.user': 'usr_1' },
    });
  });

  test('a volume with a disk of its own is that disk’s folder, and is found by its container', () => {
    const disked = { ...spec, diskMib: 1024 };
    expect(volumeOptions(disked, '/srv/berth/disks/v/mnt/data')).toEqual({
      Name: 'berth-itl_1-dep_1',
      Driver: 'local',
      DriverOpts: { type: 'none', o: 'bind', device: '/srv/berth/disks/v/mnt/data' },
      Labels: {
        'berth.installation': 'itl_1',
        'berth.deployment': 'dep_1',
        'berth.user': 'usr_1',
        'berth.disk': 'berth-itl_1-dep_1',
      },
    });
    const { Labels, HostConfig } = containerOptions(disked);
    expect(Labels?.['berth.disk']).toBe('berth-itl_1-dep_1');
    expect(HostConfig?.Mounts?.[0]).toMatchObject({ Type: 'volume', Target: '/data', VolumeOptions: { NoCopy: true } });
  });

  test('the spec’s hash does not depend on the order of fields, and does on every value', () => {
    const reversed = Object.fromEntries(Object.entries(spec).reverse()) as unknown as InstanceSpec;
    expect(specHash(reversed)).toBe(specHash(spec));
    const hashes = Object.keys(spec).map((key) => specHash({ ...spec, [key]: 'other' }));
    expect(new Set([...hashes, specHash(spec)]).size).toBe(Object.keys(spec).length + 1);
    expect(specHash({ ...spec, limits: { ...spec.limits, pids: 129 } })).not.toBe(specHash(spec));
  });

  test('the heap is a share of the limit, never nothing', () => {
    expect([1, 64, 1024].map(heapMib)).toEqual([1, 44, 716]);
  });
});
