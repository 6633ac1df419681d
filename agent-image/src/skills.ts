import { accessSync, constants, statSync } from 'node:fs';
import { join } from 'node:path';
import type { AgentConfig, SkillConfig } from './config.js';

/** Which of an agent's skills its model is told of. */
export interface SkillsView {
  shown: SkillConfig[];
  /** The others, each with the reason in words. */
  hidden: { name: string; why: string }[];
  /** How many of the hidden ones are so for want of room in the prompt alone. */
  leftOut: number;
}

const MOST_SHOWN = 150;
const MOST_CHARS = 18_000;

/**
 * Decides what is shown. Once for each config, not each turn: what a skill can require here, programs and variables, changes with the image
 * or the config alone. `broken` says which could not be put into the workspace.
 */
export function viewSkills(
  { skills, env, secrets }: Pick<AgentConfig, 'skills' | 'env' | 'secrets'>,
  broken: ReadonlyMap<string, string>,
): SkillsView {
  const hasVariable = (name: string) => Boolean(secrets.get(name) ?? env.get(name));
  const view: SkillsView = { shown: [], hidden: [], leftOut: 0 };
  let room = MOST_CHARS;
  for (const skill of skills) {
    const why = broken.get(skill.name) ?? unmet(skill, hasVariable);
    if (why !== undefined) view.hidden.push({ name: skill.name, why });
    else {
      room -= skillLine(skill).length + 1;
      if (room >= 0 && view.shown.length < MOST_SHOWN) view.shown.push(skill);
      else {
        view.hidden.push({
          name: skill.name,
          why: `there is no room: a prompt shows ${MOST_SHOWN} skills and ${MOST_CHARS} characters`,
        });
        view.leftOut += 1;
      }
    }
  }
  return view;
}

/** How a skill is listed in the prompt. */
export function skillLine({ name, description }: SkillConfig): string {
  return `- ${name}: ${description.replace(/\s+/g, ' ').trim()} (skills/${name}/SKILL.md)`;
}

/** What keeps a skill from being used here; undefined: nothing. */
function unmet({ requires, os, always }: SkillConfig, hasVariable: (name: string) => boolean): string | undefined {
  if (os.length > 0 && !os.includes('linux')) return `it is for ${os.join(', ')}`;
  if (always) return undefined;
  const bins = requires.bins.filter((name) => !hasProgram(name));
  if (bins.length > 0) return `it needs ${bins.join(', ')}, which is not installed`;
  if (requires.anyBins.length > 0 && !requires.anyBins.some(hasProgram))
    return `it needs one of ${requires.anyBins.join(', ')}, and none is installed`;
  const variables = requires.env.filter((name) => !hasVariable(name));
  if (variables.length > 0) return `it needs ${variables.join(', ')}, which is not set`;
  if (requires.config.length > 0) return `it needs a setting that agents here do not have: ${requires.config.join(', ')}`;
  return undefined;
}

/** Whether commands of the shell find a program of that name. */
function hasProgram(name: string): boolean {
  if (name.includes('/')) return false;
  return (process.env['PATH'] ?? '').split(':').some((dir) => {
    const path = join(dir, name);
    try {
      accessSync(path, constants.X_OK);
      return statSync(path).isFile();
    } catch {
      return false;
    }
  });
}
