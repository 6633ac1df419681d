import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import type { Env } from '../../http/request-state.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import { streamEvents, type StreamOptions } from '../../http/sse.js';
import { decodeLogCursor } from './cursor.js';
import type { Logs, LogsWish } from './logs.js';
import { AgentLogsQuery, type LogGap, type LogLine, LogsAnswer, LogsQuery, timeMs } from './logs.schema.js';

const responses = {
  200: {
    description:
      'Lines, oldest first, and what is missing among them. As a stream: one `log` event a line, `gap` where lines are missing, and `waiting` ' +
      'when they cannot be had for a while; `Last-Event-ID` goes on after an event.',
    content: {
      'application/json': { schema: LogsAnswer },
      'text/plain': { schema: z.string() },
      'text/event-stream': { schema: z.string() },
    },
  },
};

export function logsRoutes(logs: Logs, streamOptions?: StreamOptions) {
  const router = createRouter();

  const answer = async (c: Context<Env>, wish: LogsWish, { follow, format }: Pick<LogsQuery, 'follow' | 'format'>) => {
    const userId = tenantOf(c);
    if (follow === 'true') {
      return streamEvents(
        c,
        (sink) =>
          logs.follow(userId, wish, sink.signal, {
            line: (line, id) => sink.send({ event: 'log', data: line, id }),
            gap: (gap, id) => sink.send({ event: 'gap', data: gap, id }),
            waiting: (reason) => sink.send({ event: 'waiting', data: { reason } }),
          }),
        streamOptions,
      );
    }
    const found = await logs.read(userId, wish, c.req.raw.signal);
    return format === 'text' ? c.text(textOf(found), 200) : c.json(found, 200);
  };

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/logs',
      access: 'user',
      tags: ['Logs'],
      summary: "What a user's containers print, and printed; with ?follow=true as it is written (SSE)",
      request: { params: z.object({ user: z.string() }), query: LogsQuery },
      responses,
    }),
    (c) => {
      const query = c.req.valid('query');
      return answer(c, wishOf(query, c.req.header('last-event-id')), query);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/logs',
      access: 'agent',
      tags: ['Logs'],
      summary: 'What the container of an agent prints, and printed, of that agent',
      request: { params: z.object({ user: z.string(), agent: z.string() }), query: AgentLogsQuery },
      responses,
    }),
    (c) => {
      const query = { ...c.req.valid('query'), agent: c.req.valid('param').agent };
      return answer(c, wishOf(query, c.req.header('last-event-id')), query);
    },
  );

  return router;
}

function wishOf(query: LogsQuery, lastEventId: string | undefined): LogsWish {
  const { tail, since, until, agent, stream, level, q, follow } = query;
  // What a client that comes back has seen last, before what its address says.
  const cursor = follow === 'true' && lastEventId ? lastEventId : query.cursor;
  return {
    tail: tail ?? 100,
    sinceMs: since === undefined ? undefined : timeMs(since),
    untilMs: until === undefined ? undefined : timeMs(until),
    agent,
    stream,
    levels: level,
    q,
    cursor: cursor === undefined ? undefined : decodeLogCursor(cursor),
  };
}

function textOf({ data, gaps }: LogsAnswer): string {
  const lines = [
    ...gaps.map((gap) => ({ time: gap.from ?? '', text: textOfGap(gap) })),
    ...data.map((line) => ({ time: line.time, text: textOfLine(line) })),
  ];
  return lines
    .toSorted((a, b) => (a.time < b.time ? -1 : a.time > b.time ? 1 : 0))
    .map(({ text }) => `${visible(text)}\n`)
    .join('');
}

function textOfLine({ time, level, agent, message }: LogLine): string {
  return `${time}${level === null ? '' : ` ${level.toUpperCase()}`}${agent === null ? '' : ` [${agent}]`} ${message}`;
}

function textOfGap({ from, to, lines, bytes, reason }: LogGap): string {
  const count = lines === null ? 'lines' : `${lines} lines (${bytes ?? 0} bytes)`;
  return `${from ?? ''} GAP ${count} missing${to === null ? '' : ` up to ${to}`}: ${reason}`.trim();
}

/** A line stays one line, and writes to no terminal: what a program prints must not look like another line, nor move a cursor. */
function visible(text: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what is looked for
  return text.replace(/[\u0000-\u0008\u000A-\u001F\u007F-\u009F\u2028\u2029]/g, (char) => {
    const code = char.charCodeAt(0);
    return code < 256 ? `\\x${code.toString(16).padStart(2, '0')}` : `\\u${code.toString(16)}`;
  });
}
