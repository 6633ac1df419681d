import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { credentialOf, headerOf } from '../../http/authenticate.js';
import { admitByKey } from '../../http/guard.js';
import type { Env } from '../../http/request-state.js';
import { createRouter, requestIdOf, route } from '../../http/router.js';
import { acceptSocket } from '../../http/sockets.js';
import type { Caller } from '../../lib/caller.js';
import { AppError } from '../../lib/errors.js';
import type { Events } from './events.js';
import { type Admission, SocketSession } from './socket-session.js';

export interface SocketRoutesOptions {
  events: Events;
  authTimeoutMs?: number | undefined;
}

export function socketRoutes({ events, authTimeoutMs }: SocketRoutesOptions) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/ws',
      // Who calls may be said in the first message.
      access: 'public',
      tags: ['Events'],
      summary: 'Events on a WebSocket: a key in a header, in the first message, or a ticket in the query; then subscribe',
      request: {
        query: z.object({
          ticket: z.string().max(100).optional().openapi({ description: 'From `POST /users/{user}/ws/tickets`; opens once.' }),
        }),
      },
      responses: { 101: { description: 'A WebSocket; docs/events.md has its messages.' } },
    }),
    async (c) => {
      const requestId = requestIdOf(c);
      const { berth: state } = c.env;
      const workspace = headerOf(c, 'x-workspace-id');
      const admit = async (key: string, user: string | undefined) =>
        admissionOf(await admitByKey(state, key, { user: user ?? 'me', workspace }));
      // A request that cannot become a WebSocket is told so, whatever it shows, and uses up no ticket.
      const admission = c.env.socketOffer && (await presented(c, events, c.req.valid('query').ticket, admit));
      const { log } = state.services;
      return acceptSocket(c, (socket) =>
        new SocketSession({ events, socket, requestId, log, admission, admit, authTimeoutMs }).start(),
      );
    },
  );

  return router;
}

/** Whom the request itself lets in, if it says anything of that. */
async function presented(
  c: Context<Env>,
  events: Events,
  ticket: string | undefined,
  admit: (key: string, user: string | undefined) => Promise<Admission>,
): Promise<Admission | undefined> {
  if (ticket !== undefined) {
    const taken = await events.takeTicket(ticket);
    if (!taken) throw new AppError('unauthorized', 'the ticket was used, or is older than 30 seconds');
    return taken;
  }
  const key = credentialOf(c);
  return key === undefined ? undefined : admit(key, undefined);
}

function admissionOf({ caller, userId }: { caller: Caller; userId: string }): Admission {
  return { userId, keyId: caller.keyId, ...(caller.kind === 'agent' ? { agentId: caller.agentId } : {}) };
}
