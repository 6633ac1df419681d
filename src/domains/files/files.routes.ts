import { z } from '@hono/zod-openapi';
import type { Context } from 'hono';
import { headerOf } from '../../http/authenticate.js';
import { streamBytes } from '../../http/bytes.js';
import { json, jsonBody, pageAnswer } from '../../http/page.js';
import { bodyStreamOf, clientSignalOf } from '../../http/request-stream.js';
import type { Env } from '../../http/request-state.js';
import { callerOf, createRouter, ErrorAnswer, requestIdOf, route, tenantOf } from '../../http/router.js';
import { actorOf } from '../../lib/caller.js';
import { filePath, folderPath, nameIn } from './file-path.js';
import type { Files, FilesOf } from './files.js';
import {
  ArchiveQuery,
  DiskAnswer,
  DownloadQuery,
  FileAnswer,
  FileEntry,
  FileParams,
  ListQuery,
  MakeFolder,
  MoveFile,
  RemoveQuery,
  UnpackedAnswer,
} from './files.schema.js';
import { readGuards, writeGuards } from './guards.js';
import { disposition, presentation } from './presentation.js';

const tags = ['Files'];
const AGENT = '/users/{user}/agents/{agent}';
const AgentParams = z.object({ user: z.string(), agent: z.string() });
const Bytes = z.string().openapi({ format: 'binary' });
const ANY_BYTES = { '*/*': { schema: Bytes } };
const ARCHIVES = { 'application/x-tar': { schema: Bytes }, 'application/zip': { schema: Bytes } };

/** An answer that a route of files may give besides those of all routes. */
function failed(description: string) {
  return { description, content: { 'application/json': { schema: ErrorAnswer } } };
}
const CHANGED = failed('The file is not at the version that was named.');
const NO_ROOM = failed("The disk under the agent's volume is full; the message has the figure.");
const IN_THE_WAY = failed('A folder is where a file was meant, a file where a folder was, or something is there already.');
const TOO_MUCH = failed("It would be more than the user's tier allows on disk; the message has the figures.");
const TOO_SLOW = failed('The body came too slowly.');

function header(name: string, description: string) {
  return { name, in: 'header' as const, required: false, schema: { type: 'string' as const }, description };
}
const IF_MATCH = header('If-Match', 'Only where the file has this `ETag`.');
const IF_NONE_MATCH_ALL = header('If-None-Match', '`*`: only where there is no such file.');

function ofRequest(c: Context<Env>, agent: string): FilesOf {
  return { userId: tenantOf(c), agent, signal: clientSignalOf(c), actor: actorOf(callerOf(c)), requestId: requestIdOf(c) };
}

