import { AppError } from '../../lib/errors.js';
import { deliver, type Overflow, overflows } from './delivery.js';
import type { Layers } from './layers.js';

export interface AgentRow {
  id: string;
  name: string;
  deployment_id: string;
  /** What its instructions take in the configuration. */
  instruction_bytes: number;
}

/** A gateway takes 8 MB of configuration; one of them is left for what is no text: secrets, skills, settings. */
const MOST_BYTES_A_DEPLOYMENT = 7_000_000;
/** So many always fit: 60,000 characters of files and 20,000 of instructions each, every one of them six bytes long. */
const FEW_AGENTS = 14;
const MOST_HISTORY_BYTES = 128 * 1024 * 1024;

/** An agent as long as can be, so that the user's defaults fit every agent that comes later. */
const LONGEST = { id: `agt_${'x'.repeat(26)}`, name: 'x'.repeat(64) };

/** What the defaults would be for an agent of which nothing is known yet. */
export function checkDefaults(layers: Layers): void {
  refuse(overflows(layers.texts(null), layers.values(LONGEST)), 'for an agent with the longest name');
}

/** `invalid_request` with file, size and cap where a text would be cut from the prompt. */
export function checkCaps(layers: Layers, agents: readonly AgentRow[]): void {
  for (const agent of agents) refuse(overflows(layers.texts(agent.id), layers.values(agent)), `for agent ${agent.name}`);
}

function refuse(found: Overflow[], forWhom: string): void {
  if (found.length === 0) return;
  const fields = found.map(({ file, size, cap }) => ({
    path: file,
    message: `would have ${size} characters ${forWhom}, the cap is ${cap}`,
  }));
  const [{ path, message } = { path: '', message: '' }] = fields;
  const what = { 'AGENTS.md': 'AGENTS.md, with TOOLS.md as its section,', total: 'all files together' }[path] ?? path;
  throw new AppError('invalid_request', `${what} ${message}, variables filled in`, { fields });
}

/**
 * `payload_too_large` where a deployment's texts would be more than a gateway takes. What makes them fewer than they were `before` is always
 * allowed.
 */
export function checkRoom(after: Layers, agents: readonly AgentRow[], before?: Layers): void {
  for (const id of new Set(agents.map((agent) => agent.deployment_id))) {
    const its = agents.filter((agent) => agent.deployment_id === id);
    if (its.length <= FEW_AGENTS) continue;
    const bytes = bytesOf(after, its);
    if (bytes <= MOST_BYTES_A_DEPLOYMENT || (before && bytes <= bytesOf(before, its))) continue;
    throw new AppError(
      'payload_too_large',
      `the templates and instructions of the ${its.length} agents of one container would take ${bytes} bytes; it takes ${MOST_BYTES_A_DEPLOYMENT}`,
    );
  }
}

function bytesOf(layers: Layers, agents: readonly AgentRow[]): number {
  return agents.reduce((sum, agent) => {
    const told = JSON.stringify(deliver(layers.texts(agent.id), layers.values(agent)));
    return sum + Buffer.byteLength(told) + agent.instruction_bytes;
  }, 0);
}

/** `limit_exceeded` where the history would take more than a user may keep. */
export function checkHistory(layers: Layers): void {
  const bytes = layers.keptBytes();
  if (bytes <= MOST_HISTORY_BYTES) return;
  throw new AppError(
    'limit_exceeded',
    `the versions of all templates would take ${bytes} bytes; ${MOST_HISTORY_BYTES} may be kept: remove old versions first`,
  );
}
