import { z } from '@hono/zod-openapi';

const PATH_CHARS = 4_096;
const path = z.string().max(PATH_CHARS, `must have at most ${PATH_CHARS} characters`);
const flag = z.enum(['true', 'false'], { error: 'must be true or false' }).transform((text) => text === 'true');

export const FileParams = z.object({
  user: z.string(),
  agent: z.string(),
  path: z.string().openapi({
    description:
      'Below the workspace, percent-encoded once. A slash may be sent as such or as `%2F`: both separate names. `%252F` is a name with `%2F` in it.',
  }),
});

export const DownloadQuery = z.object({
  download: z
    .string()
    .min(1)
    .max(255)
    // oxlint-disable-next-line no-control-regex
    .regex(/^[^\u0000-\u001f\u007f/\\]+$/, 'must be true or a file name')
    .optional()
    .openapi({ description: '`true`: as a download under its own name; any other text: under that name.' }),
});

export const RemoveQuery = z.object({
  recursive: flag.optional().openapi({ description: '`true` allows a folder, and deletes all that is in it.' }),
});

export const ListQuery = z.object({
  path: path.optional().openapi({ description: 'The folder; the workspace itself unless told.' }),
  recursive: flag.optional().openapi({ description: '`true`: also what is in the folders below it.' }),
  cursor: z.string().max(8_192).optional().openapi({ description: 'The `next_cursor` of an earlier answer.' }),
  limit: z.coerce.number().int().min(1).max(1_000).optional().openapi({ description: 'Entries at most; 200 unless told.' }),
});

export const ArchiveQuery = z.object({
  path: path.optional().openapi({ description: 'The folder; the workspace itself unless told.' }),
  format: z.enum(['tar', 'zip']).optional().openapi({ description: '`tar` unless told.' }),
});

export const MoveFile = z
  .strictObject({
    from: path,
    to: path,
    overwrite: z.boolean().optional().openapi({ description: 'Whether a file may be replaced; false unless told.' }),
  })
  .openapi('MoveFile');

export const MakeFolder = z.strictObject({ path }).openapi('MakeFolder');

export const FileAnswer = z
  .object({
    path: z.string(),
    size: z.number().int(),
    etag: z.string().openapi({ description: 'As the `ETag` header: for `If-Match`.' }),
    modified: z.string(),
  })
  .openapi('File');
export type FileAnswer = z.infer<typeof FileAnswer>;

export const FileEntry = z
  .object({
    path: z.string(),
    kind: z.enum(['file', 'folder', 'link', 'special']),
    size: z.number().int(),
    modified: z.string().nullable(),
    etag: z.string().optional(),
  })
  .openapi('FileEntry');

export const UnpackedAnswer = z
  .object({ path: z.string(), files: z.number().int(), bytes: z.number().int() })
  .openapi('Unpacked');

export const DiskAnswer = z
  .object({
    files: z.number().int(),
    bytes: z.number().int().openapi({ description: "What the agent's volume holds, with all agents that share it." }),
    limit_bytes: z.number().int().openapi({ description: "What the user's tier allows." }),
  })
  .openapi('DiskUsage');
