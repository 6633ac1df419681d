import { z } from 'zod';
import type { InstanceState, InstanceStats, Listed, Observed, ObservedVolume } from '../runtime.js';
import { LABEL } from './options.js';
import { unavailable } from './faults.js';

/** The parts of the engine's answers that Berth reads. Whatever does not fit is not an engine's answer. */
const labels = z.record(z.string(), z.string()).nullish();

const inspectShape = z.object({
  Id: z.string().min(1),
  Name: z.string(),
  Created: z.string(),
  State: z.object({
    Status: z.string(),
    ExitCode: z.number(),
    OOMKilled: z.boolean().optional(),
    Error: z.string().optional(),
    StartedAt: z.string(),
  }),
  Config: z.object({ Labels: labels }),
});

const listShape = z.array(
  z.object({ Id: z.string().min(1), Names: z.array(z.string()), Created: z.number(), State: z.string(), Labels: labels }),
);

const volumeShape = z.object({ Name: z.string().min(1), CreatedAt: z.string().optional(), Labels: labels });
const volumesShape = z.object({ Volumes: z.array(volumeShape).nullish() });
const versionShape = z.object({ Version: z.string().min(1) });

const statsShape = z.object({
  memory_stats: z.object({ usage: z.number().optional(), stats: z.record(z.string(), z.number()).optional() }),
  cpu_stats: z.object({
    cpu_usage: z.object({ total_usage: z.number() }),
    throttling_data: z.object({ periods: z.number(), throttled_periods: z.number() }).optional(),
  }),
});

export type Inspected = z.infer<typeof inspectShape>;
export type ListedContainer = z.infer<typeof listShape>[number];
export type InspectedVolume = z.infer<typeof volumeShape>;

export const readInspect = (answer: unknown): Inspected => read(inspectShape, answer);
export const readList = (answer: unknown): ListedContainer[] => read(listShape, answer);
export const readVolume = (answer: unknown): InspectedVolume => read(volumeShape, answer);
export const readVolumes = (answer: unknown): InspectedVolume[] => read(volumesShape, answer).Volumes ?? [];
export const readVersion = (answer: unknown): string => read(versionShape, answer).Version;

/** Memory without the page cache that the kernel would give back at once (cgroup v1 and v2 name it differently). */
export function readStats(answer: unknown): InstanceStats {
  const stats = read(statsShape, answer);
  const inner = stats.memory_stats.stats ?? {};
  const { cpu_usage, throttling_data: throttling } = stats.cpu_stats;
  const cache = inner['total_inactive_file'] ?? inner['inactive_file'] ?? 0;
  return {
    memoryBytes: Math.max(0, (stats.memory_stats.usage ?? 0) - cache),
    cpuSeconds: cpu_usage.total_usage / 1e9,
    ...(throttling ? { cpuPeriods: { all: throttling.periods, throttled: throttling.throttled_periods } } : {}),
  };
}

/** Who a thing belongs to, as its labels say; undefined when they do not say it completely. */
export function ownerOf(
  found: Record<string, string> | null | undefined,
  installationId: string,
): { instanceId: string; deploymentId: string; generation: number } | undefined {
  if (!found || found[LABEL.installation] !== installationId) return undefined;
  const instanceId = found[LABEL.instance];
  const deploymentId = found[LABEL.deployment];
  const generation = Number(found[LABEL.generation] ?? Number.NaN);
  if (!instanceId || !deploymentId || !Number.isSafeInteger(generation)) return undefined;
  return { instanceId, deploymentId, generation };
}

/** One container as Berth sees it; undefined when it is not this installation's. */
export function observeInspected(found: Inspected, installationId: string): Observed | undefined {
  const owner = ownerOf(found.Config.Labels, installationId);
  if (!owner) return undefined;
  const state = stateOf(found.State.Status);
  const observed: Observed = {
    name: bare(found.Name),
    runtimeId: found.Id,
    ...owner,
    state,
    createdAt: Date.parse(found.Created),
  };
  const disk = found.Config.Labels?.[LABEL.disk];
  if (disk !== undefined) observed.disk = disk;
  const startedAt = Date.parse(found.State.StartedAt);
  // The engine writes year 1 for "never".
  if (startedAt > 0) observed.startedAt = startedAt;
  if (found.State.Error) observed.error = found.State.Error;
  const isOom = found.State.OOMKilled === true;
  if (state === 'exited') {
    observed.exitCode = found.State.ExitCode;
    // The flag alone also stands when only a child was killed and the instance went on.
    observed.oomKilled = isOom && found.State.ExitCode === 137;
  }
  if (isOom && !observed.oomKilled) observed.childOomKilled = true;
  return observed;
}

/** The same from the engine's list. */
export function observeListed(found: ListedContainer, installationId: string): Listed | undefined {
  const owner = ownerOf(found.Labels, installationId);
  const name = found.Names[0];
  if (!owner || !name) return undefined;
  return { name: bare(name), runtimeId: found.Id, ...owner, state: stateOf(found.State), createdAt: found.Created * 1000 };
}

export function observeVolume(found: InspectedVolume, installationId: string): ObservedVolume | undefined {
  const deploymentId = found.Labels?.[LABEL.deployment];
  if (found.Labels?.[LABEL.installation] !== installationId || !deploymentId) return undefined;
  return { name: found.Name, deploymentId, createdAt: Date.parse(found.CreatedAt ?? '') || 0 };
}

const STATES: Record<string, InstanceState> = { created: 'created', running: 'running', restarting: 'running', paused: 'paused' };

function stateOf(status: string): InstanceState {
  return STATES[status] ?? 'exited';
}

function bare(name: string): string {
  return name.replace(/^\//, '');
}

function read<T>(shape: z.ZodType<T>, answer: unknown): T {
  const parsed = shape.safeParse(answer);
  if (parsed.success) return parsed.data;
  throw unavailable('what answers is not a container engine, or one that Berth does not understand', parsed.error);
}
