import { z } from '@hono/zod-openapi';
import { STAGES } from './deployments.table.js';

const HostPattern = z
  .string()
  .max(253)
  .regex(
    /^(\*\.)?([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]{2,63}$/,
    'must be a host name such as api.example.com, or *.example.com',
  );

export const NetworkPolicy = z
  .discriminatedUnion(
    'mode',
    [
      z.strictObject({ mode: z.literal('closed') }),
      z.strictObject({ mode: z.literal('open') }),
      z.strictObject({ mode: z.literal('hosts'), hosts: z.array(HostPattern).min(1).max(100) }),
    ],
    { error: 'must be {"mode":"closed"}, {"mode":"open"} or {"mode":"hosts","hosts":[…]}' },
  )
  .openapi('NetworkPolicy', {
    description: 'What the agent may reach: nothing, the public internet, or the named hosts (ports 80 and 443).',
  });

const State = z.enum(['none', 'pending', 'deploying', 'ready', 'failing', 'deleting']);
const Stage = z.enum(STAGES);

export const DeploymentStatus = z
  .object({
    id: z.string(),
    kind: z.enum(['shared', 'dedicated']),
    agents: z.array(z.string()),
    state: State,
    stage: Stage,
    percent: z.number().int().min(0).max(100),
    reason: z.string().nullable().openapi({ description: 'Why the last attempt failed, in plain words.' }),
    attempts: z.number().int().openapi({ description: 'Failures in a row; forgotten after a minute of running.' }),
    next_attempt_at: z.string().nullable(),
    instance: z.object({ id: z.string(), generation: z.number().int(), started_at: z.string().nullable() }).nullable(),
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
    settled: z.boolean().openapi({ description: 'Whether nothing is on its way: every deployment is ready, or there is none.' }),
    deployments: z.array(DeploymentStatus),
  })
  .openapi('DeployStatus');
export type DeployStatus = z.infer<typeof DeployStatus>;
