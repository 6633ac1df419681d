import type { AppOptions } from './app-options.js';
import type { Agents } from './domains/agents/agents.js';
import { Chat } from './domains/chat/chat.js';
import { adoptTurnsJob, forgetConversationsJob, pruneTurnsJob, settleTurnsJob } from './domains/chat/chat.jobs.js';
import { Completions, type CompletionsOptions } from './domains/chat/completions.js';
import { Conversations } from './domains/chat/conversations.js';
import { KeptTurns } from './domains/chat/kept-turns.js';
import { Turns } from './domains/chat/turns.js';
import { ConversationsClient } from './gateway/conversations.js';
import type { GatewayClient } from './gateway/gateway.js';
import { KeptTurnsClient } from './gateway/kept-turns.js';
import type { Job } from './lib/loop.js';
import type { LinkHost } from './link/host.js';

export interface ChatPartsOptions {
  agents: Agents;
  links: LinkHost;
  gateway: GatewayClient;
  resolveUser: CompletionsOptions['resolveUser'];
}

export interface ChatParts {
  chat: Chat;
  turns: Turns;
  conversations: Conversations;
  completions: Completions;
  jobs: Job[];
}

/** All that has to do with chats. */
export function chatParts(
  app: Pick<AppOptions, 'config' | 'database' | 'log' | 'processId' | 'gateway' | 'turns'>,
  { agents, links, gateway, resolveUser }: ChatPartsOptions,
): ChatParts {
  const { database, log, processId } = app;
  const { db, bus } = database;
  // The turns need the chat first; by the time that one is interrupted, they are there.
  const interrupt = (userId: string, turnIds: string[]) => turns.interrupt(userId, turnIds);
  const shared = { db, log, agents, gateway, processId, readyTimeoutMs: app.config.readyTimeoutMs, interrupt };
  const kept = new KeptTurnsClient({ links, limits: app.gateway });
  // Alone with its database, it knows that all others are dead.
  const deadAfterS = database.kind === 'pglite' ? 0 : app.turns?.deadAfterS;
  const chat = new Chat(shared);
  const turns: Turns = new Turns({ ...shared, bus, chat, kept, turns: new KeptTurns({ ...shared, kept, deadAfterS }) });
  const conversations = new Conversations({ ...shared, turns, client: new ConversationsClient({ links }) });
  const completions = new Completions({ chat, agents, resolveUser });
  const jobs = [settleTurnsJob(chat), adoptTurnsJob(turns), pruneTurnsJob(turns), forgetConversationsJob(conversations)];
  return { chat, turns, conversations, completions, jobs };
}
