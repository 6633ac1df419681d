import { z } from '@hono/zod-openapi';
import { json, pageAnswer, PageQuery } from '../../http/page.js';
import { createRouter, route, type Router, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import { ActAnswer, HeadAnswer, ReceiptAnswer, VerifyAnswer } from './audit.schema.js';
import type { Audit } from './audit.js';
import { exportLine } from './export.js';

const tags = ['Audit'];
const ListQuery = PageQuery.extend({
  actor: z.string().max(100).optional().openapi({ description: 'As in the answer, such as `user:key_…`.' }),
  operation: z.string().max(200).optional().openapi({ description: 'An operation id of this document.' }),
});
const Seq = z.coerce.number().int().min(0).max(Number.MAX_SAFE_INTEGER);

export function auditRoutes(audit: Audit): Router {
  const router = createRouter();
  addLists(router, audit);
  addChain(router, audit);
  return router;
}

function addLists(router: Router, audit: Audit): void {
  for (const path of ['/admin/audit', '/audit'] as const) {
    router.openapi(
      route({
        method: 'get',
        path,
        access: 'admin',
        tags,
        summary: 'Who did what and who was refused, newest first',
        request: { query: ListQuery },
        responses: { 200: json('A page of acts.', pageAnswer(ActAnswer)) },
      }),
      async (c) => c.json(await audit.list(c.req.valid('query'), pageRequest(c.req.valid('query'))), 200),
    );
  }

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/audit',
      access: 'user',
      tags,
      summary: 'What a user did, and what admins did to it, newest first',
      request: { params: z.object({ user: z.string() }), query: ListQuery },
      responses: { 200: json('A page of acts.', pageAnswer(ActAnswer)) },
    }),
    async (c) => c.json(await audit.listOf(tenantOf(c), c.req.valid('query'), pageRequest(c.req.valid('query'))), 200),
  );
}

function addChain(router: Router, audit: Audit): void {
  router.openapi(
    route({
      method: 'get',
      path: '/audit/head',
      access: 'admin',
      tags,
      summary: 'The signed head of the chain; kept elsewhere, it proves later that nothing before it was touched',
      responses: { 200: json('The head.', HeadAnswer) },
    }),
    async (c) => c.json(await audit.head(), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/audit/verify',
      access: 'admin',
      tags,
      summary: 'Check the chain: what was changed, removed or put in is named',
      request: {
        query: z.object({
          after: Seq.optional().openapi({ description: 'The `next` of an answer before; 0 unless told.' }),
          earlier_seq: Seq.optional().openapi({
            description: 'With `earlier_hash`: a head of earlier, which must be part of the chain still.',
          }),
          earlier_hash: z
            .string()
            .regex(/^[0-9a-f]{64}$/, 'must be 64 hexadecimal digits')
            .optional(),
        }),
      },
      responses: { 200: json('What was found.', VerifyAnswer) },
    }),
    async (c) => {
      const { after, earlier_seq: seq, earlier_hash: hash } = c.req.valid('query');
      const earlier = seq === undefined || hash === undefined ? undefined : { seq, hash };
      return c.json(await audit.verify(after ?? 0, earlier), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/audit/export',
      access: 'admin',
      tags,
      summary: 'Links of the chain as JSON lines, for `berth audit verify`; without addresses, paths and names',
      request: {
        query: z.object({
          after: Seq.optional().openapi({ description: 'Links after this place.' }),
          limit: z.coerce.number().int().min(1).max(1_000).optional(),
        }),
      },
      responses: { 200: { description: 'One link a line.', content: { 'application/x-ndjson': { schema: z.string() } } } },
    }),
    async (c) => {
      const { after = 0, limit = 1_000 } = c.req.valid('query');
      const lines = (await audit.links(after, limit)).map((link) => `${exportLine(link)}\n`);
      return new Response(lines.join(''), { headers: { 'Content-Type': 'application/x-ndjson' } }) as never;
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/audit/receipts/{erased}',
      access: 'admin',
      tags,
      summary: 'The signed receipt of a deletion',
      request: { params: z.object({ erased: z.string().max(64).openapi({ description: 'The id that the user had.' }) }) },
      responses: { 200: json('The receipt, which names the user by digest.', ReceiptAnswer) },
    }),
    async (c) => c.json(await audit.receipt(c.req.valid('param').erased), 200),
  );
}
