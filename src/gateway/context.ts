import { AppError, NotSent } from '../lib/errors.js';
import type { LinkHost } from '../link/host.js';
import { readCapped } from './gateway.js';

/** A piece of a system prompt. Joined by an empty line, the pieces are the prompt. */
export interface ContextPart {
  name: string;
  text: string;
}

/** What the next turn of an agent sends its model beside the conversation. */
export interface GatewayContext {
  model: string;
  system: string;
  parts: ContextPart[];
  /** In OpenAI's words, as they are sent. */
  tools: Record<string, unknown>[];
  sampling: Record<string, unknown>;
  hiddenSkills: { name: string; why: string }[];
}

const TIMEOUT_MS = 10_000;
/** The prompt comes twice, whole and in parts, and the tools of plugins beside it. */
const LIMIT_BYTES = 4 * 1024 * 1024;
const PARTS_AT_MOST = 200;
const TOOLS_AT_MOST = 500;
const SKILLS_AT_MOST = 1_000;
/** What is nested deeper is no tool, and could not be written down again. */
const DEPTH_AT_MOST = 64;

/** Asks gateways what their agents' next turns will send. Hostile input like all they say: capped, timed, and checked for being what it claims. */
export class ContextClient {
  readonly #links: LinkHost;

  constructor({ links }: { links: LinkHost }) {
    this.#links = links;
  }

  /** `agent`: the agent's id in the gateway, which is its name. */
  async read(instanceId: string, agent: string, signal: AbortSignal): Promise<GatewayContext> {
    const link = this.#links.get(instanceId);
    if (!link) throw new NotSent('the agent is not connected');
    const path = `/berth/v1/agents/${encodeURIComponent(agent)}/context`;
    const response = await link.request({ method: 'GET', path, timeoutMs: TIMEOUT_MS, signal });
    const text = await readCapped(response.body, TIMEOUT_MS, LIMIT_BYTES);
    if (response.status === 200) return checkedContext(text, agent);
    if (response.status === 503) throw new AppError('unavailable', 'the agent is stopping, or not ready yet', { retryAfterS: 1 });
    if (response.status === 404) throw new AppError('upstream_error', "the agent's image does not show its context");
    throw new AppError('upstream_error', `the gateway answered ${response.status}`);
  }
}

/** Throws `upstream_error` for anything that is not a context of that agent. */
export function checkedContext(text: string, agent: string): GatewayContext {
  const said = objectOf(parsed(text));
  if (said['agent'] !== agent) throw notUnderstood();
  const parts = listOf(said['parts'], PARTS_AT_MOST).map(partOf);
  const system = textOf(said['system']);
  // Whoever reads the parts must be able to trust that they are the whole.
  if (parts.map((part) => part.text).join('\n\n') !== system) throw notUnderstood();
  return {
    model: textOf(said['model']),
    system,
    parts,
    tools: listOf(said['tools'], TOOLS_AT_MOST).map(toolOf),
    sampling: shallow(objectOf(said['sampling'])),
    hiddenSkills: listOf(said['hidden_skills'] ?? [], SKILLS_AT_MOST).map(hiddenSkillOf),
  };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw notUnderstood(cause);
  }
}

function partOf(value: unknown): ContextPart {
  const part = objectOf(value);
  return { name: textOf(part['name']).slice(0, 300), text: textOf(part['text']) };
}

function toolOf(value: unknown): Record<string, unknown> {
  const tool = shallow(objectOf(value));
  textOf(objectOf(tool['function'])['name']);
  return tool;
}

function hiddenSkillOf(value: unknown): { name: string; why: string } {
  const skill = objectOf(value);
  return { name: textOf(skill['name']).slice(0, 300), why: textOf(skill['why']).slice(0, 1_000) };
}

function objectOf(value: unknown): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw notUnderstood();
  return value as Record<string, unknown>;
}

function listOf(value: unknown, most: number): unknown[] {
  if (!Array.isArray(value) || value.length > most) throw notUnderstood();
  return value;
}

function textOf(value: unknown): string {
  if (typeof value !== 'string') throw notUnderstood();
  return value;
}

function shallow(value: Record<string, unknown>): Record<string, unknown> {
  if (!isShallow(value, DEPTH_AT_MOST)) throw notUnderstood();
  return value;
}

/** Walked with a bound of its own: what is too deep must not be walked to its end. */
function isShallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return depth > 0 && Object.values(value).every((inner) => isShallow(inner, depth - 1));
}

function notUnderstood(cause?: unknown): AppError {
  return new AppError('upstream_error', "what the agent's gateway says of its context was not understood", { cause });
}
