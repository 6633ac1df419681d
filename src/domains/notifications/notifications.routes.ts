import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Notifications } from './notifications.js';
import {
  NotificationAnswer,
  NotificationDetail,
  NotificationsAnswer,
  NotificationsQuery,
  ReadAllAnswer,
  UnreadAnswer,
} from './notifications.schema.js';

const tags = ['Notifications'];
const Params = z.object({ user: z.string() });
const NotificationParams = Params.extend({ notification: z.string() });

/** The inbox. To be added after the routes whose words stand where an id does. */
export function notificationsRoutes(notifications: Notifications) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/notifications',
      access: 'user',
      tags,
      summary: 'The inbox, newest first',
      request: { params: Params, query: NotificationsQuery },
      responses: { 200: json('A page.', NotificationsAnswer) },
    }),
    async (c) => {
      const { unread, ...page } = c.req.valid('query');
      return c.json(await notifications.list(tenantOf(c), unread === 'true', pageRequest(page)), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/notifications/unread-count',
      access: 'user',
      tags,
      summary: 'How many were not read',
      request: { params: Params },
      responses: { 200: json('The number.', UnreadAnswer) },
    }),
    async (c) => c.json(await notifications.unread(tenantOf(c)), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/notifications/read-all',
      access: 'user',
      tags,
      summary: 'Mark all as read',
      request: { params: Params },
      responses: { 200: json('How many were not.', ReadAllAnswer) },
    }),
    async (c) => c.json(await notifications.readAll(tenantOf(c)), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/notifications/{notification}',
      access: 'user',
      tags,
      summary: 'A notification, and what became of it on each channel',
      request: { params: NotificationParams },
      responses: { 200: json('The notification.', NotificationDetail) },
    }),
    async (c) => c.json(await notifications.get(tenantOf(c), c.req.valid('param').notification), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/notifications/{notification}/read',
      access: 'user',
      tags,
      summary: 'Mark one as read',
      request: { params: NotificationParams },
      responses: { 200: json('The notification.', NotificationAnswer) },
    }),
    async (c) => c.json(await notifications.read(tenantOf(c), c.req.valid('param').notification), 200),
  );

  return router;
}
