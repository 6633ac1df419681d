import type { StoredEvent } from '../../events/outbox.js';
import { type EventSink, eventText } from '../../http/sse.js';
import { cursorOf, eventAnswer, gapAnswer } from './events.schema.js';
import type { EventFilter } from './events.store.js';
import type { Reader } from './feed.js';
import { matches } from './filter.js';
import { roomWithin } from './room.js';

/** How long a client's place may stay behind events that it did not ask for. */
const MARK_MS = 5_000;

/** Made once for all streams of an event. */
const texts = new WeakMap<StoredEvent, string>();

/** Sends what a reader gets as server-sent events whose ids are cursors, until the signal aborts; returns when the client was too slow. */
export async function writeEvents(
  sink: EventSink,
  reader: Reader,
  { filter, slowMs, signal }: { filter: EventFilter; slowMs: number; signal: AbortSignal },
): Promise<void> {
  const cursor = cursorOf(reader.position);
  let room = sink.send({ event: 'ready', id: cursor, data: { cursor } });
  let markedMs = performance.now();
  for (;;) {
    if (room && !(await roomWithin(room, slowMs))) return drop(sink, reader);
    const { gap, events } = await reader.next(signal);
    const told = gap ? eventText({ event: 'gap', id: gapAnswer(gap).cursor, data: gapAnswer(gap) }) : '';
    const wanted = events.filter((event) => matches(filter, event));
    const now = performance.now();
    // So that a client that comes back is not sent over what it did not ask for.
    const mark = wanted.length === 0 && now - markedMs > MARK_MS ? `id: ${cursorOf(reader.position)}\n\n` : '';
    if (wanted.length > 0 || mark !== '') markedMs = now;
    const text = told + wanted.map(textOf).join('') + mark;
    room = text === '' ? undefined : sink.write(text);
  }
}

/** What it was sent before is still on its way to it; this is the last of it. */
function drop(sink: EventSink, reader: Reader): void {
  void sink.send({ event: 'dropped', data: { reason: 'this client is too slow', cursor: cursorOf(reader.position) } });
}

function textOf(event: StoredEvent): string {
  const known = texts.get(event);
  if (known !== undefined) return known;
  const text = eventText({ event: 'event', id: cursorOf(event.seq), data: eventAnswer(event) });
  texts.set(event, text);
  return text;
}
