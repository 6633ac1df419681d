import { mkdir } from 'node:fs/promises';
import type { CommandConfig } from '../config.js';
import { Command } from './command.js';
import { ToolError, optionalInteger, stringArgument, type Tool, type ToolContext, type ToolResult } from './tool.js';

export interface ShellOptions {
  /** Port of the forward proxy on 127.0.0.1, asked at each call: it listens a moment after the start. */
  proxyPort: () => number | undefined;
}

const DEFAULT_TIMEOUT_S = 120;
const MOST_TIMEOUT_S = 600;
const MOST_COMMAND_CHARS = 100_000;
/** The kernel takes 128 KB in one variable; longer arguments are on standard input alone. */
const MOST_ARGS_BYTES = 100_000;

/** Runs commands with bash in the workspace. Nothing that a command started outlives its call. */
export function shellTool(options: ShellOptions): Tool {
  return {
    name: 'shell',
    description:
      `Run a command with bash in the workspace. Ends after timeout_s seconds (${DEFAULT_TIMEOUT_S} unless given, at most ${MOST_TIMEOUT_S}); ` +
      'what it left running is ended too. There is no terminal and no standard input.',
    parameters: {
      type: 'object',
      properties: { command: { type: 'string' }, timeout_s: { type: 'integer', minimum: 1, maximum: MOST_TIMEOUT_S } },
      required: ['command'],
    },
    async run(args, context) {
      const command = stringArgument(args, 'command');
      if (command.length > MOST_COMMAND_CHARS || command.includes('\0'))
        throw new ToolError('command: is too long or holds a NUL character');
      const timeoutS = optionalInteger(args, 'timeout_s', 1, MOST_TIMEOUT_S, DEFAULT_TIMEOUT_S);
      return start(context, { command, timeoutS, env: shellEnvironment(context, options.proxyPort()) });
    },
  };
}

/** A plugin's tool: its command is run as the shell tool runs one, with the call's arguments for it to read. */
export function commandTool({ name, description, parameters, command }: CommandConfig, options: ShellOptions): Tool {
  return {
    name,
    description,
    parameters,
    async run(args, context) {
      const input = JSON.stringify(args);
      const env = shellEnvironment(context, options.proxyPort());
      if (Buffer.byteLength(input) <= MOST_ARGS_BYTES) env['BERTH_ARGS'] = input;
      return start(context, { command, timeoutS: DEFAULT_TIMEOUT_S, env, input });
    },
  };
}

async function start(
  { workspace, signal }: ToolContext,
  job: { command: string; timeoutS: number; env: Record<string, string>; input?: string },
): Promise<ToolResult> {
  await mkdir(workspace.dir, { recursive: true });
  return new Command({ ...job, dir: workspace.dir }, signal).run();
}

/** The environment of a command: what programs need, what the agent was given, and nothing of the gateway's own. */
export function shellEnvironment(
  { workspace, agentId, variables }: Pick<ToolContext, 'workspace' | 'agentId' | 'variables'>,
  proxyPort: number | undefined,
): Record<string, string> {
  return {
    LANG: 'C.UTF-8',
    TERM: 'dumb',
    USER: 'agent',
    // Names of this kind are ours, so that a program can believe what they say.
    ...Object.fromEntries([...variables()].filter(([name]) => !name.startsWith('BERTH_'))),
    PATH: process.env['PATH'] ?? '/usr/local/bin:/usr/bin:/bin',
    HOME: workspace.home,
    PWD: workspace.dir,
    BERTH_AGENT: agentId,
    ...(proxyPort === undefined ? {} : proxyVariables(proxyPort)),
  };
}

function proxyVariables(port: number): Record<string, string> {
  const proxy = `http://127.0.0.1:${port}`;
  const direct = 'localhost,127.0.0.1,::1';
  return {
    HTTP_PROXY: proxy,
    HTTPS_PROXY: proxy,
    http_proxy: proxy,
    https_proxy: proxy,
    NO_PROXY: direct,
    no_proxy: direct,
    NODE_USE_ENV_PROXY: '1',
  };
}
