import { z } from '@hono/zod-openapi';
import { json } from '../../http/page.js';
import { createRouter, route, tenantOf } from '../../http/router.js';
import type { SkillInstalls } from './installs.js';
import { FoundSkills, InstalledSkill, InstallSkill, SearchQuery, UpdateFromRegistry } from './installs.schema.js';
import { changeOf } from './skills.routes.js';

const tags = ['Skills'];
const UserParams = z.object({ user: z.string() });
const SlugParams = z.object({
  user: z.string(),
  slug: z.string().openapi({ description: 'A slug of the registry, or `@owner/slug` (percent-encoded).' }),
});
const optionalBody = <T extends z.ZodType>(schema: T) => ({
  required: false as const,
  content: { 'application/json': { schema } },
});

export function installsRoutes(installs: SkillInstalls) {
  const router = createRouter();
  // The pattern lets an encoded slash pass: `@owner%2Fslug` is one segment.
  const path = '/users/{user}/skills/{slug}{[^/]+}/registry-install' as const;

  router.openapi(
    route({
      method: 'post',
      path,
      access: 'user',
      waits: true,
      tags,
      summary: 'Install a skill from the registry',
      request: { params: SlugParams, body: optionalBody(InstallSkill) },
      responses: {
        200: json('A new version of a skill that was there, or nothing new.', InstalledSkill),
        201: json('The skill is new.', InstalledSkill),
      },
    }),
    async (c) => {
      const { enabled_for: enabledFor, ...wish } = c.req.valid('json') ?? {};
      const { slug } = c.req.valid('param');
      const { skill, outcome } = await installs.install(
        tenantOf(c),
        slug,
        { ...wish, enabledFor },
        changeOf(c),
        c.req.raw.signal,
      );
      return c.json({ ...skill, outcome }, outcome === 'created' ? 201 : 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path,
      access: 'user',
      tags,
      summary: 'Uninstall a skill that came from the registry',
      request: { params: SlugParams },
      responses: { 204: { description: 'It is gone, with all its versions.' } },
    }),
    async (c) => {
      await installs.uninstall(tenantOf(c), c.req.valid('param').slug, changeOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/skills/{id}/registry-update',
      access: 'user',
      waits: true,
      tags,
      summary: "Update a skill to the registry's newest version",
      request: {
        params: z.object({ user: z.string(), id: z.string().openapi({ description: "The skill's name or id." }) }),
        body: optionalBody(UpdateFromRegistry),
      },
      responses: { 200: json('The skill as it is now.', InstalledSkill) },
    }),
    async (c) => {
      const wish = c.req.valid('json') ?? {};
      const { skill, outcome } = await installs.update(tenantOf(c), c.req.valid('param').id, wish, changeOf(c), c.req.raw.signal);
      return c.json({ ...skill, outcome }, 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/skill-registry/search',
      access: 'user',
      waits: true,
      tags,
      summary: 'Search the registry for skills',
      request: { params: UserParams, query: SearchQuery },
      responses: { 200: json('What it found, the best first.', FoundSkills) },
    }),
    async (c) => {
      const { q, limit = 25 } = c.req.valid('query');
      return c.json({ data: await installs.search(q, limit, c.req.raw.signal) }, 200);
    },
  );

  return router;
}