export function filesRoutes(files: Files) {
  const router = createRouter();

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/files`,
      access: 'agent',
      waits: true,
      tags,
      summary: "List a folder of the agent's workspace",
      request: { params: AgentParams, query: ListQuery },
      responses: { 200: json('A page of entries, by path.', pageAnswer(FileEntry)), 409: IN_THE_WAY },
    }),
    async (c) => {
      const { path = '', recursive = false, cursor, limit = 200 } = c.req.valid('query');
      const of = ofRequest(c, c.req.valid('param').agent);
      return c.json(await files.list(of, { path: folderPath(path, 'query.path'), recursive, cursor, limit }), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/files/{path}{.+}`,
      access: 'agent',
      waits: true,
      tags,
      summary: "Read a file of the agent's workspace; HEAD asks what there is, also of a folder",
      parameters: [
        header('Range', 'One range of bytes, such as `bytes=0-99`.'),
        header('If-None-Match', 'An `ETag`: 304 where the file still has it.'),
        header('If-Range', 'An `ETag`: the whole file where it has another by now.'),
      ],
      request: { params: FileParams, query: DownloadQuery },
      responses: {
        200: { description: 'The file.', content: ANY_BYTES },
        206: { description: 'The range of it that was asked for.', content: ANY_BYTES },
        304: { description: 'The file has not changed.' },
        409: IN_THE_WAY,
        416: failed('The file ends before that range begins; `Content-Range` has its length.'),
      },
    }),
    async (c) => {
      const { agent, path: raw } = c.req.valid('param');
      const path = filePath(raw, 'path.path');
      const { download } = c.req.valid('query');
      const method = c.req.method === 'HEAD' ? 'HEAD' : 'GET';
      const opened = await files.open(ofRequest(c, agent), path, { method, headers: readGuards((name) => headerOf(c, name)) });
      const { status, kind, etag, lastModified, contentRange, lengthBytes, body } = opened;
      const headers: Record<string, string> = {
        'Cache-Control': 'private, no-cache',
        'X-Berth-Kind': kind,
        ...(etag === undefined ? {} : { ETag: etag }),
        ...(lastModified === undefined ? {} : { 'Last-Modified': lastModified }),
      };
      if (status === 304 || kind === 'folder') {
        body.destroy();
        return streamBytes(c, { status, headers, body: undefined, lengthBytes: undefined });
      }
      Object.assign(headers, presentation(path, download === 'true' ? true : download), { 'Accept-Ranges': 'bytes' });
      if (contentRange !== undefined) headers['Content-Range'] = contentRange;
      return streamBytes(c, { status, headers, body, lengthBytes });
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: `${AGENT}/files/{path}{.+}`,
      access: 'agent',
      waits: true,
      streamsBody: true,
      tags,
      summary: "Write a file of the agent's workspace, whole or not at all; folders are made",
      parameters: [IF_MATCH, IF_NONE_MATCH_ALL],
      request: { params: FileParams, body: { required: true, content: ANY_BYTES } },
      responses: {
        200: json('It was there and has been replaced.', FileAnswer),
        201: json('It is new.', FileAnswer),
        408: TOO_SLOW,
        409: IN_THE_WAY,
        412: CHANGED,
        413: TOO_MUCH,
        507: NO_ROOM,
      },
    }),
    async (c) => {
      const { agent, path } = c.req.valid('param');
      const body = bodyStreamOf(c);
      const incoming = { body, lengthBytes: body.lengthBytes };
      const written = await files.write(
        ofRequest(c, agent),
        filePath(path, 'path.path'),
        incoming,
        writeGuards((name) => headerOf(c, name)),
      );
      const { isNew, ...answer } = written;
      c.header('ETag', answer.etag);
      return c.json(answer, isNew ? 201 : 200);
    },
  );

  router.openapi(
    route({
      method: 'delete',
      path: `${AGENT}/files/{path}{.+}`,
      access: 'agent',
      waits: true,
      tags,
      summary: 'Delete a file, or a folder where that is asked for',
      parameters: [IF_MATCH],
      request: { params: FileParams, query: RemoveQuery },
      responses: { 204: { description: 'Gone.' }, 409: IN_THE_WAY, 412: CHANGED },
    }),
    async (c) => {
      const { agent, path } = c.req.valid('param');
      const { recursive = false } = c.req.valid('query');
      await files.remove(
        ofRequest(c, agent),
        filePath(path, 'path.path'),
        recursive,
        writeGuards((name) => headerOf(c, name)),
      );
      return c.body(null, 204);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${AGENT}/file-moves`,
      access: 'agent',
      waits: true,
      tags,
      summary: 'Move or rename a file or folder',
      request: { params: AgentParams, body: jsonBody(MoveFile) },
      responses: { 200: json('What is at the new place.', FileEntry) },
    }),
    async (c) => {
      const { from, to, overwrite = false } = c.req.valid('json');
      const move = { from: filePath(from, 'from'), to: filePath(to, 'to') };
      return c.json(await files.move(ofRequest(c, c.req.valid('param').agent), { ...move, overwrite }), 200);
    },
  );

  router.openapi(
    route({
      method: 'post',
      path: `${AGENT}/folders`,
      access: 'agent',
      waits: true,
      tags,
      summary: 'Make a folder, and those above it',
      request: { params: AgentParams, body: jsonBody(MakeFolder) },
      responses: { 200: json('It was there.', FileEntry), 201: json('It is new.', FileEntry) },
    }),
    async (c) => {
      const path = filePath(c.req.valid('json').path, 'path');
      const { isNew, ...entry } = await files.makeFolder(ofRequest(c, c.req.valid('param').agent), path);
      return c.json(entry, isNew ? 201 : 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/archive`,
      access: 'agent',
      waits: true,
      tags,
      summary: 'Download a folder, or the whole workspace, as a tar or zip',
      request: { params: AgentParams, query: ArchiveQuery },
      responses: { 200: { description: 'The archive, packed as it is sent.', content: ARCHIVES }, 409: IN_THE_WAY },
    }),
    async (c) => {
      const { path: raw = '', format = 'tar' } = c.req.valid('query');
      const { agent } = c.req.valid('param');
      const path = folderPath(raw, 'query.path');
      const body = await files.pack(ofRequest(c, agent), path, format);
      const headers = {
        'Content-Type': format === 'zip' ? 'application/zip' : 'application/x-tar',
        'Content-Disposition': disposition('attachment', `${nameIn(path) || agent}.${format}`),
      };
      return streamBytes(c, { status: 200, headers, body, lengthBytes: undefined });
    },
  );

  router.openapi(
    route({
      method: 'put',
      path: `${AGENT}/archive`,
      access: 'agent',
      waits: true,
      streamsBody: true,
      tags,
      summary: 'Upload a folder as a tar or zip, which is unpacked in the agent’s container, whole or not at all',
      request: { params: AgentParams, query: ArchiveQuery, body: { required: true, content: ARCHIVES } },
      responses: {
        200: json('All of it is there.', UnpackedAnswer),
        408: TOO_SLOW,
        409: IN_THE_WAY,
        413: TOO_MUCH,
        422: failed('It is no such archive, or has something in it that may not be.'),
        507: NO_ROOM,
      },
    }),
    async (c) => {
      const { path = '', format = 'tar' } = c.req.valid('query');
      const body = bodyStreamOf(c);
      const incoming = { body, lengthBytes: body.lengthBytes };
      const of = ofRequest(c, c.req.valid('param').agent);
      return c.json(await files.unpack(of, folderPath(path, 'query.path'), format, incoming), 200);
    },
  );

  router.openapi(
    route({
      method: 'get',
      path: `${AGENT}/disk`,
      access: 'agent',
      waits: true,
      tags,
      summary: "How much the agent's volume holds, and how much it may",
      request: { params: AgentParams },
      responses: { 200: json('Figures of the whole volume.', DiskAnswer) },
    }),
    async (c) => c.json(await files.usage(ofRequest(c, c.req.valid('param').agent)), 200),
  );

  return router;
}
