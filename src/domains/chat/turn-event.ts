import type { GatewayChunk, GatewayEvent } from '../../gateway/stream.js';
import type { ServerEvent } from '../../http/sse.js';

/** An event of a kept turn, with its number. */
export type NumberedEvent = Exclude<GatewayEvent, { type: 'error' }> & { seq: number };

/** `[seq, text]` for a piece of text, which nearly all are; `[seq, type, value]` for the others. */
type Encoded = [seq: number, text: string] | [seq: number, type: NumberedEvent['type'], value: unknown];

/** An event as the journal keeps it, JSON; undefined for those that say nothing. */
export function encodeEvent(event: NumberedEvent): string | undefined {
  if (event.type !== 'chunk') return JSON.stringify([event.seq, event.type, valueOf(event)]);
  const { choices, usage } = event.chunk;
  const choice = choices[0];
  const content = choice?.delta.content;
  if (choice?.finish_reason || usage) return JSON.stringify([event.seq, 'chunk', event.chunk]);
  return content ? `[${event.seq},${JSON.stringify(content)}]` : undefined;
}

/** The events of a row of the journal. */
export function decodeEvents(json: string): NumberedEvent[] {
  return (JSON.parse(json) as Encoded[]).map((item) => {
    if (item.length === 2) return { seq: item[0], type: 'chunk', chunk: textChunk(item[1]) };
    const [seq, type, value] = item;
    // Written by `encodeEvent`, of events that were checked as they came.
    if (type === 'chunk') return { seq, type, chunk: value as GatewayChunk };
    if (type === 'tool_call') return { seq, type, call: value as CallOf };
    if (type === 'tool_result') return { seq, type, result: value as ResultOf };
    return { seq, type, restart: value as RestartOf };
  });
}

/** What the client sees of an event; undefined where that is nothing. `turnId`: of a turn that can be resumed, so that its events have ids. */
export function serverEventOf(event: Exclude<GatewayEvent, { type: 'error' }>, turnId?: string): ServerEvent | undefined {
  const id = turnId === undefined || event.seq === undefined ? {} : { id: eventId(turnId, event.seq) };
  if (event.type === 'restarted') {
    const { step, attempt, void_after: seq } = event.restart;
    return { event: 'restarted', data: { step, attempt, void_after: eventId(turnId ?? '', seq) }, ...id };
  }
  if (event.type !== 'chunk') return { event: event.type, data: valueOf(event), ...id };
  const delta = event.chunk.choices[0]?.delta.content;
  return delta ? { event: 'text', data: { delta }, ...id } : undefined;
}

/** The id of an event: `Last-Event-ID` of who has seen it. */
export function eventId(turnId: string, seq: number): string {
  return `${turnId}:${seq}`;
}

type CallOf = Extract<GatewayEvent, { type: 'tool_call' }>['call'];
type ResultOf = Extract<GatewayEvent, { type: 'tool_result' }>['result'];
type RestartOf = Extract<GatewayEvent, { type: 'restarted' }>['restart'];

function valueOf(event: Exclude<GatewayEvent, { type: 'error' | 'chunk' }>): CallOf | ResultOf | RestartOf {
  if (event.type === 'tool_call') return event.call;
  return event.type === 'tool_result' ? event.result : event.restart;
}

function textChunk(content: string): GatewayChunk {
  return { choices: [{ delta: { content }, finish_reason: null }], usage: undefined };
}
