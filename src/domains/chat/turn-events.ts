import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { appendEvent } from '../../events/outbox.js';
import * as store from './chat.store.js';

/** Who asked for a turn, for its events. */
export interface Origin {
  actor: string;
  requestId: string | null;
}

/** A turn as its events name it. Nothing of what was said is in them. */
export interface TurnNames {
  id: string;
  userId: string;
  agentId: string;
  conversationId: string | null;
}

/** Tools of one turn that have an event each; how many there were is in the turn's own. */
const TOOLS_TOLD = 32;

/** Says in the transaction of its row that a turn began. */
export async function appendStarted(trx: Transaction<Schema>, turn: TurnNames, origin: Origin | undefined): Promise<void> {
  const { actor, requestId } = origin ?? { actor: 'chat', requestId: null };
  await appendEvent(trx, turn.userId, { type: 'turn.started', actor, requestId, payload: namesOf(turn) });
}

/** Writes down how a turn ended, with its events, unless another has; the tools it called are told here, so that a turn costs two transactions whatever it does. */
export async function endTurn(
  db: Kysely<Schema>,
  turn: TurnNames,
  end: store.TurnSettlement,
  tools: readonly string[],
): Promise<void> {
  await db.transaction().execute(async (trx) => {
    if (!(await store.settleTurn(trx, turn.userId, turn.id, end))) return;
    for (const tool of tools.slice(0, TOOLS_TOLD)) {
      const payload = { ...namesOf(turn), tool };
      await appendEvent(trx, turn.userId, { type: 'tool.called', actor: 'agent', requestId: null, payload });
    }
    await appendEnded(trx, turn, end, tools.length);
  });
}

/** Settles turns that dead processes left running. */
export async function endAbandoned(db: Kysely<Schema>): Promise<void> {
  await db.transaction().execute(async (trx) => {
    const rows = await store.settleAbandonedAcrossTenants(trx);
    // One user after the other, in an order that all processes keep.
    for (const row of rows.toSorted((a, b) => a.user_id.localeCompare(b.user_id))) {
      const turn = { id: row.id, userId: row.user_id, agentId: row.agent_id, conversationId: row.conversation_id };
      await appendEnded(trx, turn, { status: 'failed', errorCode: 'unavailable' }, 0);
    }
  });
}

async function appendEnded(
  trx: Transaction<Schema>,
  turn: TurnNames,
  { status, errorCode, usage }: Pick<store.TurnSettlement, 'status' | 'errorCode'> & Partial<Pick<store.TurnSettlement, 'usage'>>,
  tools: number,
): Promise<void> {
  const code = errorCode ? { code: errorCode } : {};
  const tokens = usage ? { prompt_tokens: usage.prompt_tokens, completion_tokens: usage.completion_tokens } : {};
  const payload = { ...namesOf(turn), tools, ...tokens, ...code };
  await appendEvent(trx, turn.userId, { type: `turn.${status}`, actor: 'chat', requestId: null, payload });
}

function namesOf({ id, agentId, conversationId }: TurnNames): Record<string, unknown> {
  return { turn_id: id, agent_id: agentId, conversation_id: conversationId };
}
