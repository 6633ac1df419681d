import { z } from '@hono/zod-openapi';
import { Model } from '../agents/agents.schema.js';
import { NETWORK_FIELDS, NetworkPolicy } from '../deployments/deployments.schema.js';
import { problemOfVariable } from '../secrets/names.schema.js';
import { ACTIVE_HOURS_FIELDS, Heartbeat, HEARTBEAT_FIELDS } from './heartbeat.schema.js';

const ToolName = z
  .string()
  .regex(/^(\*|[A-Za-z][A-Za-z0-9_-]{0,63})$/, 'must be the name of a tool, or *')
  .openapi({ example: 'fetch_url' });
const ToolNames = z.array(ToolName).max(100);
const penalty = z.number().min(-2).max(2);
const StopText = z.string().min(1).max(200);

const TOOLS_FIELDS = {
  allow: ToolNames.openapi({ description: 'The only tools the agent has; all unless told.' }),
  deny: ToolNames.openapi({ description: 'Tools the agent does not have; stronger than `allow`.' }),
};
const SAMPLING_FIELDS = {
  temperature: z.number().min(0).max(2),
  top_p: z.number().min(0).max(1),
  max_tokens: z.number().int().min(1).max(1_000_000),
  frequency_penalty: penalty,
  presence_penalty: penalty,
  seed: z.number().int().min(-2_147_483_648).max(2_147_483_647),
  stop: z.union([StopText, z.array(StopText).min(1).max(4)]),
};
const LIMIT_FIELDS = {
  memory_mib: z.number().int().min(128).max(1_048_576),
  cpu_millis: z.number().int().min(50).max(1_024_000),
  pids: z.number().int().min(32).max(65_536),
};
const EnvName = z
  .string()
  .refine((name) => problemOfVariable(name) === undefined, { error: ({ input }) => problemOfVariable(String(input)) ?? '' })
  .openapi({ example: 'GREETING' });
const ENV_CHARS = 32_768;
const MaxSteps = z.number().int().min(1).max(200).openapi({ description: 'Most model calls of a turn.' });
const Shell = z
  .enum(['on', 'off'], { error: 'must be on or off' })
  .openapi({ description: '`off` is a deny of the shell tool.' });
const Env = z
  .record(EnvName, z.string().max(8_192))
  .refine((env) => Object.keys(env).length <= 100, 'must hold at most 100 variables')
  .refine((env) => JSON.stringify(env).length <= ENV_CHARS, `must have at most ${ENV_CHARS} characters in all`)
  .openapi({ description: 'Variables that are not secret, for the tools of the agent. A secret of the same name is stronger.' });
const Image = z
  .string()
  .min(1)
  .max(300)
  .openapi({ description: 'One that the operator offers (`images`); null: the usual one.' });
const OnBusy = z.enum(['queue', 'reject', 'interrupt'], { error: 'must be queue, reject or interrupt' }).openapi({
  description: 'What becomes of a message while a turn of its conversation runs, where the request does not say it.',
});
const Isolation = z.enum(['dedicated'], { error: 'must be dedicated' }).openapi({
  description: 'A container of its own. An agent that has one keeps it.',
});

type Shape = Record<string, z.ZodType>;
type Patched<T extends Shape> = { [K in keyof T]: z.ZodOptional<z.ZodNullable<T[K]>> };
type Kept<T extends Shape> = { [K in keyof T]: z.ZodOptional<T[K]> };

const patched = <T extends Shape>(shape: T) => mapped(shape, (one) => one.nullable().optional()) as Patched<T>;
const kept = <T extends Shape>(shape: T) => mapped(shape, (one) => one.optional()) as Kept<T>;

function mapped(shape: Shape, change: (one: z.ZodType) => z.ZodType): Shape {
  return Object.fromEntries(Object.entries(shape).map(([name, one]) => [name, change(one)]));
}

/** `"none"` and `"open"` stand for the whole policy; of an object each field is merged. */
const NetworkPatch = z
  .preprocess(
    (wish) => (wish === 'none' || wish === 'open' ? { mode: wish, hosts: null, ports: null } : wish),
    z.strictObject(patched({ mode: z.enum(['none', 'allowlist', 'open']), ...NETWORK_FIELDS })),
  )
  .openapi({ description: '`"none"` and `"open"` are short for `{"mode": …}` without hosts and ports.' });

