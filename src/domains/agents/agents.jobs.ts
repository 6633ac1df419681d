import type { Job } from '../../lib/loop.js';
import type { AgentMoves } from './moves.js';

/** Brings files after agents that were given a container of their own. Looks once a second: one indexed query where nobody moves. */
export function moveAgentsJob(moves: AgentMoves): Job {
  return { name: 'move agents', everyMs: 1_000, run: (signal) => moves.run(signal) };
}
