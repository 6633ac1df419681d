import type { StoredEvent } from '../../events/outbox.js';
import type { Condition, RuleKind } from './condition.js';
import type { Happening } from './recorder.js';
import type { RuleRow } from './rules.store.js';
import type { Finding, Measure } from './threshold.js';

type Rule = Pick<RuleRow, 'id' | 'name' | 'kind' | 'severity' | 'agent_id' | 'condition' | 'dedupe_s'>;

/** What an event of a rule says, where it happened so often. */
export function eventHappening(rule: Rule, event: StoredEvent, count: number): Happening {
  const agentId = agentOf(event);
  const about = agentId === undefined ? '' : ` It is about agent ${agentId}.`;
  return {
    rule,
    kind: 'event',
    severity: rule.severity,
    title: `${rule.name}: ${event.type}`,
    text: `${event.type} happened at ${event.at.toISOString()}.${about}`,
    agentId: agentId ?? null,
    data: { rule_kind: rule.kind, event_id: event.id, seq: event.seq, type: event.type, actor: event.actor },
    key: eventKey(event),
    count,
  };
}

/** Events of the same key are the same to a rule: of one type, about one agent. */
export function eventKey(event: StoredEvent): string {
  return `${event.type} ${agentOf(event) ?? ''}`;
}

export function agentOf({ payload }: StoredEvent): string | undefined {
  const { agent_id: agent } = payload;
  return typeof agent === 'string' ? agent : undefined;
}

/** What a rule on what is measured says. */
export function measuredHappening(rule: Rule, say: NonNullable<Finding['say']>, measure: Measure): Happening {
  const value = Math.round((measure.value ?? 0) * 10) / 10;
  const isOver = say !== 'resolved';
  return {
    rule,
    kind: isOver ? 'firing' : 'resolved',
    severity: isOver ? rule.severity : 'info',
    title: `${rule.name}: ${isOver ? NAMES[rule.kind] : `${NAMES[rule.kind]} is over`}`,
    text: `${measuredText(rule.kind, rule.condition, value)}${say === 'again' ? ' This still holds.' : ''}`,
    agentId: rule.agent_id,
    data: { rule_kind: rule.kind, value, ...rule.condition, still: say === 'again' },
    key: say === 'again' ? undefined : say,
    count: 1,
  };
}

const NAMES: Record<RuleKind, string> = {
  event: 'an event',
  spend: 'much was spent',
  error_rate: 'many turns fail',
  restarts: 'containers end unexpectedly',
  silence: 'an agent is silent',
};

function measuredText(kind: RuleKind, { window_s: windowS = 0, at_least: atLeast = 0 }: Condition, value: number): string {
  const span = durationOf(windowS);
  switch (kind) {
    case 'spend':
      return `${value} tokens in ${span}; the rule is for ${atLeast}.`;
    case 'error_rate':
      return `${value} % of the turns in ${span} failed; the rule is for ${atLeast} %.`;
    case 'restarts':
      return `${value} containers ended unexpectedly in ${span}; the rule is for ${atLeast}.`;
    case 'silence':
      return `No turn and no heartbeat has finished for ${durationOf(value)}; the rule is for ${span}.`;
    case 'event':
      return '';
  }
}

const UNITS = [
  ['d', 86_400],
  ['h', 3_600],
  ['min', 60],
] as const;

function durationOf(seconds: number): string {
  const [unit, size] = UNITS.find(([, least]) => seconds >= 2 * least || seconds === least) ?? ['s', 1];
  return `${Math.round(seconds / size)} ${unit}`;
}
