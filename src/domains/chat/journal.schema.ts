import { z } from '@hono/zod-openapi';

const Time = z.iso.datetime({ offset: true }).refine((text) => Date.parse(text) >= 0, 'must not be before 1970');
const Count = z.number().int().min(0).max(2_147_483_647).nullable();

export const JournalConversation = z.strictObject({
  id: z.string().regex(/^cnv_[0-9a-z]{26}$/),
  external_user: z.string().max(10_000).nullable(),
  memory_key: z.string().min(1).max(200),
  created_at: Time,
});
export type JournalConversation = z.infer<typeof JournalConversation>;

export const JournalTurn = z.strictObject({
  id: z.string().regex(/^trn_[0-9a-z]{26}$/),
  conversation_id: z.string().max(100).nullable(),
  status: z.enum(['finished', 'failed', 'cancelled']),
  messages: z.array(z.unknown()).max(10_000),
  reply: z.string().nullable(),
  error: z.string().max(100_000).nullable(),
  prompt_tokens: Count,
  completion_tokens: Count,
  created_at: Time,
  ended_at: Time.nullable(),
});
export type JournalTurn = z.infer<typeof JournalTurn>;

/** A line of an agent's journal as it leaves Berth and comes back: all conversations, then all turns that have ended, each in its order. */
export const JournalLine = z.union([
  z.strictObject({ conversation: JournalConversation }),
  z.strictObject({ turn: JournalTurn }),
]);
export type JournalLine = z.infer<typeof JournalLine>;
