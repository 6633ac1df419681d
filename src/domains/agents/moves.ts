import type { Kysely } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import type { StateClient } from '../../gateway/state.js';
import { messageOf } from '../../lib/errors.js';
import type { Log } from '../../lib/log.js';
import type { Deployments } from '../deployments/deployments.js';
import * as agents from './agents.store.js';
import * as store from './moves.store.js';

export interface AgentMovesOptions {
  db: Kysely<Schema>;
  log: Log;
  deployments: Deployments;
  state: StateClient;
}

const AT_A_TIME = 2;
/** How long a claim stands unless it is kept: what a killed process was at is begun anew after it. */
const CLAIM_S = 30;
const KEEP_EVERY_MS = 10_000;
const AGAIN_S = 1;
const AFTER_FAILURE_S = 10;

/**
 * Brings the files of agents after them that were given a deployment of their own. Until they are there the agent is in neither gateway's list of
 * those that run; the old one keeps them, and forgets them once the new one has them. Every step may be killed and done again.
 */
export class AgentMoves {
  readonly #options: AgentMovesOptions;

  constructor(options: AgentMovesOptions) {
    this.#options = options;
  }

  /** Works on all that move now. */
  async run(signal: AbortSignal): Promise<void> {
    const moves = await store.claimAcrossTenants(this.#options.db, AT_A_TIME, CLAIM_S);
    await Promise.all(moves.map((move) => this.#try(move, signal)));
  }

  async #try(move: store.Move, signal: AbortSignal): Promise<void> {
    const { db, log } = this.#options;
    const keeping = setInterval(() => {
      store
        .hold(db, move.user_id, move.id, CLAIM_S)
        .catch((error: unknown) => log.warn({ agent: move.id, err: error }, 'a move could not be kept'));
    }, KEEP_EVERY_MS);
    try {
      if (!(await this.#carry(move, signal))) await store.hold(db, move.user_id, move.id, AGAIN_S);
    } catch (error) {
      log.warn({ agent: move.id, err: error }, `an agent's files were not moved, and will be: ${messageOf(error)}`);
      await store.hold(db, move.user_id, move.id, AFTER_FAILURE_S);
    } finally {
      clearInterval(keeping);
    }
  }

  /** Copies and commits; false where the two instances are not both there yet. */
  async #carry(move: store.Move, signal: AbortSignal): Promise<boolean> {
    const { db, deployments, state } = this.#options;
    const ids = [move.moving_from, move.deployment_id];
    for (const id of ids) await deployments.wakeForFiles(move.user_id, id);
    const live = await store.liveInstances(db, move.user_id, ids);
    const [from, to] = ids.map((id) => live.get(id));
    if (from === undefined || to === undefined || !state.reaches(from) || !state.reaches(to)) return false;
    const agent = move.name;
    await state.copy({ instanceId: from, agent }, { instanceId: to, agent, incarnation: move.incarnation }, signal);
    await this.#arrive(move);
    return true;
  }

  async #arrive(move: store.Move): Promise<void> {
    const { db, deployments } = this.#options;
    const { user_id: userId, deployment_id, moving_from } = move;
    await db.transaction().execute(async (trx) => {
      if (!(await agents.lockUser(trx, userId))) return;
      await deployments.hold(trx, userId);
      const version = await deployments.changed(trx, userId, deployment_id);
      if (!(await store.arrive(trx, userId, move, version))) return;
      await deployments.agentLeft(trx, userId, moving_from);
      await appendEvent(trx, userId, {
        type: 'agent.moved',
        actor: 'agents',
        requestId: null,
        payload: { agent_id: move.id, deployment_id, from: moving_from },
      });
    });
    for (const id of [deployment_id, moving_from]) deployments.announce(id);
  }
}
