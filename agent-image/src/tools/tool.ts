import type { Workspace } from '../workspace.js';

/** What a tool may use. */
export interface ToolContext {
  workspace: Workspace;
  agentId: string;
  /** The agent's own environment, secrets among it, as it is now: asked anew by each command. */
  variables: () => ReadonlyMap<string, string>;
  /** Aborts with the turn. A tool stops at once then and leaves nothing running. */
  signal: AbortSignal;
}

/** One thing an agent can do. */
export interface Tool {
  readonly name: string;
  readonly description: string;
  /** JSON Schema of the arguments object. */
  readonly parameters: object;
  /** Throws `ToolError` where the model shall read why it failed. */
  run(args: Record<string, unknown>, context: ToolContext): Promise<ToolResult>;
}

export interface ToolResult {
  ok: boolean;
  /** What the model reads. */
  text: string;
}

/** Names that nothing else may have, also where the environment says that a tool is left out. */
export const BUILT_IN_TOOLS: ReadonlySet<string> = new Set([
  'read_file',
  'write_file',
  'edit_file',
  'list_files',
  'shell',
  'fetch_url',
  'keep_awake',
]);

/** A failure in words for the model. */
export class ToolError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'ToolError';
  }
}

/** Most characters of one result that a model is given. */
export const MOST_RESULT_CHARS = 30_000;

/** A tool as the OpenAI API describes it to a model. */
export function toolSchema({ name, description, parameters }: Tool): object {
  return { type: 'function', function: { name, description, parameters } };
}

export function stringArgument(args: Record<string, unknown>, name: string): string {
  const value = args[name];
  if (typeof value !== 'string') throw new ToolError(`${name}: must be a string`);
  return value;
}

export function optionalString(args: Record<string, unknown>, name: string, otherwise: string): string {
  return args[name] === undefined || args[name] === null ? otherwise : stringArgument(args, name);
}

export function optionalInteger(
  args: Record<string, unknown>,
  name: string,
  least: number,
  most: number,
  otherwise: number,
): number {
  const value = args[name];
  if (value === undefined || value === null) return otherwise;
  if (!Number.isInteger(value) || (value as number) < least || (value as number) > most) {
    throw new ToolError(`${name}: must be a whole number from ${least} to ${most}`);
  }
  return value as number;
}

export function optionalBoolean(args: Record<string, unknown>, name: string): boolean {
  const value = args[name];
  if (value === undefined || value === null) return false;
  if (typeof value !== 'boolean') throw new ToolError(`${name}: must be true or false`);
  return value;
}

/** The beginning and the end of a text that is too long to be given whole. */
export function middleOut(text: string, most = MOST_RESULT_CHARS): string {
  if (text.length <= most) return text;
  const half = Math.floor(most / 2);
  return `${text.slice(0, half)}\n[… ${text.length - 2 * half} characters left out …]\n${text.slice(-half)}`;
}
