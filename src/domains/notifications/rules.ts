import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { actorOf, type Change } from '../../lib/caller.js';
import { AppError, wrongField } from '../../lib/errors.js';
import { newId } from '../../lib/ids.js';
import { type Page, type PageRequest, pageOf } from '../../lib/page.js';
import { lockUser } from './channels.store.js';
import { conditionOf, isSame } from './condition.js';
import { type CreateRule, type RuleAnswer, ruleAnswer, type UpdateRule } from './rules.schema.js';
import * as store from './rules.store.js';

const RULES_AT_MOST = 50;
const DEDUPE_S = 300;

/** A user's rules: what is worth a notification. `matching.ts` and `checks.ts` hold them against what happens. */
export class Rules {
  readonly #db: Kysely<Schema>;

  constructor({ db }: { db: Kysely<Schema> }) {
    this.#db = db;
  }

  async create(userId: string, wish: CreateRule, change: Change): Promise<RuleAnswer> {
    const {
      kind,
      severity = 'warning',
      enabled = true,
      dedupe_s = DEDUPE_S,
      repeat_after_s = null,
      notify_resolved = true,
    } = wish;
    const condition = conditionOf(kind, wish);
    return this.#db.transaction().execute(async (trx) => {
      await lock(trx, userId);
      if ((await store.countRules(trx, userId)) >= RULES_AT_MOST)
        throw new AppError('limit_exceeded', `a user may have ${RULES_AT_MOST} rules`);
      const id = newId('nrl');
      await store.insertRule(trx, userId, {
        id,
        name: wish.name,
        kind,
        severity,
        enabled,
        agent_id: await agentId(trx, userId, kind, wish.agent ?? null),
        condition: JSON.stringify(condition),
        dedupe_s,
        repeat_after_s,
        notify_resolved,
      });
      await setChannels(trx, userId, id, wish.channels ?? []);
      const answer = await read(trx, userId, id);
      await say(trx, userId, 'created', id, change, { startsNow: true });
      return answer;
    });
  }

  async list(userId: string, page: PageRequest): Promise<Page<RuleAnswer>> {
    const [rows, total] = await Promise.all([store.listRules(this.#db, userId, page), store.countRules(this.#db, userId)]);
    return pageOf(rows, page, total, ruleAnswer);
  }

  get(userId: string, id: string): Promise<RuleAnswer> {
    return read(this.#db, userId, id);
  }

  /** A rule whose condition or agent changes, or that is turned on or off, begins anew: it does not fire until it is found to. */
  async update(userId: string, id: string, wish: UpdateRule, version: number | undefined, change: Change): Promise<RuleAnswer> {
    return this.#db.transaction().execute(async (trx) => {
      await lock(trx, userId);
      const before = await store.readRule(trx, userId, id);
      if (!before) throw new AppError('not_found', 'rule not found');
      const condition = conditionOf(before.kind, wish, before.condition);
      const agent = wish.agent === undefined ? before.agent_id : await agentId(trx, userId, before.kind, wish.agent);
      const turned = wish.enabled !== undefined && wish.enabled !== before.enabled;
      const isOther = turned || agent !== before.agent_id || !isSame(condition, before.condition);
      const { name, severity, enabled, dedupe_s, repeat_after_s, notify_resolved } = wish;
      const plain = { name, severity, enabled, dedupe_s, repeat_after_s, notify_resolved };
      const set = { ...plain, agent_id: agent, condition: JSON.stringify(condition), begins: isOther ? before.kind : undefined };
      if (!(await store.updateRule(trx, userId, id, set, version)))
        throw new AppError('precondition_failed', 'the rule has changed since that version');
      if (wish.channels) await setChannels(trx, userId, id, wish.channels);
      const answer = await read(trx, userId, id);
      await say(trx, userId, 'updated', id, change, { fields: Object.keys(wish), startsNow: isOther });
      return answer;
    });
  }

  async delete(userId: string, id: string, change: Change): Promise<void> {
    await this.#db.transaction().execute(async (trx) => {
      if (!(await store.deleteRule(trx, userId, id))) throw new AppError('not_found', 'rule not found');
      await say(trx, userId, 'deleted', id, change, {});
    });
  }
}

async function lock(trx: Transaction<Schema>, userId: string): Promise<void> {
  if (!(await lockUser(trx, userId))) throw new AppError('not_found', 'user not found');
}

async function read(db: Kysely<Schema>, userId: string, id: string): Promise<RuleAnswer> {
  const row = await store.readRule(db, userId, id);
  if (!row) throw new AppError('not_found', 'rule not found');
  return ruleAnswer(row);
}

async function agentId(
  trx: Transaction<Schema>,
  userId: string,
  kind: store.RuleRow['kind'],
  agent: string | null,
): Promise<string | null> {
  if (agent === null) {
    if (kind === 'silence') throw wrongField('agent', 'is required for this kind');
    return null;
  }
  const found = await store.findAgent(trx, userId, agent);
  if (found === undefined) throw wrongField('agent', 'must be the id or the name of an agent');
  return found;
}

async function setChannels(trx: Transaction<Schema>, userId: string, ruleId: string, channels: string[]): Promise<void> {
  const wished = [...new Set(channels)];
  const own = new Set(await store.ownChannels(trx, userId, wished));
  const strange = channels.findIndex((id) => !own.has(id));
  if (strange !== -1) throw wrongField(`channels.${strange}`, 'must be the id of a channel');
  await store.setChannels(trx, userId, ruleId, wished);
}

async function say(
  trx: Transaction<Schema>,
  userId: string,
  action: string,
  id: string,
  { caller, requestId }: Change,
  { fields, startsNow = false }: { fields?: string[]; startsNow?: boolean },
): Promise<void> {
  const payload = { rule_id: id, ...(fields ? { fields } : {}) };
  const seq = await appendEvent(trx, userId, {
    type: `notification.rule_${action}`,
    actor: actorOf(caller),
    requestId,
    payload,
  });
  if (startsNow) await store.setStart(trx, userId, id, seq);
}
