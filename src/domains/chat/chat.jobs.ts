import type { Job } from '../../lib/loop.js';
import type { Chat } from './chat.js';
import type { Conversations } from './conversations.js';
import type { Turns } from './turns.js';

/** Settles turns whose process died before it could. */
export function settleTurnsJob(chat: Chat): Job {
  return { name: 'settle abandoned turns', everyMs: 15_000, run: () => chat.settleAbandoned() };
}

/** Takes over turns that go on in their instances though their process died. */
export function adoptTurnsJob(turns: Turns): Job {
  return { name: 'adopt turns', everyMs: 5_000, run: () => turns.adopt() };
}

/** Lets go of what is kept of turns for a day only. */
export function pruneTurnsJob(turns: Turns): Job {
  return { name: 'prune turns', everyMs: 10 * 60_000, run: (signal) => turns.prune(signal) };
}

/** Has instances forget the conversations that were deleted while they were not up. */
export function forgetConversationsJob(conversations: Conversations): Job {
  return { name: 'forget conversations', everyMs: 15_000, run: () => conversations.forgetDeleted() };
}
