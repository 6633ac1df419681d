import { type EventSink, eventText } from '../../http/sse.js';
import { roomWithin } from './room.js';

/** How long a client's place may stay behind events that it did not ask for. */
const MARK_MS = 5_000;

/** Made once for all streams of an event. */
const texts = new WeakMap<object, string>();

interface Placed {
  cursor: string;
}

/** What a stream tells: its reader, which events are wanted, and how events and gaps are said. */
export interface Telling<Event extends object, Gap> {
  reader: Readonly<Placed> & { next(signal: AbortSignal): Promise<{ gap?: Gap; events: Event[] }> };
  wants: (event: Event) => boolean;
  eventAnswer: (event: Event) => Placed;
  gapAnswer: (gap: Gap) => Placed;
}

/** Sends what a reader gets as server-sent events whose ids are cursors, until the signal aborts; returns when the client was too slow. */
export async function writeEvents<Event extends object, Gap>(
  sink: EventSink,
  { reader, wants, eventAnswer, gapAnswer }: Telling<Event, Gap>,
  { slowMs, signal }: { slowMs: number; signal: AbortSignal },
): Promise<void> {
  const { cursor } = reader;
  let room = sink.send({ event: 'ready', id: cursor, data: { cursor } });
  let markedMs = performance.now();
  for (;;) {
    if (room && !(await roomWithin(room, slowMs))) return drop(sink, reader);
    const { gap, events } = await reader.next(signal);
    const told = gap === undefined ? '' : textOf('gap', gapAnswer(gap));
    const wanted = events.filter(wants);
    const now = performance.now();
    // So that a client that comes back is not sent over what it did not ask for.
    const mark = wanted.length === 0 && now - markedMs > MARK_MS ? `id: ${reader.cursor}\n\n` : '';
    if (wanted.length > 0 || mark !== '') markedMs = now;
    const text = told + wanted.map((event) => eventTextOf(event, eventAnswer)).join('') + mark;
    room = text === '' ? undefined : sink.write(text);
  }
}

/** What it was sent before is still on its way to it; this is the last of it. */
function drop(sink: EventSink, { cursor }: Placed): void {
  void sink.send({ event: 'dropped', data: { reason: 'this client is too slow', cursor } });
}

function eventTextOf<Event extends object>(event: Event, answerOf: (event: Event) => Placed): string {
  const known = texts.get(event);
  if (known !== undefined) return known;
  const text = textOf('event', answerOf(event));
  texts.set(event, text);
  return text;
}

function textOf(name: string, data: Placed): string {
  return eventText({ event: name, id: data.cursor, data });
}
