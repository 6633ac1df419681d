import { z } from '@hono/zod-openapi';
import { ifMatch } from '../../http/if-match.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Plugins } from './plugins.js';
import { AgentPluginsAnswer, AssignPlugins, CreatePlugin, PluginAnswer, UpdatePlugin } from './plugins.schema.js';

const tags = ['Plugins'];
const UserParams = z.object({ user: z.string() });
const AgentParams = z.object({ user: z.string(), agent: z.string() });
const PluginParams = z.object({ user: z.string(), plugin: z.string() });
const InstallationParams = z.object({ plugin: z.string() });

export function pluginsRoutes(plugins: Plugins) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/plugins',
      access: 'user',
      tags,
      summary: "List a user's plugins and those of the installation",
      request: { params: UserParams, query: PageQuery },
      responses: { 200: json('A page of plugins.', pageAnswer(PluginAnswer)) },
    }),
    async (c) => c.json(await plugins.list(tenantOf(c), pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/users/{user}/plugins',
      access: 'user',
      tags,
      summary: 'Create a plugin of a user',
      request: { params: UserParams, body: jsonBody(CreatePlugin) },
      responses: { 201: json('The plugin.', PluginAnswer) },
    }),
    async (c) => c.json(await plugins.create(tenantOf(c), c.req.valid('json'), callerOf(c), requestIdOf(c)), 201),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/plugins/{plugin}',
      access: 'user',
      tags,
      summary: 'Get a plugin of a user',
      request: { params: PluginParams },
      responses: { 200: json('The plugin.', PluginAnswer) },
    }),
    async (c) => {
      const plugin = await plugins.get(tenantOf(c), c.req.valid('param').plugin);
      c.header('ETag', `"${plugin.revision}"`);
      return c.json(plugin, 200);
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/plugins/{plugin}',
      access: 'user',
      tags,
      summary: 'Change a plugin of a user: what is not named stays; its agents have it so in their next turns',
      request: { params: PluginParams, body: jsonBody(UpdatePlugin) },
      responses: { 200: json('The plugin as it is now.', PluginAnswer) },
    }),
    async (c) => {
      const { plugin } = c.req.valid('param');
      const wish = c.req.valid('json');
      return c.json(await plugins.update(tenantOf(c), plugin, wish, ifMatch(c), callerOf(c), requestIdOf(c)), 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/users/{user}/plugins/{plugin}',
      access: 'user',
      tags,
      summary: 'Delete a plugin of a user, and take it out of the agents that have it',
      request: { params: PluginParams },
      responses: { 204: { description: 'The plugin is gone.' } },
    }),
    async (c) => {
      await plugins.delete(tenantOf(c), c.req.valid('param').plugin, ifMatch(c), callerOf(c), requestIdOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/admin/plugins',
      access: 'admin',
      tags,
      summary: 'List the plugins of the installation, which all users see',
      request: { query: PageQuery },
      responses: { 200: json('A page of plugins.', pageAnswer(PluginAnswer)) },
    }),
    async (c) => c.json(await plugins.list(null, pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'post',
      path: '/admin/plugins',
      access: 'admin',
      tags,
      summary: 'Create a plugin of the installation',
      request: { body: jsonBody(CreatePlugin) },
      responses: { 201: json('The plugin.', PluginAnswer) },
    }),
    async (c) => c.json(await plugins.create(null, c.req.valid('json'), callerOf(c), requestIdOf(c)), 201),
  );

  router.openapi(
    route({
      method: 'get',
      path: '/admin/plugins/{plugin}',
      access: 'admin',
      tags,
      summary: 'Get a plugin of the installation',
      request: { params: InstallationParams },
      responses: { 200: json('The plugin.', PluginAnswer) },
    }),
    async (c) => {
      const plugin = await plugins.get(null, c.req.valid('param').plugin);
      c.header('ETag', `"${plugin.revision}"`);
      return c.json(plugin, 200);
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: '/admin/plugins/{plugin}',
      access: 'admin',
      tags,
      summary: 'Change a plugin of the installation: what is not named stays; its agents have it so in their next turns',
      request: { params: InstallationParams, body: jsonBody(UpdatePlugin) },
      responses: { 200: json('The plugin as it is now.', PluginAnswer) },
    }),
    async (c) => {
      const { plugin } = c.req.valid('param');
      const wish = c.req.valid('json');
      return c.json(await plugins.update(null, plugin, wish, ifMatch(c), callerOf(c), requestIdOf(c)), 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: '/admin/plugins/{plugin}',
      access: 'admin',
      tags,
      summary: 'Delete a plugin of the installation, and take it out of the agents that have it',
      request: { params: InstallationParams },
      responses: { 204: { description: 'The plugin is gone.' } },
    }),
    async (c) => {
      await plugins.delete(null, c.req.valid('param').plugin, ifMatch(c), callerOf(c), requestIdOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: '/users/{user}/agents/{agent}/plugins',
      access: 'agent',
      tags,
      summary: 'Plugins assigned to an agent, with details, in order of priority',
      request: { params: AgentParams },
      responses: { 200: json("The agent's plugins.", AgentPluginsAnswer) },
    }),
    async (c) => c.json(await plugins.assigned(tenantOf(c), c.req.valid('param').agent), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: '/users/{user}/agents/{agent}/plugins',
      access: 'user',
      tags,
      summary: "Replace an agent's plugins; the order is the priority",
      request: { params: AgentParams, body: jsonBody(AssignPlugins) },
      responses: { 200: json("The agent's plugins as they are now.", AgentPluginsAnswer) },
    }),
    async (c) => {
      const { agent } = c.req.valid('param');
      const { plugin_ids: wished } = c.req.valid('json');
      return c.json(await plugins.assign(tenantOf(c), agent, wished, callerOf(c), requestIdOf(c)), 200);
    },
  );

  return router;
}
