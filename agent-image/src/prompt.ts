import type { AgentConfig } from './config.js';
import type { PromptFile } from './workspace.js';

export interface PromptParts {
  agent: AgentConfig;
  toolNames: readonly string[];
  files: readonly PromptFile[];
  /** Text of the request's own system messages. */
  system: string;
  /** `YYYY-MM-DD`. A day and no time: a prompt that changes at every turn can be cached by no provider. */
  today: string;
}

/** The system prompt of a turn: who the agent is, what it may do, Berth's instructions, its workspace files, the request's own. */
export function systemPrompt({ agent, toolNames, files, system, today }: PromptParts): string {
  const parts = [`You are ${agent.name}, an AI agent. Today is ${today} (UTC).`];
  if (toolNames.length > 0) parts.push(toolAdvice(toolNames));
  if (agent.instructions !== '') parts.push(agent.instructions);
  if (files.length > 0) parts.push(projectContext(files));
  if (system !== '') parts.push(system);
  return parts.join('\n\n');
}

function toolAdvice(names: readonly string[]): string {
  return (
    `You have tools: ${names.join(', ')}. They work in a folder of your own, your workspace, which outlasts the conversation; ` +
    'paths are relative to it. Keep what you want to remember in MEMORY.md. Call independent tools together. When a tool fails, ' +
    'read its error and try another way, or say what you could not do.'
  );
}

function projectContext(files: readonly PromptFile[]): string {
  const sections = files.map(({ path, text, cutFrom }) => {
    const notice = cutFrom === undefined ? '' : `\n\n[${path} is cut here: ${text.length} of ${cutFrom} characters are shown.]`;
    return `## ${path}\n\n${text}${notice}`;
  });
  return `# Project Context\n\nThese files of your workspace are shown in every turn.\n\n${sections.join('\n\n')}`;
}
