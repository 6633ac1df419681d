import { AppError, type FieldError } from '../../lib/errors.js';

export const RULE_KINDS = ['event', 'spend', 'error_rate', 'restarts', 'silence'] as const;
export type RuleKind = (typeof RULE_KINDS)[number];

/** When a rule of its kind fires. Which of these a kind has, and which it needs, is the table below. */
export interface Condition {
  /** Types, or all of a domain as `agent.*`, or `*`. */
  events?: string[] | undefined;
  unit?: 'tokens' | undefined;
  /** It fires when what is measured comes to this. */
  at_least?: number | undefined;
  /** Over how long it is measured. */
  window_s?: number | undefined;
  /** An error rate says nothing before there were so many turns. */
  min_turns?: number | undefined;
}

const FIELDS: Record<RuleKind, { needs: readonly (keyof Condition)[]; usual: Condition }> = {
  event: { needs: ['events'], usual: {} },
  spend: { needs: ['at_least', 'window_s'], usual: { unit: 'tokens' } },
  error_rate: { needs: ['at_least', 'window_s'], usual: { min_turns: 5 } },
  restarts: { needs: ['at_least', 'window_s'], usual: {} },
  silence: { needs: ['window_s'], usual: {} },
};
const ALL = ['events', 'unit', 'at_least', 'window_s', 'min_turns'] as const satisfies (keyof Condition)[];

/** The condition of a rule of that kind, from what was said now and what held before. Throws what is missing, or does not belong there. */
export function conditionOf(kind: RuleKind, wish: Condition, before: Condition = {}): Condition {
  const { needs, usual } = FIELDS[kind];
  const may: readonly string[] = [...needs, ...Object.keys(usual)];
  const condition: Condition = { ...usual, ...before };
  for (const name of ALL) if (wish[name] !== undefined) Object.assign(condition, { [name]: wish[name] });
  const problems: FieldError[] = [
    ...ALL.filter((name) => wish[name] !== undefined && !may.includes(name)).map((path) => ({
      path,
      message: `is not for rules of kind ${kind}`,
    })),
    ...needs.filter((name) => condition[name] === undefined).map((path) => ({ path, message: 'is required for this kind' })),
    ...misfits(kind, condition),
  ];
  if (problems.length > 0) throw new AppError('invalid_request', 'invalid request', { fields: problems });
  return condition;
}

/** Whether both say the same. */
export function isSame(one: Condition, other: Condition): boolean {
  return ALL.every((name) => JSON.stringify(one[name]) === JSON.stringify(other[name]));
}

function misfits(kind: RuleKind, { events = [], at_least: atLeast = 1 }: Condition): FieldError[] {
  if (kind === 'event')
    return events.flatMap((type, at) =>
      isOfNotifications(type)
        ? [{ path: `events.${at}`, message: 'must not be of notifications, which would make ever more of them' }]
        : [],
    );
  if (kind === 'error_rate') return atLeast > 100 ? [{ path: 'at_least', message: 'must be a percentage' }] : [];
  return Number.isInteger(atLeast) ? [] : [{ path: 'at_least', message: 'must be a whole number' }];
}

/** Whether an event is of what this domain does: no rule fires on it, however wide it is. */
export function isOfNotifications(type: string): boolean {
  return type.startsWith('notification.') || type === 'notification';
}

/** Whether a rule is about such an event. */
export function isAbout(
  rule: { condition: Condition; agent_id: string | null },
  event: { type: string; agentId: string | undefined },
) {
  if (isOfNotifications(event.type)) return false;
  if (rule.agent_id !== null && rule.agent_id !== event.agentId) return false;
  return (rule.condition.events ?? []).some((wanted) =>
    wanted.endsWith('*') ? event.type.startsWith(wanted.slice(0, -1)) : event.type === wanted,
  );
}
