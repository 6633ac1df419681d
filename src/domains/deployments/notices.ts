import type { DeploymentStatus } from './deployments.schema.js';
import type { ContainerLimits } from './deployments.table.js';

/** What the rows of a deployment, its tier and its instance say of its limits and what they do to it. */
export interface Limited {
  disk: 'hard' | 'soft' | null;
  disk_size_mib: number | null;
  disk_pending: boolean;
  disk_used_mib: number | null;
  disk_full_at: Date | null;
  /** What was asked for, at most what the tier gives. */
  limits: ContainerLimits | null;
  disk_mib: number;
  memory_mib: number;
  cpu_millis: number;
  oom_kills: number | null;
  oom_at: Date | null;
  cpu_throttled: number | null;
}

/** One thing that its limits do to a deployment, in plain words. */
export interface Notice {
  code: 'disk_full' | 'disk_over_bound' | 'disk_grows_later' | 'process_out_of_memory' | 'cpu_throttled';
  text: string;
  youCan: string[];
}

/** A share of CPU periods from which on one feels it. */
const THROTTLED_MUCH = 0.25;
const OOM_TOLD_FOR_MS = 3_600_000;

/** The most that its volume may hold now. */
function diskLimitMib({ disk, disk_size_mib: size, disk_mib: wished }: Limited): number {
  return disk === 'hard' ? (size ?? wished) : wished;
}

/** As `deploy/status` shows it. */
export function limitStatus(limited: Limited): Pick<DeploymentStatus, 'disk' | 'pressure' | 'notices'> {
  const { disk, disk_used_mib: used, disk_full_at, oom_kills, oom_at, cpu_throttled: throttled } = limited;
  return {
    disk: { bound: disk, limit_mib: diskLimitMib(limited), used_mib: used, full: disk_full_at !== null },
    pressure: {
      oom_kills: oom_kills ?? 0,
      last_oom_at: oom_at?.toISOString() ?? null,
      cpu_throttled_percent: throttled === null ? null : Math.round(throttled * 100),
    },
    notices: noticesOf(limited, Date.now()).map(({ code, text }) => ({ code, text })),
  };
}

/** All that is to be said, the weightiest first: pure, so that every case is a row of a test's table. */
export function noticesOf(limited: Limited, nowMs: number): Notice[] {
  return [ofDisk(limited), ofMemory(limited, nowMs), ofCpu(limited), ofGrowth(limited)].filter((notice) => notice !== undefined);
}

function ofDisk(limited: Limited): Notice | undefined {
  if (limited.disk_full_at === null) return undefined;
  const figures = `${limited.disk_used_mib ?? '?'} of ${diskLimitMib(limited)} MiB are used`;
  const youCan = ['delete files of the agents: DELETE …/files/…', 'have an admin give the user a larger tier'];
  if (limited.disk === 'hard')
    return { code: 'disk_full', text: `its disk is full: ${figures}, and writes fail for want of space`, youCan };
  const text = `its disk is over its bound: ${figures}; the bound is soft, so its container was ended, and no turn runs until there is room`;
  return { code: 'disk_over_bound', text, youCan };
}

function ofMemory({ oom_kills, oom_at, limits, memory_mib }: Limited, nowMs: number): Notice | undefined {
  if (!oom_kills || oom_at === null || nowMs - oom_at.getTime() > OOM_TOLD_FOR_MS) return undefined;
  const limitMib = Math.min(limits?.memory_mib ?? memory_mib, memory_mib);
  const times = oom_kills === 1 ? 'once' : `${oom_kills} times`;
  return {
    code: 'process_out_of_memory',
    text: `a process in its container was killed for want of memory ${times}, last at ${oom_at.toISOString()}, and the container went on; all in it have ${limitMib} MiB together`,
    youCan: ['let it do less at once, or give it more memory: limits in its config, or a larger tier'],
  };
}

function ofCpu({ cpu_throttled: share, limits, cpu_millis }: Limited): Notice | undefined {
  if (share === null || share < THROTTLED_MUCH) return undefined;
  const limitMillis = Math.min(limits?.cpu_millis ?? cpu_millis, cpu_millis);
  return {
    code: 'cpu_throttled',
    text: `it is held back: of the time in which it wanted CPU it had used up its ${limitMillis / 1000} cores in ${Math.round(share * 100)} %`,
    youCan: ['let it do less at once, or give it more CPU: limits in its config, or a larger tier'],
  };
}

function ofGrowth({ disk_pending, disk_size_mib }: Limited): Notice | undefined {
  if (!disk_pending) return undefined;
  return {
    code: 'disk_grows_later',
    text: `its disk becomes as large as its tier says (${disk_size_mib} MiB) when its container starts the next time`,
    youCan: ['stop and start its agents, so that it does so now'],
  };
}
