import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { AppError, messageOf } from '../../lib/errors.js';
import type { Runtime } from '../../runtime/runtime.js';
import type { Deployments } from '../deployments/deployments.js';
import type { Logs } from '../logs/logs.js';
import type { AgentStatsAnswer, ExplainAnswer } from './explain.schema.js';
import * as store from './explain.store.js';
import { lookAt, type Sight } from './sight.js';
import { explain } from './verdict.js';

const EVENTS_SHOWN = 10;
const LINES_SHOWN = 10;
/** Between the two looks that a share of CPU is made of. */
const CPU_WINDOW_MS = 200;

export interface ExplainOptions {
  db: Kysely<Schema>;
  runtime: Runtime;
  logs: Pick<Logs, 'lastOf'>;
  deployments: Pick<Deployments, 'noticesOf' | 'pressureOf'>;
  /** Whether this process reaches an instance's gateway. */
  reaches: (instanceId: string) => boolean;
  /** Throws where no provider serves the model. */
  checkModel: (model: string) => void;
}

/** Answers why an agent is as it is. It changes nothing and wakes nothing, and answers while the engine is away. */
export class Explain {
  readonly #options: ExplainOptions;

  constructor(options: ExplainOptions) {
    this.#options = options;
  }

  async agent(userId: string, agent: string, signal: AbortSignal): Promise<ExplainAnswer> {
    const { db, logs, reaches } = this.#options;
    const standing = await this.#standing(userId, agent);
    const { id, name, deployment_id, instance_id, instance_name } = standing;
    const [sight, turns, failure, events, log] = await Promise.all([
      lookAt(this.#options.runtime, instance_name, signal),
      store.readTurnsNow(db, userId, id),
      store.readLastFailure(db, userId, deployment_id),
      store.readLastEvents(db, userId, { agentId: id, deploymentId: deployment_id }, EVENTS_SHOWN),
      logs.lastOf(userId, { deploymentId: deployment_id, agent: name }, LINES_SHOWN, signal),
    ]);
    const linked = instance_id !== null && reaches(instance_id);
    const lastTurn = turns.last ? turnOf(turns.last) : null;
    const memoryLimitMib = memoryLimit(standing);
    const notices = this.#options.deployments.noticesOf(standing);
    const modelRefused = this.#whyNoModel(standing.model);
    return {
      agent: name,
      agent_id: id,
      ...explain({ standing, sight, linked, modelRefused, lastTurn, memoryLimitMib, notices }),
      desired: wishOf(standing),
      actual: {
        ...stateOf(standing, sight, memoryLimitMib),
        ...this.#options.deployments.pressureOf(standing),
        linked,
        turns_running: turns.running,
      },
      last_turn: lastTurn,
      last_failure: failureOf(failure, standing, sight),
      log: log.map(({ time, stream, level, message }) => ({ time, stream, level, message })),
      events: events.map(eventOf),
      budget: {
        tier: standing.tier,
        tokens_per_month: standing.tokens_per_month === null ? null : Number(standing.tokens_per_month),
        tokens_used: Number(standing.tokens ?? 0),
        renews_at: standing.next_month.toISOString(),
      },
    };
  }

  async stats(userId: string, agent: string, signal: AbortSignal): Promise<AgentStatsAnswer> {
    const { db } = this.#options;
    const standing = await this.#standing(userId, agent);
    const { id, name, deployment_id, started_at } = standing;
    const [now, work, turns, restarts] = await Promise.all([
      this.#measure(standing.instance_name, signal),
      store.sumWork(db, userId, id),
      store.readTurnsNow(db, userId, id),
      store.countRestarts(db, userId, deployment_id),
    ]);
    const running = now.sight.observed?.state === 'running';
    const [prompt, completion] = [Number(work.tokens.prompt), Number(work.tokens.completion)];
    return {
      agent: name,
      agent_id: id,
      running,
      shared: standing.kind !== 'dedicated',
      memory_bytes: now.sight.stats?.memoryBytes ?? null,
      memory_limit_mib: memoryLimit(standing),
      cpu_percent: now.cpuPercent,
      cpu_seconds: now.sight.stats?.cpuSeconds ?? null,
      cpu_limit_millis: Math.min(standing.limits?.cpu_millis ?? standing.cpu_millis, standing.cpu_millis),
      uptime_s: running && started_at ? Math.max(0, Math.floor((Date.now() - started_at.getTime()) / 1_000)) : null,
      restarts_24h: restarts,
      turns: {
        today: Number(work.turns.today),
        month: Number(work.turns.month),
        failed_month: Number(work.turns.failed),
        running: turns.running,
        last_at: turns.last?.created_at.toISOString() ?? null,
      },
      tokens_month: { prompt, completion, total: prompt + completion },
      note: now.sight.detail,
    };
  }

  async #standing(userId: string, agent: string): Promise<store.Standing> {
    const standing = await store.readStanding(this.#options.db, userId, agent);
    if (!standing) throw new AppError('not_found', 'agent not found');
    return standing;
  }

  /** What the instance takes now; of a share of CPU there is one only between two looks. */
  async #measure(name: string | null, signal: AbortSignal): Promise<{ sight: Sight; cpuPercent: number | null }> {
    const { runtime } = this.#options;
    const first = await lookAt(runtime, name, signal);
    const beganMs = performance.now();
    if (!first.stats || first.observed?.state !== 'running') return { sight: first, cpuPercent: null };
    await new Promise((resolve) => setTimeout(resolve, CPU_WINDOW_MS));
    const sight = await lookAt(runtime, name, signal);
    if (!sight.stats) return { sight, cpuPercent: null };
    const usedS = Math.max(0, sight.stats.cpuSeconds - first.stats.cpuSeconds);
    return { sight, cpuPercent: Math.round((usedS / ((performance.now() - beganMs) / 1_000)) * 1_000) / 10 };
  }

