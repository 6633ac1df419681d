import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { AppError } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import type { UsageEntry, UsageLedger, UsageOutcome } from '../../llm/ports.js';
import type { Tokens, UsageAnswer } from './usage.schema.js';
import * as store from './usage.store.js';

/** The ledger of tokens: a row is opened before a provider is asked and settled after, whatever became of the call. */
export class Usage implements UsageLedger {
  readonly #db: Kysely<Schema>;
  readonly #processId: string;

  constructor({ db, processId }: { db: Kysely<Schema>; processId: string }) {
    this.#db = db;
    this.#processId = processId;
  }

  /** `limit_exceeded` when the user's month is used up; no row is written then. */
  async open(entry: UsageEntry): Promise<string> {
    const id = newId('use');
    const isOpen = await store.insertUsageWithinBudget(this.#db, entry.userId, {
      id,
      deployment_id: entry.deploymentId,
      instance_id: entry.instanceId,
      agent_id: entry.agentDbId ?? null,
      agent: entry.agentId ?? null,
      turn_id: entry.turnId ?? null,
      process_id: this.#processId,
      model: entry.model,
      provider: entry.provider,
      attempt: entry.attempt,
    });
    if (isOpen) return id;
    throw await this.#whyRefused(entry.userId);
  }

  async settle(usageId: string, outcome: UsageOutcome): Promise<void> {
    const { status, usage, error } = outcome;
    await this.#settle(usageId, { status, ...usage, error: error ?? null });
  }

  /** Settles what dead processes left open, marked as cut off. */
  async settleAbandoned(): Promise<void> {
    for (const id of await store.readAbandonedAcrossTenants(this.#db)) {
      const none = { promptTokens: 0, completionTokens: 0, counted: true };
      await this.#settle(id, {
        status: 'cut_off',
        ...none,
        error: 'the process that made the call died',
      });
    }
  }

  /** The current month of a user: totals, by agent, by model, by day. */
  async month(userId: string): Promise<UsageAnswer> {
    const [budget, rows] = await Promise.all([store.readBudget(this.#db, userId), store.sumMonth(this.#db, userId)]);
    if (!budget) throw new AppError('not_found', 'user not found');
    const sums = rows.map((row) => ({ ...row, tokens: tokensOf(row) }));
    return {
      month: budget.month,
      limit_tokens: budget.tokens_per_month === null ? null : Number(budget.tokens_per_month),
      totals: sums.reduce((all, row) => add(all, row.tokens), NONE),
      by_agent: group(sums, (row) => row.agent_id ?? '').map(([, row, tokens]) => ({
        agent: row.agent,
        agent_id: row.agent_id,
        ...tokens,
      })),
      by_model: group(sums, (row) => row.model).map(([model, , tokens]) => ({ model, ...tokens })),
      by_day: group(sums, (row) => row.day).map(([day, , tokens]) => ({ day, ...tokens })),
    };
  }

  /** Part of the user's deletion. */
  async erase(trx: Transaction<Schema>, userId: string): Promise<void> {
    await store.deleteUsage(trx, userId);
  }

  async #settle(usageId: string, settlement: store.Settlement): Promise<void> {
    const tokens = settlement.promptTokens + settlement.completionTokens;
    await this.#db.transaction().execute(async (trx) => {
      const after = await store.settleUsageAcrossTenants(trx, usageId, settlement);
      if (!after) return;
      for (const percent of crossed(after, tokens)) {
        const payload = { percent, month: after.month, tokens: Number(after.tokens), limit_tokens: Number(after.limit_tokens) };
        await appendEvent(trx, after.user_id, { type: 'usage.threshold_crossed', actor: 'usage', requestId: null, payload });
      }
    });
  }

  async #whyRefused(userId: string): Promise<AppError> {
    const budget = await store.readBudget(this.#db, userId);
    if (!budget) return new AppError('not_found', 'user not found');
    return new AppError('limit_exceeded', `the ${budget.tokens_per_month} tokens a month of tier ${budget.tier} are used up`);
  }
}

/** Shares of a month's tokens that are worth a word. */
const THRESHOLDS = [80, 100];

/** Those that a call took the month over. */
function crossed({ tokens: after, limit_tokens: limit }: store.MonthAfter, tokens: number): number[] {
  if (limit === null) return [];
  const share = (of: number) => (of / Number(limit)) * 100;
  return THRESHOLDS.filter((percent) => share(Number(after) - tokens) < percent && share(Number(after)) >= percent);
}

type SumRow = Awaited<ReturnType<typeof store.sumMonth>>[number];

const NONE: Tokens = { calls: 0, failed: 0, prompt_tokens: 0, completion_tokens: 0, total_tokens: 0, counted_tokens: 0 };

function tokensOf(row: SumRow): Tokens {
  const prompt = Number(row.prompt_tokens);
  const completion = Number(row.completion_tokens);
  return {
    calls: Number(row.calls),
    failed: Number(row.failed),
    prompt_tokens: prompt,
    completion_tokens: completion,
    total_tokens: prompt + completion,
    counted_tokens: Number(row.counted_tokens),
  };
}

function add(a: Tokens, b: Tokens): Tokens {
  return {
    calls: a.calls + b.calls,
    failed: a.failed + b.failed,
    prompt_tokens: a.prompt_tokens + b.prompt_tokens,
    completion_tokens: a.completion_tokens + b.completion_tokens,
    total_tokens: a.total_tokens + b.total_tokens,
    counted_tokens: a.counted_tokens + b.counted_tokens,
  };
}

/** Adds up rows of one key; answers key, the last row of it, and its sum, in the order of keys. */
function group<Row extends { tokens: Tokens }>(rows: Row[], keyOf: (row: Row) => string): [string, Row, Tokens][] {
  const groups = new Map<string, [string, Row, Tokens]>();
  for (const row of rows) {
    const key = keyOf(row);
    groups.set(key, [key, row, add(groups.get(key)?.[2] ?? NONE, row.tokens)]);
  }
  return [...groups.values()].toSorted(([a], [b]) => a.localeCompare(b));
}
