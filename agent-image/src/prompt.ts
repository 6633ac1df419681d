import type { AgentConfig } from './config.js';
import { skillLine, type SkillsView } from './skills.js';
import type { PromptFile } from './workspace.js';

/** A piece of the system prompt. Joined by an empty line, the pieces are the prompt. */
export interface PromptPart {
  name: string;
  text: string;
}

export interface PromptInput {
  agent: AgentConfig;
  toolNames: readonly string[];
  skills: SkillsView;
  files: readonly PromptFile[];
  /** Text of the request's own system messages. */
  system: string;
  /** `YYYY-MM-DD`. A day and no time: a prompt that changes at every turn can be cached by no provider. */
  today: string;
}

/** The system prompt of a turn: who the agent is, what it may do, Berth's instructions, its workspace files, the request's own. */
export function promptParts({ agent, toolNames, skills, files, system, today }: PromptInput): PromptPart[] {
  const parts = [{ name: 'identity', text: `You are ${agent.name}, an AI agent. Today is ${today} (UTC).` }];
  if (toolNames.length > 0) parts.push({ name: 'tools', text: toolAdvice(toolNames) });
  if (skills.shown.length > 0) parts.push({ name: 'skills', text: skillList(skills) });
  if (agent.instructions !== '') parts.push({ name: 'instructions', text: agent.instructions });
  if (files.length > 0) parts.push({ name: 'project_context', text: PROJECT_CONTEXT }, ...files.map(filePart));
  if (system !== '') parts.push({ name: 'request', text: system });
  return parts;
}

export function joinParts(parts: readonly PromptPart[]): string {
  return parts.map(({ text }) => text).join('\n\n');
}

const PROJECT_CONTEXT = '# Project Context\n\nThese files of your workspace are shown in every turn.';

function toolAdvice(names: readonly string[]): string {
  return (
    `You have tools: ${names.join(', ')}. They work in a folder of your own, your workspace, which outlasts the conversation; ` +
    'paths are relative to it. Keep what you want to remember in MEMORY.md. Call independent tools together. When a tool fails, ' +
    'read its error and try another way, or say what you could not do.'
  );
}

function skillList({ shown, leftOut }: SkillsView): string {
  const lines = shown.map(skillLine).join('\n');
  const notice = leftOut === 0 ? '' : `\n\n[${leftOut} more skills are not shown here: look into the folder skills.]`;
  return (
    '# Skills\n\nA skill is a folder with instructions for a kind of task, and often with scripts for it. When one fits what you are asked, ' +
    `read its SKILL.md first and follow it; paths in it, and {baseDir}, mean the skill's own folder.\n\n${lines}${notice}`
  );
}

function filePart({ path, text, cutFrom }: PromptFile): PromptPart {
  const notice = cutFrom === undefined ? '' : `\n\n[${path} is cut here: ${text.length} of ${cutFrom} characters are shown.]`;
  return { name: path, text: `## ${path}\n\n${text}${notice}` };
}
