import { z } from '@hono/zod-openapi';
import { Messages } from './chat.schema.js';

const Title = z.string().trim().min(1).max(200, 'must have at most 200 characters');

export const Conversation = z
  .object({
    id: z.string(),
    agent: z.string(),
    agent_id: z.string(),
    title: z.string().nullable().openapi({ description: 'As it was named; else the beginning of its first message.' }),
    created_at: z.string(),
    last_turn_at: z.string(),
  })
  .openapi('Conversation');
export type Conversation = z.infer<typeof Conversation>;

export const ConversationMessage = z
  .object({
    turn_id: z.string(),
    role: z.string(),
    content: z.unknown().openapi({ description: 'A text, or the parts as they were sent.' }),
    status: z.enum(['running', 'finished', 'failed', 'cancelled']).openapi({ description: 'Of the turn.' }),
    created_at: z.string(),
  })
  .openapi('ConversationMessage');
export type ConversationMessage = z.infer<typeof ConversationMessage>;

export const ConversationWithMessages = Conversation.extend({
  messages: z.array(ConversationMessage).openapi({ description: 'Of the last 50 turns, oldest first.' }),
}).openapi('ConversationWithMessages');

export const CreateConversation = z
  .strictObject({ agent: z.string().max(64), title: Title.optional() })
  .openapi('CreateConversation');
export const CreateConversationOfAgent = z.strictObject({ title: Title.optional() }).openapi('CreateConversationOfAgent');
export const RenameConversation = z.strictObject({ title: Title.nullable() }).openapi('RenameConversation');

/** One message, in short or as the chat takes it. */
export const SendMessage = z
  .union([
    z.strictObject({ content: z.string().min(1) }),
    z.strictObject({ message: z.string().min(1) }),
    z.strictObject({ messages: Messages }),
  ])
  .openapi('SendMessage');
export type SendMessage = z.infer<typeof SendMessage>;

export const Search = z.string().trim().min(1).max(200).optional().openapi({
  description: 'Only conversations in one turn of which all these words were said.',
});
