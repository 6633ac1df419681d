import { z } from '@hono/zod-openapi';
import { CreateAgent } from '../agents/agents.schema.js';
import { ConfigDocument } from '../configs/configs.schema.js';
import { WriteTemplates } from '../templates/templates.schema.js';

const names = z.array(z.string().min(1).max(200)).max(1_000);

/** What an owner has made of an agent, besides what it has become by itself. Names where other things are meant; nothing that is secret. */
export const AgentSettings = z
  .strictObject({
    description: CreateAgent.shape.description.unwrap().nullable(),
    model: CreateAgent.shape.model.unwrap(),
    instructions: CreateAgent.shape.instructions.unwrap().nullable(),
    config: ConfigDocument,
    templates: WriteTemplates,
    skills: z.strictObject({ enabled: names, disabled: names }),
    plugins: names,
  })
  .openapi('AgentSettings');
export type AgentSettings = z.infer<typeof AgentSettings>;

const Bytes = z.number().int().min(0).max(Number.MAX_SAFE_INTEGER);
const Sha256 = z.string().regex(/^[0-9a-f]{64}$/, 'must be a SHA-256 in hexadecimal');

/** What is in a snapshot: the journal's lines, then the tar of the agent's state. */
export const Contents = z
  .strictObject({
    conversations: z.number().int().min(0),
    turns: z.number().int().min(0),
    journal_bytes: Bytes,
    journal_sha256: Sha256,
    files: z.number().int().min(0),
    state_bytes: Bytes,
    state_sha256: Sha256,
  })
  .openapi('SnapshotContents');
export type Contents = z.infer<typeof Contents>;

/** As its row keeps it: with what an export of it is. */
export const StoredContents = Contents.extend({ export_bytes: Bytes, export_sha256: Sha256 }).openapi('StoredSnapshotContents');
export type StoredContents = z.infer<typeof StoredContents>;

export const FORMAT = 'berth-agent/1';

/** The first member of an export. */
export const Manifest = z.strictObject({
  format: z.literal(FORMAT),
  agent: z.strictObject({ name: z.string().min(1).max(64) }),
  taken_at: z.iso.datetime(),
  settings: AgentSettings,
  contents: Contents,
});
export type Manifest = z.infer<typeof Manifest>;
