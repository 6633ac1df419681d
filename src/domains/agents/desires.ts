import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import { AppError } from '../../lib/errors.js';
import type { By, Deployments } from '../deployments/deployments.js';
import * as store from './agents.store.js';

export type Desire = 'running' | 'stopped' | 'restarted';

const EVENTS = { running: 'agent.started', stopped: 'agent.stopped', restarted: 'agent.restarted' };

/** Whether agents are to run. A deployment in which none is sleeps; its files stay within reach. */
export class Desires {
  readonly #db: Kysely<Schema>;
  readonly #deployments: Deployments;

  constructor({ db, deployments }: { db: Kysely<Schema>; deployments: Deployments }) {
    this.#db = db;
    this.#deployments = deployments;
  }

  /** Asking for what is so already changes nothing, but for a restart: each is one more. To restart what is stopped is to start it. */
  async set(userId: string, agent: string, wish: Desire, by: By): Promise<store.AgentRow> {
    const deployments = this.#deployments;
    const after = await this.#db.transaction().execute(async (trx) => {
      if (!(await store.lockUser(trx, userId))) throw new AppError('not_found', 'user not found');
      const before = await store.findAgent(trx, userId, agent);
      if (!before) throw new AppError('not_found', 'agent not found');
      const desired = wish === 'stopped' ? 'stopped' : 'running';
      const isNews = before.desired !== desired;
      if (!isNews && wish !== 'restarted') return before;
      if (isNews) {
        await store.updateAgent(trx, userId, before.id, { desired }, undefined);
        const configVersion = await deployments.agentsDesireChanged(trx, userId, before.deployment_id);
        await store.awaitVersion(trx, userId, { agentId: before.id }, configVersion);
      }
      if (wish === 'restarted') await deployments.restart(trx, userId, before.deployment_id);
      await appendEvent(trx, userId, { type: EVENTS[wish], ...by, payload: { agent_id: before.id } });
      return (await store.findAgent(trx, userId, before.id)) ?? before;
    });
    deployments.announce(after.deployment_id);
    if (wish !== 'stopped') await deployments.wake(userId, after.deployment_id, 'asked');
    return after;
  }
}