  #whyNoModel(model: string): string | undefined {
    try {
      this.#options.checkModel(model);
      return undefined;
    } catch (error) {
      return messageOf(error);
    }
  }
}

function memoryLimit({ limits, memory_mib }: store.Standing): number {
  return Math.min(limits?.memory_mib ?? memory_mib, memory_mib);
}

function wishOf({ desired, deployment_desired, model, wanted_version }: store.Standing): ExplainAnswer['desired'] {
  return { agent: desired, deployment: deployment_desired, model, config_version: wanted_version };
}

function stateOf(standing: store.Standing, { answers, detail, observed, stats }: Sight, memoryLimitMib: number) {
  const { instance_id, generation, started_at } = standing;
  return {
    deployment_id: standing.deployment_id,
    state: standing.state,
    stage: standing.stage,
    rest: standing.rest,
    attempts: standing.attempts,
    config_version: standing.applied_version,
    engine: { answers, detail },
    instance:
      instance_id === null
        ? null
        : {
            id: instance_id,
            generation: generation ?? 0,
            state: answers ? (observed?.state ?? ('gone' as const)) : ('unknown' as const),
            started_at: started_at?.toISOString() ?? null,
            memory_bytes: stats?.memoryBytes ?? null,
            memory_limit_mib: memoryLimitMib,
            // The engine itself tells only of one that has ended.
            child_oom_killed: (standing.oom_kills ?? 0) > 0 || observed?.childOomKilled === true,
          },
  };
}

type Failure = Awaited<ReturnType<typeof store.readLastFailure>>;

/** The live instance where the engine says that it ended just now; else the last one whose end was noted, its evidence in the words of that. */
function failureOf(failure: Failure, standing: store.Standing, { observed }: Sight): ExplainAnswer['last_failure'] {
  if (observed?.state === 'exited' && standing.instance_id !== null && standing.rest === null) {
    return {
      at: new Date().toISOString(),
      cause: 'the container has ended and is about to be made anew',
      evidence: {
        instance_id: standing.instance_id,
        exit_code: observed.exitCode ?? null,
        oom_killed: observed.oomKilled ?? null,
        engine_error: observed.error ?? null,
      },
    };
  }
  if (!failure) return null;
  const cause = failure.end_reason ?? 'no reason was noted';
  const oomKilled = cause.includes('ran out of memory');
  const code = /exit code (\d+)/.exec(cause)?.[1];
  return {
    at: failure.ended_at?.toISOString() ?? '',
    cause,
    evidence: {
      instance_id: failure.id,
      exit_code: oomKilled ? 137 : code === undefined ? null : Number(code),
      oom_killed: oomKilled,
      engine_error: /^the container could not run: (.*)$/s.exec(cause)?.[1] ?? null,
    },
  };
}

function turnOf(turn: { status: string; error: string | null; created_at: Date; ended_at: Date | null }) {
  const { status, error, created_at, ended_at } = turn;
  const ms = ended_at === null ? null : ended_at.getTime() - created_at.getTime();
  return { status, error, at: created_at.toISOString(), ms };
}

type EventRow = Awaited<ReturnType<typeof store.readLastEvents>>[number];

function eventOf({ seq, type, at, actor, payload }: EventRow): ExplainAnswer['events'][number] {
  const { reason } = payload;
  return { seq: Number(seq), type, at: at.toISOString(), actor, reason: typeof reason === 'string' ? reason : null };
}
