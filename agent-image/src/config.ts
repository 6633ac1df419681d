import { boolean, distinct, integer, list, object, optional, text, texts } from './checks.js';
import { invalid } from './errors.js';
import { checkRelativePath } from './paths.js';
import { parseSampling, type Sampling } from './sampling.js';
import type { ReleaseWish } from './releases.js';
import { BUILT_IN_TOOLS } from './tools/tool.js';

/** One agent as Berth wishes it. Never changed once it is parsed: a new config brings a new one. */
export interface AgentConfig {
  id: string;
  /** Another value under the same id is another agent: the old one's workspace and conversations are wiped. */
  incarnation: string;
  name: string;
  /** `provider/model`, sent as it is to the LLM gateway. */
  model: string;
  instructions: string;
  /** Workspace files that Berth owns, by path within the workspace. `{{date}}` in them becomes the day of the turn. */
  files: Map<string, string>;
  /** Workspace files that are written only where there is none: from then on they are the agent's own. */
  seeds: Map<string, string>;
  /** Environment of the agent's tools: what everybody may know, and what is only ever in memory. */
  env: Map<string, string>;
  secrets: Map<string, string>;
  /** Most model calls in one turn. */
  maxSteps: number;
  /** The only tools it has, where given; those denied are taken away from them. */
  allow: Set<string> | undefined;
  deny: Set<string>;
  commands: CommandConfig[];
  /** Unless a request brings its own. */
  sampling: Sampling;
  skills: SkillConfig[];
}

/** A tool that a plugin brings: a line for bash. */
export interface CommandConfig {
  name: string;
  description: string;
  /** JSON Schema of its arguments object. */
  parameters: object;
  command: string;
}

/** A skill: a package of files, put into the workspace's `skills/<name>/`, and what the prompt says of it. */
export interface SkillConfig {
  name: string;
  /** SHA-256 of the package's tar, in hex. */
  digest: string;
  description: string;
  requires: { bins: string[]; anyBins: string[]; env: string[]; config: string[] };
  os: string[];
  /** Shown whatever it requires. */
  always: boolean;
  /** What `.clawhub/lock.json` of the workspace says of it. */
  lock: object | undefined;
}

export interface InstanceConfig {
  version: number;
  /** `files`: the workspaces can be read and written, and no turn runs. */
  mode: 'full' | 'files';
  agents: AgentConfig[];
  /** Agents on the volume that another instance has: neither served here nor removed. */
  released: Set<string>;
  /** Incarnations whose state is put aside when their agent is removed, until it was fetched. */
  kept: Set<string>;
}

export const DIGEST = /^[0-9a-f]{64}$/;
export const AGENT_ID = /^[a-z0-9_][a-z0-9_-]{0,63}$/;
/** Names a folder where the state of one is kept. */
export const INCARNATION = /^[A-Za-z0-9_-]{1,128}$/;
const MODEL = /^[^\s/]+\/\S+$/;
const VARIABLE = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;
const TOOL_NAME = /^[A-Za-z0-9_-]{1,64}$/;
const SKILL_NAME = /^[a-z0-9][a-z0-9_-]{0,63}$/;
const MAX_AGENTS = 500;
const MAX_TEXT = 256 * 1024;
const MAX_FILES = 64;
const MAX_VARIABLES = 500;
/** The kernel takes 128 KB a variable, and 2 MB for a program's arguments and environment together. */
const MAX_VALUE_BYTES = 64 * 1024;
/** More than Berth lets a user have: what is refused here keeps all agents of the instance from every change. */
const MAX_ENVIRONMENT_BYTES = 512 * 1024;
const MAX_COMMANDS = 128;
const MAX_COMMAND = 100_000;
const MAX_SCHEMA = 32 * 1024;
const MAX_SKILLS = 500;
/** What the agent remembers is its own, however Berth hands it over. */
const MEMORY = 'MEMORY.md';

