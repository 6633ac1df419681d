import { isIP } from 'node:net';
import { z } from '@hono/zod-openapi';
import { classifyAddress } from '../../lib/addresses.js';
import { STAGES } from './deployments.table.js';

/** A last label of letters: `127.1` and the like are addresses to some programs, and no names. */
const HOST_NAME = /^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?\.)+([a-z]{2,63}|xn--[a-z0-9-]{1,59})$/;
/** Names that mean the machine itself or its neighbours, wherever they are asked for. */
const PRIVATE_NAME = /\.(localhost|local|localdomain|internal|intranet|lan|home\.arpa|corp|home)$/;

const HostPattern = z
  .string()
  .max(253)
  .toLowerCase()
  .refine((host) => isIP(host) !== 0 || HOST_NAME.test(host), {
    error: 'must be a host name such as api.example.com, *.example.com, or an IP address',
    abort: true,
  })
  .refine(
    (host) => (isIP(host) === 0 ? !PRIVATE_NAME.test(host) : classifyAddress(host) === 'public'),
    'is not an address or name of the public internet',
  )
  .openapi({ example: 'api.example.com' });

const Ports = z
  .array(z.number().int().min(1).max(65_535))
  .min(1)
  .max(50)
  .openapi({ description: '80 and 443 unless told.', example: [443] });

export const NETWORK_FIELDS = { hosts: z.array(HostPattern).min(1).max(100), ports: Ports };

/** As it is kept and shown. */
export const NetworkPolicy = z
  .discriminatedUnion(
    'mode',
    [
      z.strictObject({ mode: z.literal('none') }),
      z.strictObject({ mode: z.literal('open'), ports: Ports.optional() }),
      z.strictObject({ mode: z.literal('allowlist'), hosts: NETWORK_FIELDS.hosts, ports: Ports.optional() }),
    ],
    { error: 'must be {"mode":"none"}, {"mode":"open"} or {"mode":"allowlist","hosts":[…]}' },
  )
  .openapi('NetworkPolicy', {
    description:
      'What the agent may reach besides the LLM gateway: nothing, the named hosts (`*.suffix` for every name under it), or the public ' +
      'internet; by ports 80 and 443 unless others are named. Private addresses are out of reach in every mode.',
  });

/** As it may be asked for: `"none"` and `"open"` are short for the objects. */
export const NetworkWish = z
  .preprocess((wish) => (wish === 'none' || wish === 'open' ? { mode: wish } : wish), NetworkPolicy)
  .openapi({ description: '`"none"` and `"open"` are short for `{"mode": …}`.' });

const State = z.enum(['none', 'pending', 'deploying', 'ready', 'asleep', 'failing', 'deleting']);
const Stage = z.enum(STAGES);

/** How its limits hold it; shown by `explain` too. */
export const DiskStatus = z
  .object({
    bound: z.enum(['hard', 'soft']).nullable().openapi({
      description:
        '`hard`: its volume is a file system of its own; `soft`: somebody looks now and then, and one that holds too much is ended. Null until it is made.',
    }),
    limit_mib: z.number().int(),
    used_mib: z.number().int().nullable().openapi({ description: 'When it was last measured; null before.' }),
    full: z.boolean(),
  })
  .openapi('DiskStatus');

export const PressureStatus = z
  .object({
    oom_kills: z.number().int().openapi({ description: 'Processes of this instance that were killed for want of memory.' }),
    last_oom_at: z.string().nullable(),
    cpu_throttled_percent: z.number().int().nullable().openapi({
      description: 'Of the time in which it wanted CPU, when it was last measured: the share in which it was held back.',
    }),
  })
  .openapi('PressureStatus');

export const DeploymentStatus = z
  .object({
    id: z.string(),
    kind: z.enum(['shared', 'dedicated']),
    agents: z.array(z.string()),
    state: State,
    stage: Stage,
    percent: z.number().int().min(0).max(100),
    reason: z.string().nullable().openapi({ description: 'Why the last attempt failed or what it waits for, in plain words.' }),
    queue: z
      .object({ position: z.number().int(), since: z.string() })
      .nullable()
      .openapi({ description: 'Its place among those that wait for room on the host. Users take turns.' }),
    rest: z
      .enum(['paused', 'stopped'])
      .nullable()
      .openapi({ description: 'How it sleeps for want of use; the next use wakes it.' }),
    attempts: z.number().int().openapi({ description: 'Failures in a row; forgotten after a minute of running.' }),
    next_attempt_at: z.string().nullable(),
    instance: z.object({ id: z.string(), generation: z.number().int(), started_at: z.string().nullable() }).nullable(),
    disk: DiskStatus,
    pressure: PressureStatus,
    notices: z
      .array(z.object({ code: z.string(), text: z.string() }))
      .openapi({ description: 'What its limits do to it, in plain words.' }),
    stages: z.array(z.object({ stage: Stage, started_at: z.string(), ms: z.number().int().nullable() })),
  })
  .openapi('DeploymentStatus');
