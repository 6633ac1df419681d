import { z } from '@hono/zod-openapi';
import { createRouter, route, tenantOf } from '../../http/router.js';
import { streamEvents, type StreamOptions } from '../../http/sse.js';
import type { Logs } from './logs.js';
import { LogLine, LogsQuery, sinceMs } from './logs.schema.js';

export function logsRoutes(logs: Logs, streamOptions?: StreamOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/logs',
      access: 'user',
      waits: true,
      tags: ['Logs'],
      summary: "What a user's containers print; with ?follow=true as it is written (SSE)",
      request: { params: z.object({ user: z.string() }), query: LogsQuery },
      responses: {
        200: {
          description:
            'Lines, oldest first; as a stream: one `log` event a line, and `waiting` when they cannot be had for a while.',
          content: {
            'application/json': { schema: z.object({ data: z.array(LogLine) }) },
            'text/plain': { schema: z.string() },
            'text/event-stream': { schema: z.string() },
          },
        },
      },
    }),
    async (c) => {
      const { tail, since, agent, stream, follow, format } = c.req.valid('query');
      const wish = { tail: tail ?? 100, sinceMs: since === undefined ? undefined : sinceMs(since), agent, stream };
      const userId = tenantOf(c);
      if (follow === 'true') {
        return streamEvents(
          c,
          (sink) =>
            logs.follow(userId, wish, sink.signal, {
              line: (line) => sink.send({ event: 'log', data: line }),
              waiting: (reason) => sink.send({ event: 'waiting', data: { reason } }),
            }),
          streamOptions,
        );
      }
      const lines = await logs.read(userId, wish, c.req.raw.signal);
      if (format === 'text') return c.text(lines.map(textOf).join(''), 200);
      return c.json({ data: lines }, 200);
    },
  );

  return router;
}

function textOf(line: LogLine): string {
  const level = line.level === null ? '' : ` ${line.level.toUpperCase()}`;
  const agent = line.agent === null ? '' : ` [${line.agent}]`;
  return `${line.time}${level}${agent} ${line.message}\n`;
}
