import { z } from '@hono/zod-openapi';
import { DiskStatus, PressureStatus } from '../deployments/deployments.schema.js';

export const VERDICTS = ['ok', 'waiting', 'asleep', 'stopped', 'failing', 'refusing'] as const;
export type Verdict = (typeof VERDICTS)[number];

const Reason = z.object({
  code: z.string().openapi({ example: 'container_failing' }),
  text: z.string(),
});

const LogText = z.object({
  time: z.string(),
  stream: z.enum(['stdout', 'stderr']),
  level: z.string().nullable(),
  message: z.string(),
});

const Instance = z.object({
  id: z.string(),
  generation: z.number().int(),
  state: z
    .enum(['created', 'running', 'paused', 'exited', 'gone', 'unknown'])
    .openapi({ description: '`gone`: the engine has none of it; `unknown`: the engine does not answer.' }),
  started_at: z.string().nullable(),
  memory_bytes: z.number().nullable(),
  memory_limit_mib: z.number().int(),
  child_oom_killed: z
    .boolean()
    .openapi({ description: 'Whether a process in it was killed for want of memory while it went on.' }),
});

const LastFailure = z.object({
  at: z.string(),
  cause: z.string(),
  evidence: z.object({
    instance_id: z.string(),
    exit_code: z.number().int().nullable(),
    oom_killed: z.boolean().nullable(),
    engine_error: z.string().nullable(),
  }),
});

export const ExplainAnswer = z
  .object({
    agent: z.string(),
    agent_id: z.string(),
    verdict: z.enum(VERDICTS).openapi({
      description:
        '`ok`: turns are served; `waiting`: on its way; `asleep`: woken by the next use; `stopped`: by its user; `failing`: its container does ' +
        'not come up; `refusing`: turns are refused or fail until somebody changes something.',
    }),
    summary: z.string().openapi({ description: 'One sentence.' }),
    reasons: z.array(Reason).openapi({ description: 'All that stands in its way or makes it slow, the weightiest first.' }),
    desired: z.object({
      agent: z.enum(['running', 'stopped']),
      deployment: z.enum(['running', 'asleep', 'deleted']),
      model: z.string(),
      config_version: z.number().int(),
    }),
    actual: z.object({
      deployment_id: z.string(),
      state: z.string(),
      stage: z.string(),
      rest: z.enum(['paused', 'stopped']).nullable(),
      attempts: z.number().int(),
      config_version: z.number().int().nullable().openapi({ description: 'What its gateway has confirmed.' }),
      linked: z.boolean().openapi({ description: 'Whether the process that answers can reach its gateway.' }),
      engine: z.object({ answers: z.boolean(), detail: z.string().nullable() }),
      instance: Instance.nullable(),
      disk: DiskStatus,
      pressure: PressureStatus,
      turns_running: z.number().int(),
    }),
    last_turn: z
      .object({ status: z.string(), error: z.string().nullable(), at: z.string(), ms: z.number().int().nullable() })
      .nullable(),
    last_failure: LastFailure.nullable().openapi({
      description: 'The last time that its container ended otherwise than Berth wished.',
    }),
    log: z.array(LogText).openapi({ description: 'The last lines of its container, of this agent or of none, without secrets.' }),
    events: z.array(
      z.object({ seq: z.number().int(), type: z.string(), at: z.string(), actor: z.string(), reason: z.string().nullable() }),
    ),
    budget: z.object({
      tier: z.string(),
      tokens_per_month: z.number().nullable(),
      tokens_used: z.number(),
      renews_at: z.string(),
    }),
    next: z
      .array(z.object({ what: z.string(), at: z.string().nullable() }))
      .openapi({ description: 'What Berth does next by itself, and when where that has a time.' }),
    you_can: z.array(z.string()),
  })
  .openapi('Explanation');
export type ExplainAnswer = z.infer<typeof ExplainAnswer>;

export const AgentStatsAnswer = z
  .object({
    agent: z.string(),
    agent_id: z.string(),
    running: z
      .boolean()
      .openapi({ description: 'Whether its container runs now. Where it is shared, the figures are of all in it.' }),
    shared: z.boolean(),
    memory_bytes: z.number().nullable(),
    memory_limit_mib: z.number().int(),
    cpu_percent: z.number().nullable().openapi({ description: 'Of one core, over a moment.' }),
    cpu_seconds: z.number().nullable(),
    cpu_limit_millis: z.number().int(),
    uptime_s: z.number().int().nullable(),
    restarts_24h: z.number().int(),
    turns: z.object({
      today: z.number().int(),
      month: z.number().int(),
      failed_month: z.number().int(),
      running: z.number().int(),
      last_at: z.string().nullable(),
    }),
    tokens_month: z.object({ prompt: z.number(), completion: z.number(), total: z.number() }),
    note: z.string().nullable().openapi({ description: 'Why figures of the container are missing though it should run.' }),
  })
  .openapi('AgentStats');
export type AgentStatsAnswer = z.infer<typeof AgentStatsAnswer>;
