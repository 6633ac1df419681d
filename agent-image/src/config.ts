import { invalid } from './errors.js';
import { checkRelativePath } from './paths.js';

/** Settings of the model that an agent's turns are sent with, unless the request brings its own. */
export interface Sampling {
  temperature?: number;
  top_p?: number;
  max_tokens?: number;
}

/** One agent as Berth wishes it. */
export interface AgentConfig {
  id: string;
  /** Another value under the same id is another agent: the old one's workspace and conversations are wiped. */
  incarnation: string;
  name: string;
  /** `provider/model`, sent as it is to the LLM gateway. */
  model: string;
  instructions: string;
  /** Workspace files that Berth owns, by path within the workspace. */
  files: Map<string, string>;
  /** Most model calls in one turn. */
  maxSteps: number;
  deny: Set<string>;
  sampling: Sampling;
}

export interface InstanceConfig {
  version: number;
  agents: AgentConfig[];
}

const AGENT_ID = /^[a-z0-9_][a-z0-9_-]{0,63}$/;
const MODEL = /^[^\s/]+\/\S+$/;
const MAX_AGENTS = 500;
const MAX_TEXT = 256 * 1024;
const MAX_FILES = 64;

/** Checks a config from Berth. Throws 400 naming the field. Fields it does not know are left aside, so that Berth may be newer. */
export function parseConfig(body: unknown): InstanceConfig {
  const config = object(body, 'config');
  const version = integer(config['version'], 'version', 0, Number.MAX_SAFE_INTEGER);
  const list = config['agents'];
  if (!Array.isArray(list)) throw invalid('agents: must be a list');
  if (list.length > MAX_AGENTS) throw invalid(`agents: at most ${MAX_AGENTS}`);
  const agents = list.map((agent: unknown, i) => parseAgent(agent, `agents[${i}]`));
  const ids = new Set<string>();
  agents.forEach(({ id }, i) => {
    if (ids.has(id)) throw invalid(`agents[${i}].id: appears twice`);
    ids.add(id);
  });
  return { version, agents };
}

function parseAgent(value: unknown, at: string): AgentConfig {
  const agent = object(value, at);
  const id = text(agent['id'], `${at}.id`, 64);
  if (!AGENT_ID.test(id)) throw invalid(`${at}.id: must be lower-case letters, digits, - and _, not beginning with -`);
  const model = text(agent['model'], `${at}.model`, 256);
  if (!MODEL.test(model)) throw invalid(`${at}.model: must be provider/model`);
  const tools = optional(agent['tools'], (v) => object(v, `${at}.tools`));
  return {
    id,
    incarnation: text(agent['incarnation'], `${at}.incarnation`, 256),
    name: optional(agent['name'], (v) => text(v, `${at}.name`, 256)) ?? id,
    model,
    instructions: optional(agent['instructions'], (v) => text(v, `${at}.instructions`, MAX_TEXT, 0)) ?? '',
    files: optional(agent['files'], (v) => parseFiles(v, `${at}.files`)) ?? new Map(),
    maxSteps: optional(agent['maxSteps'], (v) => integer(v, `${at}.maxSteps`, 1, 1000)) ?? 16,
    deny: new Set(optional(tools?.['deny'], (v) => texts(v, `${at}.tools.deny`)) ?? []),
    sampling: optional(agent['sampling'], (v) => parseSampling(v, `${at}.sampling`)) ?? {},
  };
}

function parseFiles(value: unknown, at: string): Map<string, string> {
  const entries = Object.entries(object(value, at));
  if (entries.length > MAX_FILES) throw invalid(`${at}: at most ${MAX_FILES}`);
  return new Map(
    entries.map(([path, content], i) => {
      const wrong = checkRelativePath(path);
      if (wrong) throw invalid(`${at}: the path of entry ${i + 1} ${wrong}`);
      return [path, text(content, `${at}[${JSON.stringify(path)}]`, MAX_TEXT, 0)];
    }),
  );
}

function parseSampling(value: unknown, at: string): Sampling {
  const given = object(value, at);
  const sampling: Sampling = {};
  const temperature = optional(given['temperature'], (v) => number(v, `${at}.temperature`, 0, 2));
  const topP = optional(given['top_p'], (v) => number(v, `${at}.top_p`, 0, 1));
  const maxTokens = optional(given['max_tokens'], (v) => integer(v, `${at}.max_tokens`, 1, Number.MAX_SAFE_INTEGER));
  if (temperature !== undefined) sampling.temperature = temperature;
  if (topP !== undefined) sampling.top_p = topP;
  if (maxTokens !== undefined) sampling.max_tokens = maxTokens;
  return sampling;
}

/** `check(value)`, or undefined where the field is absent or null. */
export function optional<T>(value: unknown, check: (value: unknown) => T): T | undefined {
  return value === undefined || value === null ? undefined : check(value);
}

export function object(value: unknown, at: string): Record<string, unknown> {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(`${at}: must be an object`);
  return value as Record<string, unknown>;
}

export function text(value: unknown, at: string, most: number, least = 1): string {
  if (typeof value !== 'string') throw invalid(`${at}: must be a string`);
  if (value.length < least) throw invalid(`${at}: must not be empty`);
  if (value.length > most) throw invalid(`${at}: at most ${most} characters`);
  return value;
}

export function number(value: unknown, at: string, least: number, most: number): number {
  if (typeof value !== 'number' || !(value >= least && value <= most))
    throw invalid(`${at}: must be a number from ${least} to ${most}`);
  return value;
}

export function integer(value: unknown, at: string, least: number, most: number): number {
  if (!Number.isInteger(value)) throw invalid(`${at}: must be a whole number`);
  return number(value, at, least, most);
}

function texts(value: unknown, at: string): string[] {
  if (!Array.isArray(value)) throw invalid(`${at}: must be a list of strings`);
  return value.map((item: unknown, i) => text(item, `${at}[${i}]`, 256));
}