/** Checks a config from Berth. Throws 400 naming the field. Fields it does not know are left aside, so that Berth may be newer. */
export function parseConfig(body: unknown): InstanceConfig {
  const config = object(body, 'config');
  const version = integer(config['version'], 'version', 0, Number.MAX_SAFE_INTEGER);
  const mode = config['mode'] ?? 'full';
  if (mode !== 'full' && mode !== 'files') throw invalid('mode: must be full or files');
  const agents = list(config['agents'], 'agents', MAX_AGENTS, parseAgent);
  distinct(
    agents.map(({ id }) => id),
    'agents',
    'id',
  );
  const released = new Set(optional(config['released'], (v) => texts(v, 'released')) ?? []);
  if (agents.some(({ id }) => released.has(id))) throw invalid('released: names an agent that is listed');
  const kept = new Set(optional(config['kept'], (v) => texts(v, 'kept')) ?? []);
  for (const incarnation of kept) if (!INCARNATION.test(incarnation)) throw invalid('kept: must be incarnations');
  return { version, mode, agents, released, kept };
}

/** What a call to let go of agents says. */
export function parseRelease(body: unknown): ReleaseWish {
  const wish = object(body, 'release');
  return {
    agents: texts(wish['agents'], 'agents'),
    waitMs: optional(wish['wait_ms'], (v) => integer(v, 'wait_ms', 0, 30_000)) ?? 0,
    close: optional(wish['close'], (v) => boolean(v, 'close')) ?? false,
    end: optional(wish['end'], (v) => boolean(v, 'end')) ?? false,
  };
}

function parseAgent(value: unknown, at: string): AgentConfig {
  const agent = object(value, at);
  const id = text(agent['id'], `${at}.id`, 64);
  if (!AGENT_ID.test(id)) throw invalid(`${at}.id: must be lower-case letters, digits, - and _, not beginning with -`);
  const model = text(agent['model'], `${at}.model`, 256);
  if (!MODEL.test(model)) throw invalid(`${at}.model: must be provider/model`);
  const tools = optional(agent['tools'], (v) => object(v, `${at}.tools`));
  const allow = optional(tools?.['allow'], (v) => texts(v, `${at}.tools.allow`));
  return {
    id,
    incarnation: text(agent['incarnation'], `${at}.incarnation`, 256),
    name: optional(agent['name'], (v) => text(v, `${at}.name`, 256)) ?? id,
    model,
    instructions: optional(agent['instructions'], (v) => text(v, `${at}.instructions`, MAX_TEXT, 0)) ?? '',
    ...parseFilesAndSeeds(agent, at),
    ...parseEnvironment(agent, at),
    maxSteps: optional(agent['maxSteps'], (v) => integer(v, `${at}.maxSteps`, 1, 1000)) ?? 16,
    allow: allow && new Set(allow),
    deny: new Set(optional(tools?.['deny'], (v) => texts(v, `${at}.tools.deny`)) ?? []),
    commands: optional(agent['commands'], (v) => parseCommands(v, `${at}.commands`)) ?? [],
    sampling: optional(agent['sampling'], (v) => parseSampling(object(v, `${at}.sampling`), `${at}.sampling.`)) ?? {},
    skills: optional(agent['skills'], (v) => parseSkills(v, `${at}.skills`)) ?? [],
  };
}

