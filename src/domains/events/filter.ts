import type { StoredEvent } from '../../events/outbox.js';

/** Which events: of these types, exact or `domain.*`, and about that agent. */
export interface EventFilter {
  types: readonly string[];
  agentId: string | undefined;
}

/** Whether an event is among those that a reader wants: any type where it names none. */
export function matches({ types, agentId }: EventFilter, event: StoredEvent): boolean {
  if (agentId !== undefined && event.payload['agent_id'] !== agentId) return false;
  return types.length === 0 || types.some((type) => isOfType(type, event.type));
}

/** `agent.created` is that type; `agent.*` every type of agents; `*` every type. */
export function isOfType(wanted: string, type: string): boolean {
  return wanted.endsWith('*') ? type.startsWith(wanted.slice(0, -1)) : type === wanted;
}

/** The same for the database, by `like`. */
export function patternsOf(types: readonly string[]): string[] {
  return types.map((type) => (type.endsWith('*') ? `${escapeLike(type.slice(0, -1))}%` : escapeLike(type)));
}

function escapeLike(text: string): string {
  return text.replace(/[\\%_]/g, '\\$&');
}
