import { AppError, type FieldError } from '../../lib/errors.js';
import type { AssignSkills } from './skills.schema.js';

interface Exception {
  agent_id: string;
  skill_id: string;
  enabled: boolean;
}

/** Whether an agent has a skill: what the agent says itself, else what holds for all. */
export function isEnabled(
  skill: { id: string; enabled_for: 'all' | 'none' },
  agentId: string,
  exceptions: readonly Exception[],
): boolean {
  const own = exceptions.find(({ agent_id, skill_id }) => agent_id === agentId && skill_id === skill.id);
  return own?.enabled ?? skill.enabled_for === 'all';
}

/** What an agent will say itself. Throws `invalid_request` for names of no skill, or that are in both lists. */
export function wishedExceptions(
  skills: readonly { id: string; name: string }[],
  wish: AssignSkills,
): { skill_id: string; enabled: boolean }[] {
  const fields: FieldError[] = [];
  const wished = new Map<string, boolean>();
  for (const list of ['enabled', 'disabled'] as const) {
    for (const [index, said] of (wish[list] ?? []).entries()) {
      const skill = skills.find(({ id, name }) => name === said || id === said);
      const enabled = list === 'enabled';
      if (!skill) fields.push({ path: `${list}.${index}`, message: 'is no skill of the user' });
      else if (wished.get(skill.id) === !enabled) fields.push({ path: `${list}.${index}`, message: 'is in both lists' });
      else wished.set(skill.id, enabled);
    }
  }
  if (fields.length > 0) throw new AppError('invalid_request', 'invalid request', { fields: fields.slice(0, 20) });
  return [...wished].map(([skill_id, enabled]) => ({ skill_id, enabled }));
}
