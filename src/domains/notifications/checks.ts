import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { messageOf as errorText } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import * as measures from './measures.store.js';
import { record } from './recorder.js';
import * as store from './rules.store.js';
import { checkAgainS, findingOf, type Measure } from './threshold.js';
import { measuredHappening } from './wording.js';

export interface ChecksOptions {
  db: Kysely<Schema>;
  log: Log;
  /** How soon a rule is measured again, where that is not to be by its window. */
  againS?: number | undefined;
}

/** Rules in one run; the rest comes in the next. */
const AT_MOST = 5_000;
/** How long one that cannot be measured is left alone. */
const PUT_OFF_S = 60;

/** Measures what rules watch, each when it is due and by one process: what it says is written in the transaction that holds the rule. */
export class Checks {
  readonly #db: Kysely<Schema>;
  readonly #log: Log;
  readonly #againS: number | undefined;

  constructor({ db, log, againS }: ChecksOptions) {
    this.#db = db;
    this.#log = log;
    this.#againS = againS;
  }

  async run(signal: AbortSignal): Promise<void> {
    for (let done = 0; done < AT_MOST && !signal.aborted; done++) {
      if (!(await this.#checkOne())) return;
    }
  }

  /** Answers whether there was one to check. What goes wrong with it holds up no other. */
  async #checkOne(): Promise<boolean> {
    let taken: store.RuleRow | undefined;
    try {
      return await this.#db.transaction().execute((trx) => this.#checkNext(trx, (rule) => (taken = rule)));
    } catch (error) {
      if (!taken) throw error;
      this.#log.error({ rule: taken.id, err: error }, `a rule cannot be checked: ${errorText(error)}`);
      await store.putOff(this.#db, taken.user_id, taken.id, PUT_OFF_S);
      return true;
    }
  }

  async #checkNext(trx: Transaction<Schema>, take: (rule: store.RuleRow) => void): Promise<boolean> {
    const rule = await store.takeDueRuleAcrossTenants(trx);
    if (!rule) return false;
    take(rule);
    const measure = await measured(trx, rule);
    const { state, say } = findingOf(rule, measure, rule.said_s);
    await store.noteFinding(trx, rule.user_id, rule.id, {
      state,
      value: measure.value ?? null,
      isSaid: say === 'firing' || say === 'again',
      againS: this.#againS ?? checkAgainS(rule.condition),
    });
    await record(trx, rule.user_id, say === undefined ? [] : [measuredHappening(rule, say, measure)]);
    return true;
  }
}

async function measured(trx: Transaction<Schema>, rule: store.RuleRow): Promise<Measure> {
  const { user_id: userId, agent_id: agentId } = rule;
  const span = { agentId, windowS: rule.condition.window_s ?? 0 };
  switch (rule.kind) {
    case 'spend':
      return { value: await measures.sumTokens(trx, userId, span) };
    case 'error_rate': {
      const { failed, all } = await measures.countTurns(trx, userId, span);
      return { value: all === 0 ? 0 : (100 * failed) / all, outOf: all };
    }
    case 'restarts':
      return { value: await measures.countDeaths(trx, userId, span) };
    case 'silence':
      return { value: agentId === null ? undefined : await measures.secondsSilent(trx, userId, agentId, rule.enabled_at) };
    case 'event':
      return { value: undefined };
  }
}
