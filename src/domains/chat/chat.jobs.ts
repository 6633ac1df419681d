import type { Job } from '../../lib/loop.js';
import type { Chat } from './chat.js';

/** Settles turns whose process died before it could. */
export function settleTurnsJob(chat: Chat): Job {
  return { name: 'settle abandoned turns', everyMs: 15_000, run: () => chat.settleAbandoned() };
}
