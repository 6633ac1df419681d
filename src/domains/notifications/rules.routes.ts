import { z } from '@hono/zod-openapi';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, PageQuery } from '../../http/page.js';
import { changeOf, createRouter, route, type Router, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Rules } from './rules.js';
import { CreateRule, RuleAnswer, RulesAnswer, UpdateRule } from './rules.schema.js';

const Params = z.object({ user: z.string() });
const RuleParams = Params.extend({ rule: z.string() });

/** The same rules by both of their names. */
export function rulesRoutes(rules: Rules): Router {
  const router = createRouter();
  addRules(router, rules, '/users/{user}/notifications/rules', 'Notifications');
  addRules(router, rules, '/users/{user}/alerts', 'Alerts');
  return router;
}

function addRules(
  router: Router,
  rules: Rules,
  path: '/users/{user}/notifications/rules' | '/users/{user}/alerts',
  tag: string,
): void {
  const tags = [tag];

  router.openapi(
    route({
      method: 'get',
      path,
      access: 'user',
      tags,
      summary: 'Rules: what is worth a notification',
      request: { params: Params, query: PageQuery },
      responses: { 200: json('A page.', RulesAnswer) },
    }),
    async (c) => c.json(await rules.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path,
      access: 'user',
      tags,
      summary: 'Make a rule, on events or on what is measured',
      request: { params: Params, body: jsonBody(CreateRule) },
      responses: { 201: json('The rule.', RuleAnswer) },
    }),
    async (c) => c.json(await rules.create(tenantOf(c), c.req.valid('json'), changeOf(c)), 201),
  );

  router.openapi(
    route({
      method: 'get',
      path: `${path}/{rule}`,
      access: 'user',
      tags,
      summary: 'A rule, and whether it fires',
      request: { params: RuleParams },
      responses: { 200: json('The rule; its version is the ETag.', RuleAnswer) },
    }),
    async (c) => tagged(c, await rules.get(tenantOf(c), c.req.valid('param').rule)),
  );

  router.openapi(
    route({
      method: 'put',
      path: `${path}/{rule}`,
      access: 'user',
      tags,
      summary: 'Change a rule: what the body names',
      request: { params: RuleParams, body: jsonBody(UpdateRule) },
      responses: { 200: json('The rule as it is now.', RuleAnswer) },
    }),
    async (c) =>
      tagged(c, await rules.update(tenantOf(c), c.req.valid('param').rule, c.req.valid('json'), ifMatch(c), changeOf(c))),
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${path}/{rule}`,
      access: 'user',
      tags,
      summary: 'Delete a rule; what it found stays in the inbox',
      request: { params: RuleParams },
      responses: { 204: { description: 'It is gone.' } },
    }),
    async (c) => {
      await rules.delete(tenantOf(c), c.req.valid('param').rule, changeOf(c));
      return c.body(null, 204);
    },
  );
}
