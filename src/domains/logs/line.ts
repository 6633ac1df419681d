import type { LogLine as RuntimeLine } from '../../runtime/runtime.js';
import type { LogLine } from './logs.schema.js';
import { type Redact, redact } from './redact.js';

const LINE_LIMIT_CHARS = 16_384;
const FIELD_LIMIT_CHARS = 100;

/**
 * The gateway's JSON lines are taken apart; whatever else is printed is a message as it is. The time is the engine's, whatever a line says. Any
 * program of a container can print what looks like the gateway's: which agent it concerns is believed of those alone that `isOf` knows. `hide`
 * takes the tenant's own secrets out.
 */
export function lineOf(
  raw: RuntimeLine,
  deploymentId: string,
  hide: Redact = (text) => text,
  isOf: (agent: string) => boolean = () => true,
): LogLine {
  const fields = parseJson(raw.text);
  const agent = shortText(fields?.['agent'], hide);
  const isBelieved = agent === null || isOf(agent);
  const text = typeof fields?.['msg'] === 'string' && isBelieved ? messageWithFields(fields) : raw.text;
  return {
    time: raw.time,
    stream: raw.stream,
    level: shortText(fields?.['level'], hide),
    agent: isBelieved ? agent : null,
    deployment_id: deploymentId,
    // Redacted before it is cut: half a key is no key to the patterns.
    message: cut(redact(hide(text.slice(0, LINE_LIMIT_CHARS + 1_000))), text.length),
  };
}

/** No longer than the limit, and where that is not all of it, says so. */
function cut(text: string, length: number): string {
  if (text.length <= LINE_LIMIT_CHARS && length <= LINE_LIMIT_CHARS + 1_000) return text;
  const note = ` [cut: it has ${length} characters]`;
  return text.slice(0, LINE_LIMIT_CHARS - note.length) + note;
}

function shortText(value: unknown, hide: Redact): string | null {
  return typeof value === 'string' ? hide(value.slice(0, FIELD_LIMIT_CHARS + 1_000)).slice(0, FIELD_LIMIT_CHARS) : null;
}

function parseJson(text: string): Record<string, unknown> | undefined {
  if (!text.startsWith('{')) return undefined;
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function messageWithFields({ msg, time: _time, level: _level, agent: _agent, ...rest }: Record<string, unknown>): string {
  return Object.keys(rest).length === 0 ? String(msg) : `${String(msg)} ${JSON.stringify(rest)}`;
}
