import type { Condition, RuleKind } from './condition.js';

/** What a rule on what is measured knows of itself. */
export interface Watched {
  kind: RuleKind;
  condition: Condition;
  state: 'ok' | 'firing';
  repeat_after_s: number | null;
  notify_resolved: boolean;
}

/** What was measured. */
export interface Measure {
  /** undefined: there is nothing to measure, such as an agent that is gone. */
  value: number | undefined;
  /** Of an error rate: of how many turns. */
  outOf?: number;
}

export interface Finding {
  state: 'ok' | 'firing';
  /** What there is to say; `again`: it still fires. */
  say: 'firing' | 'again' | 'resolved' | undefined;
}

/** What a measure makes of a rule. `saidS`: seconds since it was last said that it fires. */
export function findingOf(rule: Watched, measure: Measure, saidS: number): Finding {
  if (!isOver(rule, measure)) {
    return {
      state: 'ok',
      say: rule.state === 'firing' && rule.notify_resolved && measure.value !== undefined ? 'resolved' : undefined,
    };
  }
  if (rule.state === 'ok') return { state: 'firing', say: 'firing' };
  return { state: 'firing', say: rule.repeat_after_s !== null && saidS >= rule.repeat_after_s ? 'again' : undefined };
}

function isOver({ kind, condition }: Watched, { value, outOf = 0 }: Measure): boolean {
  if (value === undefined) return false;
  if (kind === 'error_rate' && outOf < (condition.min_turns ?? 1)) return false;
  return value >= ((kind === 'silence' ? condition.window_s : condition.at_least) ?? Infinity);
}

const CHECKED_PER_WINDOW = 60;
const EVERY_S = { least: 15, most: 600 };

/** How soon it is measured again: a long window changes slowly, and costs more. */
export function checkAgainS({ window_s: windowS = 0 }: Condition): number {
  return Math.max(EVERY_S.least, Math.min(EVERY_S.most, Math.round(windowS / CHECKED_PER_WINDOW)));
}
