import { z } from '@hono/zod-openapi';
import { streamBytes } from '../../http/bytes.js';
import { json, jsonBody, pageAnswer, PageQuery } from '../../http/page.js';
import { callerOf, createRouter, requestIdOf, route, tenantOf } from '../../http/router.js';
import { pageRequest } from '../../lib/page.js';
import type { Snapshots } from './snapshots.js';
import {
  RestoreAnswer,
  RestoreSnapshot,
  ScheduleAnswer,
  SnapshotAnswer,
  SnapshotDetail,
  TakeSnapshot,
  WriteSchedule,
} from './snapshots.schema.js';

const tags = ['Snapshots'];
const AGENT = '/users/{user}/agents/{agent}';
const AgentParams = z.object({ user: z.string(), agent: z.string() });
const SnapshotParams = AgentParams.extend({ snapshot: z.string() });
const RestoreParams = AgentParams.extend({ restore: z.string() });
const NO_ROOM = {
  description: "The user's snapshots take what its tier allows, or the disk is full; the message has the figures.",
};

/** Snapshots of an agent, and putting it back to one. */
export function snapshotsRoutes(snapshots: Snapshots) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'post',
      path: `${AGENT}/snapshots`,
      access: 'user',
      tags,
      summary: "Take a snapshot of an agent's workspace, memory and conversations",
      request: { params: AgentParams, body: jsonBody(TakeSnapshot) },
      responses: {
        202: json('Wished: it is taken between two turns, and `state` says when it is there.', SnapshotAnswer),
        507: NO_ROOM,
      },
    }),
    async (c) => c.json(await snapshots.take(tenantOf(c), c.req.valid('param').agent, c.req.valid('json').note), 202),
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/snapshots`,
      access: 'user',
      tags,
      summary: "List an agent's snapshots, newest first",
      request: { params: AgentParams, query: PageQuery },
      responses: { 200: json('A page of snapshots.', pageAnswer(SnapshotAnswer)) },
    }),
    async (c) => c.json(await snapshots.list(tenantOf(c), c.req.valid('param').agent, pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/snapshots/{snapshot}`,
      access: 'user',
      tags,
      summary: 'Get a snapshot, and the settings that the agent had',
      request: { params: SnapshotParams },
      responses: { 200: json('The snapshot.', SnapshotDetail) },
    }),
    async (c) => {
      const { agent, snapshot } = c.req.valid('param');
      return c.json(await snapshots.get(tenantOf(c), agent, snapshot), 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${AGENT}/snapshots/{snapshot}`,
      access: 'user',
      tags,
      summary: 'Delete a snapshot',
      request: { params: SnapshotParams },
      responses: { 204: { description: 'Gone.' }, 409: { description: 'A restore has need of it.' } },
    }),
    async (c) => {
      const { agent, snapshot } = c.req.valid('param');
      await snapshots.remove(tenantOf(c), agent, snapshot, callerOf(c), requestIdOf(c));
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${AGENT}/snapshots/{snapshot}/restore`,
      access: 'user',
      tags,
      summary: 'Put an agent back to a snapshot: its workspace, memory and conversations, not its settings',
      description:
        'All of it or nothing. No turn of the agent runs until it is done; turns that came after the snapshot are in the journal no more, ' +
        'and are in the snapshot that is taken first unless `keep_current` is false.',
      request: { params: SnapshotParams, body: jsonBody(RestoreSnapshot) },
      responses: { 202: json('Wished; see its `state`.', RestoreAnswer), 507: NO_ROOM },
    }),
    async (c) => {
      const { agent, snapshot } = c.req.valid('param');
      const { keep_current: keepCurrent = true } = c.req.valid('json');
      return c.json(await snapshots.restore(tenantOf(c), agent, snapshot, { keepCurrent }, callerOf(c)), 202);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/snapshots/{snapshot}/export`,
      access: 'user',
      tags,
      summary: 'Download a snapshot as a file that another installation takes',
      description:
        'A tar of manifest.json, journal.jsonl, state.tar and SHA256SUMS (`sha256sum -c`), without secrets and keys. `Repr-Digest` has the SHA-256 of all of it.',
      request: { params: SnapshotParams },
      responses: {
        200: {
          description: 'The file.',
          content: { 'application/x-tar': { schema: z.string().openapi({ format: 'binary' }) } },
        },
        409: { description: 'The snapshot is not ready.' },
      },
    }),
    async (c) => {
      const { agent, snapshot } = c.req.valid('param');
      const { name, bytes, sha256, body } = await snapshots.export(tenantOf(c), agent, snapshot);
      const headers = {
        'Content-Type': 'application/x-tar',
        'Content-Disposition': `attachment; filename="${name}"`,
        'Repr-Digest': `sha-256=:${Buffer.from(sha256, 'hex').toString('base64')}:`,
        ETag: `"${sha256}"`,
        'Cache-Control': 'private, no-cache',
      };
      return streamBytes(c, { status: 200, headers, body, lengthBytes: bytes });
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/restores`,
      access: 'user',
      tags,
      summary: 'List what was put in place of an agent’s state, newest first',
      request: { params: AgentParams, query: PageQuery },
      responses: { 200: json('A page of restores.', pageAnswer(RestoreAnswer)) },
    }),
    async (c) =>
      c.json(await snapshots.listRestores(tenantOf(c), c.req.valid('param').agent, pageRequest(c.req.valid('query'))), 200),
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/restores/{restore}`,
      access: 'user',
      tags,
      summary: 'How far a restore is',
      request: { params: RestoreParams },
      responses: { 200: json('The restore.', RestoreAnswer) },
    }),
    async (c) => {
      const { agent, restore } = c.req.valid('param');
      return c.json(await snapshots.getRestore(tenantOf(c), agent, restore), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/snapshot-schedule`,
      access: 'user',
      tags,
      summary: 'When snapshots of an agent are taken by themselves',
      request: { params: AgentParams },
      responses: { 200: json('The schedule.', ScheduleAnswer) },
    }),
    async (c) => c.json(await snapshots.schedules.get(tenantOf(c), c.req.valid('param').agent), 200),
  );

  router.openapi(
    route({
      method: 'put',
      path: `${AGENT}/snapshot-schedule`,
      access: 'user',
      tags,
      summary: 'Take snapshots of an agent by the clock, or every so many seconds, and keep the newest',
      request: { params: AgentParams, body: jsonBody(WriteSchedule) },
      responses: { 200: json('The schedule as it is now.', ScheduleAnswer) },
    }),
    async (c) => c.json(await snapshots.schedules.put(tenantOf(c), c.req.valid('param').agent, c.req.valid('json')), 200),
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${AGENT}/snapshot-schedule`,
      access: 'user',
      tags,
      summary: 'Take no more snapshots of an agent by themselves; those that are there stay',
      request: { params: AgentParams },
      responses: { 204: { description: 'Gone.' } },
    }),
    async (c) => {
      await snapshots.schedules.remove(tenantOf(c), c.req.valid('param').agent);
      return c.body(null, 204);
    },
  );

  return router;
}
