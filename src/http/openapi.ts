import { createHash } from 'node:crypto';
import { type OpenAPIHono, z } from '@hono/zod-openapi';
import { headerOf } from './authenticate.js';
import type { Env } from './request-state.js';
import { createRouter, route, type Router } from './router.js';

type Document = ReturnType<OpenAPIHono['getOpenAPI31Document']>;

export type ApiInfo = { title: string; version: string; description?: string };

/** What `path.ts` does for every route, and no single one says. */
const FORMS =
  'Paths have shorter forms that reach the same handlers: `/api/…` is `/api/v1/…`, and what belongs to the caller is also found ' +
  'without `/users/{user}`, so `/api/agents` and `/api/v1/agents` are `/api/v1/users/me/agents`.';

/** OpenAPI 3.1 of all routes of the app. Throws where two operations would have one id. */
export function openApiDocument(app: Router, info: ApiInfo): Document {
  const document = (app as unknown as OpenAPIHono<Env>).getOpenAPI31Document({
    openapi: '3.1.0',
    info: { ...info, description: [info.description, FORMS].filter(Boolean).join('\n\n') },
    servers: [{ url: '/' }],
  });
  const paths = Object.fromEntries(
    Object.entries(document.paths ?? {}).map(([path, item]) => [path.replaceAll(/(?<=\})\{[^}]*\}/g, ''), item]),
  );
  const securitySchemes = {
    apiKey: { type: 'apiKey' as const, in: 'header' as const, name: 'X-API-Key' },
    bearer: { type: 'http' as const, scheme: 'bearer' },
  };
  const whole = { ...document, paths, components: { ...document.components, securitySchemes } };
  checkIds(whole);
  return whole;
}

/** `GET /openapi.json`: made at the first request, since the app has all its routes by then, and kept as text. */
export function openApiRoutes(app: Router, info: ApiInfo): Router {
  const router = createRouter();
  let made: { text: string; etag: string } | undefined;
  const make = () => {
    const text = JSON.stringify(openApiDocument(app, info));
    return { text, etag: `"${createHash('sha256').update(text).digest('base64url').slice(0, 22)}"` };
  };
  router.openapi(
    route({
      method: 'get',
      path: '/openapi.json',
      access: 'public',
      tags: ['System'],
      summary: 'This description of the API',
      responses: {
        200: { description: 'OpenAPI 3.1.', content: { 'application/json': { schema: z.looseObject({ openapi: z.string() }) } } },
      },
    }),
    (c) => {
      made ??= make();
      const headers = { 'Content-Type': 'application/json', ETag: made.etag, 'Cache-Control': 'no-cache' };
      if (headerOf(c, 'if-none-match') === made.etag) return new Response(null, { status: 304, headers }) as never;
      return new Response(made.text, { headers }) as never;
    },
  );
  return router;
}

function checkIds(document: Document): void {
  const seen = new Map<string, string>();
  for (const [path, item] of Object.entries(document.paths ?? {})) {
    for (const [method, operation] of Object.entries(item as Record<string, { operationId?: string }>)) {
      const id = operation.operationId;
      if (id === undefined) continue;
      const other = seen.get(id);
      if (other !== undefined) throw new Error(`operation id ${id} is that of ${other} and of ${method} ${path}`);
      seen.set(id, `${method} ${path}`);
    }
  }
}
