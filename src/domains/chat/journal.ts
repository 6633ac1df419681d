import type { Kysely, Transaction } from 'kysely';
import type { Schema } from '../../db/schema.js';
import { newId } from '../../lib/ids.js';
import type { JournalConversation, JournalLine, JournalTurn } from './journal.schema.js';
import * as store from './journal.store.js';

const READ_AT_ONCE = 100;
const WRITE_AT_ONCE = 200;

/** All that the journal says of an agent, a page at a time: what is being said meanwhile may be missing, never be there in part. */
export async function* readJournal(db: Kysely<Schema>, userId: string, agentId: string): AsyncGenerator<JournalLine> {
  for (const page of [store.conversationsAfter, store.turnsAfter]) {
    let after = '';
    for (;;) {
      const lines = await page(db, userId, agentId, after, READ_AT_ONCE);
      yield* lines;
      const last = lines.at(-1);
      if (!last || lines.length < READ_AT_ONCE) break;
      after = 'turn' in last ? last.turn.id : last.conversation.id;
    }
  }
}

/**
 * Makes an agent's journal say just that; answers how many turns it had said before and does no more. Its conversations stay, also those of which
 * it says nothing now. `asOwn`: the lines are of this agent, here, and keep their ids; else each gets a new one.
 */
export async function replaceJournal(
  trx: Transaction<Schema>,
  userId: string,
  agentId: string,
  lines: AsyncIterable<JournalLine>,
  { asOwn }: { asOwn: boolean },
): Promise<number> {
  const removed = await store.deleteTurns(trx, userId, agentId);
  const ids = new Map<string, string>();
  const conversations: JournalConversation[] = [];
  const turns: JournalTurn[] = [];
  const flush = async () => {
    if (conversations.length > 0) await store.insertConversations(trx, userId, agentId, conversations.splice(0));
    if (turns.length > 0) await store.insertTurns(trx, userId, agentId, turns.splice(0));
  };
  for await (const line of lines) {
    if ('conversation' in line) {
      const { conversation } = line;
      if (!asOwn) ids.set(conversation.id, newId('cnv', Date.parse(conversation.created_at)));
      conversations.push({ ...conversation, id: ids.get(conversation.id) ?? conversation.id });
    } else {
      const { turn } = line;
      removed.delete(turn.id);
      const at = turn.conversation_id;
      const own = asOwn ? {} : { id: newId('trn', Date.parse(turn.created_at)), conversation_id: (at && ids.get(at)) ?? null };
      turns.push({ ...turn, ...own });
    }
    if (conversations.length + turns.length >= WRITE_AT_ONCE) await flush();
  }
  await flush();
  return removed.size;
}
