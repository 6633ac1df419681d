import type { Kysely, Transaction } from 'kysely';
import { isForeignKeyViolation } from '../../db/errors.js';
import type { Schema } from '../../db/schema.js';
import { AppError } from '../../lib/errors.js';
import type { PreparedTurn } from './chat.js';
import { insertConversationAndTurn, insertTurn, lockConversation, type NewTurn } from './chat.store.js';
import { appendStarted } from './turn-events.js';
import { requestCancel, runningIn } from './turns.store.js';

/** Whether its conversation decides if the turn may begin, so that it must be written down before anybody is asked. */
export function mayBeRefused({ onBusy, isNewConversation, conversationId }: PreparedTurn): boolean {
  return onBusy !== 'queue' && !isNewConversation && conversationId !== null;
}

/**
 * Writes the turn's row, and its conversation's where that is new. `not_found` where the agent was deleted since it was found, `conflict` where a turn
 * of its conversation runs and it is not to wait. Answers the turns that it interrupts: they are to be cancelled.
 */
export async function openJournal(
  db: Kysely<Schema>,
  prepared: PreparedTurn,
  more: Pick<NewTurn, 'processId' | 'instanceId' | 'kept'>,
): Promise<string[]> {
  const { turnId: id, userId, route, conversationId, wish } = prepared;
  const turn = { id, agentId: route.agentId, conversationId, messages: wish.messages, ...more };
  try {
    return await db.transaction().execute(async (trx) => {
      const interrupted = mayBeRefused(prepared) ? await makeWay(trx, userId, turn, prepared.onBusy === 'reject') : [];
      if (prepared.isNewConversation && conversationId !== null)
        await insertConversationAndTurn(trx, userId, { ...turn, conversationId });
      else await insertTurn(trx, userId, turn);
      await appendStarted(trx, { ...turn, userId }, wish.origin);
      return interrupted;
    });
  } catch (error) {
    if (isForeignKeyViolation(error)) throw new AppError('not_found', 'agent not found', { cause: error });
    throw error;
  }
}

/** No other turn is let into the conversation until the end of the transaction, on whatever process. Answers the turns that are to end. */
async function makeWay(trx: Transaction<Schema>, userId: string, turn: NewTurn, rejects: boolean): Promise<string[]> {
  const conversationId = turn.conversationId ?? '';
  await lockConversation(trx, userId, conversationId);
  const running = await runningIn(trx, userId, conversationId);
  if (rejects && running[0] !== undefined) {
    throw new AppError('conflict', `a turn of this conversation is running: ${running[0]}`, {
      retryAfterS: 1,
      headers: { 'Berth-Turn': running[0] },
    });
  }
  for (const id of running) await requestCancel(trx, userId, id);
  return running;
}
