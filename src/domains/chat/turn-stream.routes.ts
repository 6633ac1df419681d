import type { Context } from 'hono';
import type { Env } from '../../http/request-state.js';
import { type EventSink, type ServerEvent, streamEvents, type StreamOptions } from '../../http/sse.js';
import { AppError, wrongField } from '../../lib/errors.js';
import { eventId } from './turn-event.js';
import type { Joined, Turns } from './turns.js';

/** What a client has seen of a turn. */
export interface Seen {
  turnId: string;
  /** Number of its last event; -1: nothing, `end`: all. */
  seq: number | 'end';
}

const EVENT_ID = /^(trn_[0-9a-hjkmnp-tv-z]{26}):(\d{1,9}|end)$/;

/** The `Last-Event-ID` of the request; undefined where it has none. */
export function lastEventIdOf(c: Context<Env>, turnId?: string): Seen | undefined {
  const id = c.req.header('last-event-id');
  if (id === undefined || id === '') return undefined;
  const [, turn, seq] = EVENT_ID.exec(id) ?? [];
  if (turn === undefined || (turnId !== undefined && turn !== turnId)) {
    const message = turnId === undefined ? 'must be the id of an event of a turn' : 'must be the id of an event of this turn';
    throw wrongField('header.Last-Event-ID', message);
  }
  return { turnId: turn, seq: seq === 'end' ? 'end' : Number(seq) };
}

export function startEvent(turn: { turnId: string; conversationId: string | null; agent: string }, id?: string): ServerEvent {
  const { turnId: turn_id, conversationId: conversation_id, agent } = turn;
  return { event: 'start', data: { turn_id, conversation_id, agent }, ...(id === undefined ? {} : { id }) };
}

/** A kept turn as server-sent events, after what the client has seen. One that is not resumable is cancelled when its client goes. */
export async function streamTurn(
  c: Context<Env>,
  turns: Turns,
  joined: Joined,
  seen: Seen | undefined,
  options?: StreamOptions,
): Promise<Response> {
  const { resumable, ...about } = aboutOf(joined);
  if (seen && joined.row && !joined.row.resumable)
    throw new AppError('conflict', 'the turn cannot be resumed: it was not begun so');
  if (seen?.seq === 'end') return new Response(null, { status: 204 });
  if (joined.row && !seen) c.env.berth.setHeader('Idempotency-Replayed', 'true');
  const seq = seen?.seq ?? -1;
  const lastId = resumable ? { id: `${about.turnId}:end` } : {};
  const produce = async (sink: EventSink) => {
    if (seq < 0) await sink.send(startEvent(about, resumable ? eventId(about.turnId, 0) : undefined));
    const outcome = await turns.show(joined, Math.max(seq, 0), sink).catch(async (error: unknown) => {
      if (sink.signal.aborted && !resumable) await joined.turn?.cancel();
      throw error;
    });
    // This process stops: the client comes back to another.
    if (!outcome) return;
    if (outcome.status === 'finished') await sink.send({ event: 'done', data: outcome.answer, ...lastId });
    else if (outcome.status === 'cancelled') await sink.send({ event: 'cancelled', data: outcome.answer, ...lastId });
    else throw outcome.error ?? new AppError('upstream_error', 'the turn failed');
  };
  return streamEvents(c, produce, options);
}

function aboutOf({ turn, row }: Joined): { turnId: string; conversationId: string | null; agent: string; resumable: boolean } {
  if (row) return { turnId: row.id, conversationId: row.conversation_id, agent: row.agent, resumable: row.resumable };
  const { id: turnId, conversationId, agent, resumable } = turn.turn;
  return { turnId, conversationId, agent, resumable };
}