function parseFilesAndSeeds(agent: Record<string, unknown>, at: string): Pick<AgentConfig, 'files' | 'seeds'> {
  const files = optional(agent['files'], (v) => parseFiles(v, `${at}.files`)) ?? new Map<string, string>();
  const seeds = optional(agent['seeds'], (v) => parseFiles(v, `${at}.seeds`)) ?? new Map<string, string>();
  const memory = files.get(MEMORY);
  if (memory !== undefined && !seeds.has(MEMORY)) seeds.set(MEMORY, memory);
  files.delete(MEMORY);
  return { files, seeds };
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

function parseEnvironment(agent: Record<string, unknown>, at: string): Pick<AgentConfig, 'env' | 'secrets'> {
  const env = optional(agent['env'], (v) => parseVariables(v, `${at}.env`)) ?? new Map<string, string>();
  const secrets = optional(agent['secrets'], (v) => parseVariables(v, `${at}.secrets`)) ?? new Map<string, string>();
  let bytes = 0;
  for (const [name, value] of [...env, ...secrets]) bytes += name.length + Buffer.byteLength(value) + 2;
  if (bytes > MAX_ENVIRONMENT_BYTES) throw invalid(`${at}.secrets: at most ${MAX_ENVIRONMENT_BYTES} bytes together with env`);
  return { env, secrets };
}

/** Nothing of a value may be in what is said of it. */
function parseVariables(value: unknown, at: string): Map<string, string> {
  const entries = Object.entries(object(value, at));
  if (entries.length > MAX_VARIABLES) throw invalid(`${at}: at most ${MAX_VARIABLES}`);
  return new Map(
    entries.map(([name, content], i) => {
      if (!VARIABLE.test(name))
        throw invalid(`${at}: the name of entry ${i + 1} must be letters, digits and _, not beginning with a digit`);
      const words = text(content, `${at}.${name}`, MAX_VALUE_BYTES, 0);
      if (words.includes('\0')) throw invalid(`${at}.${name}: must not hold a NUL character`);
      if (Buffer.byteLength(words) > MAX_VALUE_BYTES) throw invalid(`${at}.${name}: at most ${MAX_VALUE_BYTES} bytes`);
      return [name, words];
    }),
  );
}

function parseCommands(value: unknown, at: string): CommandConfig[] {
  const commands = list(value, at, MAX_COMMANDS, parseCommand);
  distinct(
    commands.map(({ name }) => name),
    at,
    'name',
  );
  return commands;
}

function parseCommand(value: unknown, at: string): CommandConfig {
  const given = object(value, at);
  const name = text(given['name'], `${at}.name`, 64);
  if (!TOOL_NAME.test(name)) throw invalid(`${at}.name: must be letters, digits, - and _`);
  if (BUILT_IN_TOOLS.has(name)) throw invalid(`${at}.name: is the name of a built-in tool`);
  const parameters = object(given['parameters'], `${at}.parameters`);
  if (parameters['type'] !== 'object') throw invalid(`${at}.parameters.type: must be "object"`);
  if (JSON.stringify(parameters).length > MAX_SCHEMA) throw invalid(`${at}.parameters: at most ${MAX_SCHEMA} characters`);
  const command = text(given['command'], `${at}.command`, MAX_COMMAND);
  if (command.includes('\0')) throw invalid(`${at}.command: must not hold a NUL character`);
  return { name, description: text(given['description'], `${at}.description`, 4000), parameters, command };
}

function parseSkills(value: unknown, at: string): SkillConfig[] {
  const skills = list(value, at, MAX_SKILLS, parseSkill);
  distinct(
    skills.map(({ name }) => name),
    at,
    'name',
  );
  return skills;
}

function parseSkill(value: unknown, at: string): SkillConfig {
  const given = object(value, at);
  const name = text(given['name'], `${at}.name`, 64);
  if (!SKILL_NAME.test(name)) throw invalid(`${at}.name: must be lower-case letters, digits, - and _, not beginning with - or _`);
  const digest = text(given['digest'], `${at}.digest`, 64);
  if (!DIGEST.test(digest)) throw invalid(`${at}.digest: must be a SHA-256 in lower-case hex`);
  const requires = optional(given['requires'], (v) => object(v, `${at}.requires`)) ?? {};
  const required = (field: string) => optional(requires[field], (v) => texts(v, `${at}.requires.${field}`)) ?? [];
  return {
    name,
    digest,
    description: text(given['description'], `${at}.description`, 4096),
    requires: { bins: required('bins'), anyBins: required('anyBins'), env: required('env'), config: required('config') },
    os: optional(given['os'], (v) => texts(v, `${at}.os`)) ?? [],
    always: optional(given['always'], (v) => boolean(v, `${at}.always`)) ?? false,
    lock: optional(given['lock'], (v) => object(v, `${at}.lock`)),
  };
}