/** Fields without an inside of their own: the same in a patch and in the document. */
const PLAIN_FIELDS = { model: Model, max_steps: MaxSteps, shell: Shell, on_busy: OnBusy, image: Image, isolation: Isolation };

/** What an agent's config says besides the defaults. */
export const ConfigDocument = z
  .strictObject({
    ...kept(PLAIN_FIELDS),
    tools: z.strictObject(kept(TOOLS_FIELDS)).optional(),
    sampling: z.strictObject(kept(SAMPLING_FIELDS)).optional(),
    network: NetworkPolicy.optional(),
    heartbeat: Heartbeat.optional(),
    env: Env.optional(),
    limits: z.strictObject(kept(LIMIT_FIELDS)).optional(),
  })
  .openapi('AgentConfigDocument');
export type ConfigDocument = z.infer<typeof ConfigDocument>;

/** A merge patch (RFC 7396) of the document: what is named changes, null removes it, lists are replaced whole. */
export const ConfigPatch = z
  .strictObject({
    ...patched(PLAIN_FIELDS),
    tools: z.strictObject(patched(TOOLS_FIELDS)).nullable().optional(),
    sampling: z.strictObject(patched(SAMPLING_FIELDS)).nullable().optional(),
    network: NetworkPatch.nullable().optional(),
    heartbeat: z
      .strictObject({
        ...patched(HEARTBEAT_FIELDS),
        active_hours: z.strictObject(patched(ACTIVE_HOURS_FIELDS)).nullable().optional(),
      })
      .nullable()
      .optional(),
    env: z.record(EnvName, z.string().max(8_192).nullable()).nullable().optional(),
    limits: z.strictObject(patched(LIMIT_FIELDS)).nullable().optional(),
  })
  .openapi('AgentConfigPatch', {
    description: 'A JSON merge patch (RFC 7396): what is named changes, null lets the default show through, lists are replaced.',
  });
export type ConfigPatch = z.infer<typeof ConfigPatch>;

/** Every field, as it is in force. */
export const EffectiveConfig = z
  .object({
    model: z.string(),
    tools: z.object({ allow: z.array(z.string()).nullable(), deny: z.array(z.string()) }),
    max_steps: z.number().int(),
    sampling: z.object(kept(SAMPLING_FIELDS)),
    shell: Shell,
    on_busy: OnBusy,
    network: NetworkPolicy,
    heartbeat: z.object({
      every: z.string(),
      active_hours: z.object({ start: z.string(), end: z.string(), time_zone: z.string() }).nullable(),
    }),
    env: z.record(z.string(), z.string()),
    limits: z.object(LIMIT_FIELDS),
    image: z.string().nullable().openapi({ description: 'null: the usual one.' }),
    isolation: z.enum(['shared', 'dedicated']),
  })
  .openapi('AgentConfigInForce');
export type EffectiveConfig = z.infer<typeof EffectiveConfig>;

export const ConfigAnswer = z
  .object({
    agent: z.string(),
    version: z.number().int(),
    config: EffectiveConfig,
    document: ConfigDocument.openapi({ description: 'What was set for this agent.' }),
    defaults: EffectiveConfig.openapi({ description: 'What shows through where nothing was set.' }),
    images: z.array(z.string()).openapi({ description: 'Names that `image` may have.' }),
    updated_at: z.string().nullable(),
  })
  .openapi('AgentConfig');
export type ConfigAnswer = z.infer<typeof ConfigAnswer>;

export const ConfigChanged = ConfigAnswer.extend({
  changed: z.array(z.string()).openapi({ description: 'The fields that are not as they were.' }),
  applies: z.enum(['live', 'replaces_container']).openapi({
    description:
      '`live`: the next turn has it; network and limits hold as soon as the container has them, while it runs. ' +
      '`replaces_container`: a new container is on its way; see deploy/status.',
  }),
  replaces_container: z.array(z.string()).openapi({ description: 'The changed fields that need a new container.' }),
}).openapi('AgentConfigChanged');
export type ConfigChanged = z.infer<typeof ConfigChanged>;

export const ConfigVersion = z
  .object({
    version: z.number().int(),
    document: ConfigDocument,
    changed: z.array(z.string()),
    actor: z.string().nullable(),
    created_at: z.string(),
  })
  .openapi('AgentConfigVersion');
export type ConfigVersion = z.infer<typeof ConfigVersion>;