export type DeploymentStatus = z.infer<typeof DeploymentStatus>;

export const DeployStatus = z
  .object({
    user: z.string(),
    state: State.openapi({ description: 'The least finished of the deployments; `none` when there is no agent.' }),
    stage: Stage.nullable(),
    percent: z.number().int(),
    reason: z.string().nullable(),
    attempts: z.number().int(),
    settled: z
      .boolean()
      .openapi({ description: 'Whether nothing is on its way: every deployment is ready or asleep, or there is none.' }),
    deployments: z.array(DeploymentStatus),
  })
  .openapi('DeployStatus');
export type DeployStatus = z.infer<typeof DeployStatus>;

const count = z.number().int();

/** What it is to run: the fields of a deployment and of each of its revisions. */
const WHAT_RUNS = {
  kind: z.enum(['shared', 'dedicated']),
  image: z.string(),
  image_from: z.enum(['config', 'rollout', 'installation']).openapi({
    description: 'Who chose the image: the config of its agent, a rollout of the operator, or nobody: it is the usual one.',
  }),
  network: NetworkPolicy,
  limits: z
    .object({ memory_mib: count, cpu_millis: count, pids: count })
    .openapi({ description: "What its container may take: the tier's, or less." }),
  limits_set: z
    .object({ memory_mib: count.optional(), cpu_millis: count.optional(), pids: count.optional() })
    .nullable()
    .openapi({ description: 'What was asked for below the tier.' }),
  tier: z.string(),
  agents: z.array(
    z.object({
      id: z.string(),
      name: z.string(),
      model: z.string(),
      config_version: count.openapi({ description: 'The version of its config; 0: none was ever set.' }),
    }),
  ),
};

const Change = z.object({
  path: z.string().openapi({ example: 'limits.memory_mib' }),
  before: z.unknown().openapi({ description: 'null: not there.' }),
  after: z.unknown(),
});

export const RevisionAnswer = z
  .object({
    deployment_id: z.string(),
    revision: count,
    ...WHAT_RUNS,
    changes: z.array(Change).openapi({ description: 'Where it differs from the revision before it.' }),
    actor: z.string(),
    request_id: z.string().nullable(),
    reason: z.string().nullable(),
    created_at: z.string(),
  })
  .openapi('DeploymentRevision');
export type RevisionAnswer = z.infer<typeof RevisionAnswer>;

export const RevisionDiff = z
  .object({ deployment_id: z.string(), from: count, to: count, changes: z.array(Change) })
  .openapi('DeploymentRevisionDiff');
export type RevisionDiff = z.infer<typeof RevisionDiff>;

const InstanceAnswer = z.object({
  id: z.string(),
  generation: count,
  role: z.enum(['current', 'incoming']).openapi({ description: '`incoming`: it is taking the place of the current one.' }),
  image: z.string().nullable(),
  limits: z.string(),
  created_at: z.string(),
  started_at: z.string().nullable(),
  ended_at: z.string().nullable(),
  end_reason: z.string().nullable(),
});
export type InstanceAnswer = z.infer<typeof InstanceAnswer>;

export const DeploymentAnswer = z
  .object({
    id: z.string(),
    revision: count.openapi({ description: 'The newest one: what it is to run.' }),
    ...WHAT_RUNS,
    status: DeploymentStatus.openapi({ description: 'How far that is.' }),
    created_at: z.string(),
  })
  .openapi('Deployment');
export type DeploymentAnswer = z.infer<typeof DeploymentAnswer>;

export const DeploymentDetail = DeploymentAnswer.extend({
  instances: z
    .array(InstanceAnswer)
    .openapi({ description: 'The containers that it has and had, newest first; those that ended for a week.' }),
}).openapi('DeploymentDetail');
export type DeploymentDetail = z.infer<typeof DeploymentDetail>;
