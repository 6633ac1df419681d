import { isUtf8 } from 'node:buffer';
import { parseDocument } from 'yaml';
import { validationError } from '../../http/validate.js';
import { AppError, type FieldError } from '../../lib/errors.js';
import { Frontmatter, KNOWN_FIELDS, type Requires } from './frontmatter.schema.js';
import { SKILL_LIMITS } from './intake.js';

/** What Berth and the agent's gateway need of a SKILL.md's frontmatter. */
export interface SkillHead {
  description: string;
  license?: string;
  compatibility?: string;
  allowed_tools?: string[];
  homepage?: string;
  requires?: Pick<Requires, 'bins' | 'anyBins' | 'env' | 'config'>;
  os?: string[];
  always?: boolean;
  primary_env?: string;
}

export interface ReadSkill {
  head: SkillHead;
  /** What was let pass: unknown fields, and for skills of the registry whatever AgentSkills would not have. */
  warnings: string[];
}

/** Parsing takes longer than in proportion, and nothing else goes on meanwhile. */
const FRONTMATTER_BYTES = 16 * 1024;
/** A node used by that many aliases is a document written to explode. */
const ALIASES_AT_MOST = 50;
const LONE_SURROGATE = /\p{Surrogate}|\u0000/u;

/**
 * Reads and checks the frontmatter of the skill `name`; throws `invalid_request` with a message for every fault. What others have published under
 * rules of their own (`lenient`) needs a description, and its other faults become warnings.
 */
export function readSkill(bytes: Buffer, name: string, lenient = false): ReadSkill {
  const value = parseYaml(frontmatterOf(bytes));
  const faults = faultsOf(value, name);
  const isFatal = (fault: FieldError) => !lenient || /^frontmatter(?:\.description)?$/.test(fault.path);
  if (faults.some(isFatal)) throw refusal(faults.filter(isFatal));
  const warnings = faults.map(({ path, message }) => `${path.replace('frontmatter.', '')}: ${message}`);
  const head = headOf(lenient ? withoutFaults(value as Loose, faults) : (value as Frontmatter));
  return { head, warnings: [...warnings, ...oddities(value as Loose, head)].slice(0, 50) };
}

type Loose = Record<string, unknown>;

function frontmatterOf(bytes: Buffer): string {
  if (bytes.length > SKILL_LIMITS.skillFileBytes)
    throw refusal([{ path: 'SKILL.md', message: `must have at most ${SKILL_LIMITS.skillFileBytes} bytes` }]);
  if (!isUtf8(bytes)) throw refusal([{ path: 'SKILL.md', message: 'is not valid UTF-8' }]);
  const text = bytes.toString('utf8').replace(/^\ufeff/, '');
  const match = /^---[ \t]*\r?\n([\s\S]*?)(?:^|\n)---[ \t]*(?:\r?\n|$)/.exec(text);
  if (!match) throw refusal([{ path: 'SKILL.md', message: 'must begin with frontmatter: YAML between two lines of ---' }]);
  const frontmatter = match[1] ?? '';
  if (frontmatter.length > FRONTMATTER_BYTES)
    throw refusal([{ path: 'frontmatter', message: `must have at most ${FRONTMATTER_BYTES} characters` }]);
  return frontmatter;
}

function parseYaml(text: string): unknown {
  try {
    // Tags that name types of other languages are left as plain values, and merge keys stay keys.
    const document = parseDocument(text, {
      schema: 'core',
      version: '1.2',
      uniqueKeys: true,
      logLevel: 'silent',
      prettyErrors: false,
    });
    const [error] = document.errors;
    if (error) throw refusal([{ path: 'frontmatter', message: `is not valid YAML ${placeIn(text, error.pos[0])}` }]);
    return document.toJS({ maxAliasCount: ALIASES_AT_MOST });
  } catch (error) {
    if (error instanceof AppError) throw error;
    // Nested too deeply for the stack, or aliases of aliases.
    throw refusal([{ path: 'frontmatter', message: 'is nested or aliased beyond reason' }], error);
  }
}

function placeIn(text: string, at: number): string {
  const lines = text.slice(0, at).split('\n');
  return `(line ${lines.length + 1}, column ${(lines.at(-1)?.length ?? 0) + 1})`;
}

function faultsOf(value: unknown, name: string): FieldError[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return [{ path: 'frontmatter', message: 'must be a map of fields' }];
  if (LONE_SURROGATE.test(JSON.stringify(value).replaceAll(/\\u0000|\\ud[89a-f]../gi, '\0')))
    return [{ path: 'frontmatter', message: 'must not contain NUL or lone surrogates' }];
  const parsed = Frontmatter.safeParse(value);
  const fields = parsed.success ? [] : (validationError('json', parsed.error).fields ?? []);
  const faults = fields.map(({ path, message }) => ({ path: `frontmatter.${path}`, message }));
  const said = (value as Loose)['name'];
  if (typeof said === 'string' && said !== name && !faults.some(({ path }) => path === 'frontmatter.name'))
    faults.push({ path: 'frontmatter.name', message: `must be ${name}, as the skill's folder` });
  return faults;
}

/** The frontmatter as far as it can be used: every top-level field with a fault is left out. */
function withoutFaults(value: Loose, faults: FieldError[]): Frontmatter {
  const bad = new Set(faults.map(({ path }) => path.split('.')[1]));
  return Object.fromEntries(Object.entries(value).filter(([field]) => !bad.has(field))) as Frontmatter;
}

function headOf(value: Frontmatter): SkillHead {
  const { description, license, compatibility, metadata, homepage } = value;
  const own = metadata?.openclaw ?? metadata?.clawdbot;
  const tools = value['allowed-tools'];
  const { bins, anyBins, env, config } = own?.requires ?? {};
  const head = {
    description: description.trim(),
    license,
    compatibility,
    homepage: homepage ?? own?.homepage,
    allowed_tools: typeof tools === 'string' ? tools.trim().split(/\s+/) : tools,
    requires: own?.requires && defined({ bins, anyBins, env, config }),
    os: own?.os,
    always: own?.always,
    primary_env: own?.primaryEnv,
  };
  return defined(head) as unknown as SkillHead;
}

function defined<T extends object>(value: T): Partial<T> {
  return Object.fromEntries(Object.entries(value).filter(([, one]) => one !== undefined)) as Partial<T>;
}

function oddities(value: Loose, head: SkillHead): string[] {
  const unknown = Object.keys(value).filter((field) => !KNOWN_FIELDS.has(field));
  const metadata = value['metadata'] as Loose | undefined;
  return [
    ...unknown.map((field) => `${field.slice(0, 64)}: is no field of AgentSkills or OpenClaw`),
    ...(metadata?.['openclaw'] && metadata['clawdbot']
      ? ['metadata.clawdbot: is left aside, since there is metadata.openclaw']
      : []),
    ...(head.os && !head.os.includes('linux') ? ['metadata.openclaw.os: has no linux, so agents here never see the skill'] : []),
    ...(head.requires?.config?.length ? ['metadata.openclaw.requires.config: cannot be met here'] : []),
    ...(value['disable-model-invocation'] === true ? ['disable-model-invocation: is not honoured here'] : []),
  ];
}

function refusal(fields: FieldError[], cause?: unknown): AppError {
  return new AppError('invalid_request', 'the skill is not valid', { fields, cause });
}
