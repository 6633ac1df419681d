import type { InstanceAgent } from '../../gateway/instance-config.js';
import type { ConfigDocument, EffectiveConfig } from './configs.schema.js';
import { HEARTBEAT_EVERY } from './heartbeat.schema.js';
import { isSameJson } from './merge.js';

/** What holds where a config says nothing. */
export interface Ground {
  model: string;
  limits: EffectiveConfig['limits'];
}

/** As the agent image has it (agent-image/README.md). */
const MAX_STEPS = 16;

/** Fields that the gateway is told; a change of them is in the next turn. */
const GATEWAY_FIELDS = ['model', 'tools', 'max_steps', 'sampling', 'shell', 'env'] as const;
/** Fields that cannot change while a container runs. */
const CONTAINER_FIELDS = ['image'] as const;
/** Fields that are a container's, so that an agent moves for them where it shares one. */
const SHAPE_FIELDS = ['network', 'isolation', 'limits', ...CONTAINER_FIELDS] as const;

/** Every field as it is in force: what was set, above the ground. */
export function effectiveOf(document: ConfigDocument, ground: Ground, isolation: 'shared' | 'dedicated'): EffectiveConfig {
  const { tools = {}, heartbeat = {}, limits = {} } = document;
  const hours = heartbeat.active_hours;
  const atMost = (name: keyof Ground['limits']) => Math.min(limits[name] ?? ground.limits[name], ground.limits[name]);
  return {
    model: document.model ?? ground.model,
    tools: { allow: tools.allow ?? null, deny: tools.deny ?? [] },
    max_steps: document.max_steps ?? MAX_STEPS,
    sampling: document.sampling ?? {},
    shell: document.shell ?? 'on',
    on_busy: document.on_busy ?? 'queue',
    network: document.network ?? { mode: 'none' },
    heartbeat: {
      every: heartbeat.every ?? HEARTBEAT_EVERY,
      active_hours: hours ? { start: hours.start, end: hours.end, time_zone: hours.time_zone ?? 'UTC' } : null,
    },
    env: document.env ?? {},
    limits: { memory_mib: atMost('memory_mib'), cpu_millis: atMost('cpu_millis'), pids: atMost('pids') },
    image: document.image ?? null,
    isolation,
  };
}

/** The top-level fields in which two documents differ. */
export function changedFields(before: ConfigDocument, after: ConfigDocument): (keyof ConfigDocument)[] {
  const names = new Set([...Object.keys(before), ...Object.keys(after)] as (keyof ConfigDocument)[]);
  return [...names].filter((name) => !isSameJson(before[name], after[name])).toSorted();
}

export function isToldToGateway(changed: readonly string[]): boolean {
  return GATEWAY_FIELDS.some((name) => changed.includes(name));
}

/** The fields that need another container than the one the agent was in. */
export function replacesContainer(changed: readonly string[], hasMoved: boolean): string[] {
  return (hasMoved ? SHAPE_FIELDS : CONTAINER_FIELDS).filter((name) => changed.includes(name));
}

export function isShape(name: string): boolean {
  return SHAPE_FIELDS.some((one) => one === name);
}

/** What the gateway is told of the agent besides its model. */
export function settingsOf({ max_steps, tools = {}, shell, sampling, env }: ConfigDocument): Partial<InstanceAgent> {
  const deny = [...(tools.deny ?? []), ...(shell === 'off' ? ['shell'] : [])];
  return {
    ...(max_steps === undefined ? {} : { maxSteps: max_steps }),
    ...(tools.allow || deny.length > 0 ? { tools: { ...(tools.allow ? { allow: tools.allow } : {}), deny } } : {}),
    ...(sampling ? { sampling } : {}),
    ...(env ? { env } : {}),
  };
}
