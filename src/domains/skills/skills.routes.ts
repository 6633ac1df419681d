import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { ifMatch, tagged } from '../../http/if-match.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Change, Skills } from './skills.js';
import {
  AgentSkillsAnswer,
  AssignSkills,
  DownloadQuery,
  SkillAnswer,
  SkillDetail,
  SkillVersionAnswer,
  UpdateSkill,
  UploadQuery,
} from './skills.schema.js';

const tags = ['Skills'];
const UserParams = z.object({ user: z.string() });
const SkillParams = z.object({ user: z.string(), id: z.string().openapi({ description: "The skill's name or id." }) });
const AgentParams = z.object({ user: z.string(), agent: z.string() });
/** What unpacks to at most 20 MB is not larger when packed, whatever its headers add. */
const UPLOAD_BYTES = 26_000_000;
const binary = { schema: z.string().openapi({ format: 'binary' }) };

export function skillsRoutes(skills: Skills) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/skills',
      access: 'user',
      tags,
      summary: "List a user's skills",
      request: { params: UserParams, query: PageQuery },
      responses: { 200: json('A page of skills.', pageAnswer(SkillAnswer)) },
    }),
    async (c) => c.json(await skills.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/skills/{id}',
      access: 'user',
      tags,
      summary: 'Get a skill with its files and the agents that have it',
      request: { params: SkillParams },
      responses: { 200: json('The skill.', SkillDetail) },
    }),
    async (c) => tagged(c, await skills.get(tenantOf(c), c.req.valid('param').id)),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/skills/{id}',
      access: 'user',
      tags,
      summary: 'Change who has a skill, or which of its versions',
      request: { params: SkillParams, body: jsonBody(UpdateSkill) },
      responses: { 200: json('The skill as it is now.', SkillAnswer) },
    }),
    async (c) => {
      const { id } = c.req.valid('param');
      return c.json(await skills.update(tenantOf(c), id, c.req.valid('json'), changeOf(c)), 200);
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/skills/{id}/file',
      access: 'user',
      bodyLimitBytes: UPLOAD_BYTES,
      tags,
      summary: 'Upload a skill: a SKILL.md, or a zip, tar or tar.gz with one; a new version where the skill is there',
      request: { params: SkillParams, query: UploadQuery, body: { required: true, content: { '*/*': binary } } },
      responses: {
        200: json('The skill is there: with a new version, or unchanged where the files are the same.', SkillAnswer),
        201: json('The skill is new.', SkillAnswer),
      },
    }),
    async (c) => {
      const body = {
        bytes: Buffer.from(await c.req.arrayBuffer()),
        contentType: c.req.header('content-type') ?? '',
        enabledFor: c.req.valid('query').enabled_for,
      };
      const { skill, outcome } = await skills.upload(tenantOf(c), c.req.valid('param').id, body, changeOf(c));
      return c.json(skill, outcome === 'created' ? 201 : 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/skills/{id}/file',
      access: 'user',
      tags,
      summary: 'Download the files of a skill',
      request: { params: SkillParams, query: DownloadQuery },
      responses: { 200: { description: 'A zip or a tar.', content: { 'application/zip': binary, 'application/x-tar': binary } } },
    }),
    async (c) => {
      const { format = 'zip', version } = c.req.valid('query');
      const { name, bytes } = await skills.download(tenantOf(c), c.req.valid('param').id, format, version);
      const type = format === 'zip' ? 'application/zip' : 'application/x-tar';
      return c.body(new Uint8Array(bytes).buffer, 200, {
        'Content-Type': type,
        'Content-Disposition': `attachment; filename="${name}"`,
      }) as never;
    },
  );

  for (const path of ['/users/{user}/skills/{id}/file', '/users/{user}/skills/{id}'] as const) {
    router.openapi(
      route({
        method: 'delete',
        path,
        access: 'user',
        tags,
        summary: 'Delete a skill with all its versions',
        request: { params: SkillParams },
        responses: { 204: { description: 'It is gone; agents lose it before their next turn.' } },
      }),
      async (c) => {
        await skills.delete(tenantOf(c), c.req.valid('param').id, changeOf(c));
        return c.body(null, 204);
      },
    );
  }

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/skills/{id}/versions',
      access: 'user',
      tags,
      summary: 'List the versions of a skill, newest first',
      request: { params: SkillParams },
      responses: { 200: json('All that are kept.', z.object({ data: z.array(SkillVersionAnswer) })) },
    }),
    async (c) => c.json({ data: await skills.versions(tenantOf(c), c.req.valid('param').id) }, 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/skills',
      access: 'agent',
      tags,
      summary: 'Which skills an agent has, and why',
      request: { params: AgentParams },
      responses: { 200: json('All skills of the user.', AgentSkillsAnswer) },
    }),
    async (c) => c.json(await skills.ofAgent(tenantOf(c), c.req.valid('param').agent), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/agents/{agent}/skills',
      access: 'user',
      tags,
      summary: 'Say which skills an agent has or has not, whatever the others have',
      request: { params: AgentParams, body: jsonBody(AssignSkills) },
      responses: { 200: json('What it has now.', AgentSkillsAnswer) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      return c.json(await skills.assign(tenantOf(c), agent, c.req.valid('json'), changeOf(c)), 200);
    },
  );

  return router;
}

/** Who asks for a change, and which version they saw. */
export function changeOf(c: Context): Change {
  return { caller: callerOf(c), requestId: requestIdOf(c), ifVersion: ifMatch(c) };
}
