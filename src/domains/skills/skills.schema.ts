import { z } from '@hono/zod-openapi';
import { Requires } from './frontmatter.schema.js';

export const EnabledFor = z
  .enum(['all', 'none'], { error: 'must be all or none' })
  .openapi({ description: 'Whether agents have the skill that say nothing themselves.' });

export const UploadQuery = z.object({
  enabled_for: EnabledFor.optional().openapi({
    description: 'Of a new skill: `all` unless told. Of one that is there: changes it.',
  }),
});

export const DownloadQuery = z.object({
  format: z.enum(['zip', 'tar'], { error: 'must be zip or tar' }).optional().openapi({ description: '`zip` unless told.' }),
  version: z.coerce.number().int().min(1).max(1_000_000_000).optional().openapi({ description: 'The current one unless told.' }),
});

export const UpdateSkill = z
  .strictObject({
    enabled_for: EnabledFor.optional(),
    current_version: z
      .number()
      .int()
      .min(1)
      .max(1_000_000_000)
      .optional()
      .openapi({ description: 'Gives agents that version, be it an earlier one.' }),
    pinned: z.boolean().optional().openapi({ description: 'Whether updates from the registry are refused.' }),
  })
  .openapi('UpdateSkill');
export type UpdateSkill = z.infer<typeof UpdateSkill>;

const Verdict = z.object({
  decision: z.string(),
  status: z.string().nullable(),
  reasons: z.array(z.string()),
  overview: z.string().nullable(),
  audit_url: z.string().nullable(),
});

const Source = z.object({
  registry: z.string(),
  slug: z.string(),
  owner: z.string().nullable(),
  version: z.string(),
  fingerprint: z.string(),
  archive_sha256: z.string(),
  verdict: Verdict,
});

export const SkillAnswer = z
  .object({
    id: z.string(),
    name: z.string(),
    user_id: z.string(),
    description: z.string(),
    origin: z.enum(['upload', 'registry']),
    registry: Source.nullable().openapi({ description: 'Where the current version came from, if from the registry.' }),
    enabled_for: EnabledFor,
    pinned: z.boolean(),
    current_version: z.number().int(),
    digest: z.string().openapi({ description: 'SHA-256 of the canonical tar of its files.' }),
    bytes: z.number().int(),
    license: z.string().nullable(),
    compatibility: z.string().nullable(),
    homepage: z.string().nullable(),
    allowed_tools: z.array(z.string()),
    requires: Requires,
    os: z.array(z.string()),
    always: z.boolean(),
    warnings: z.array(z.string()),
    version: z.number().int().openapi({ description: 'Counts changes, for If-Match.' }),
    created_at: z.string(),
    updated_at: z.string(),
  })
  .openapi('Skill');
export type SkillAnswer = z.infer<typeof SkillAnswer>;

export const SkillDetail = SkillAnswer.extend({
  enabled_on: z.array(z.string()).openapi({ description: 'Names of the agents that have it.' }),
  files: z.array(z.object({ path: z.string(), size: z.number().int(), sha256: z.string(), executable: z.boolean() })),
}).openapi('SkillDetail');
export type SkillDetail = z.infer<typeof SkillDetail>;

export const SkillVersionAnswer = z
  .object({
    number: z.number().int(),
    current: z.boolean(),
    digest: z.string(),
    bytes: z.number().int(),
    description: z.string(),
    registry: Source.nullable(),
    warnings: z.array(z.string()),
    created_at: z.string(),
  })
  .openapi('SkillVersion');
export type SkillVersionAnswer = z.infer<typeof SkillVersionAnswer>;

const SkillNames = z.array(z.string().max(64, 'must have at most 64 characters')).max(500, 'must hold at most 500 names');

export const AssignSkills = z
  .strictObject({
    enabled: SkillNames.optional().openapi({ description: 'Skills that this agent has, whatever the others have.' }),
    disabled: SkillNames.optional().openapi({ description: 'Skills that this agent has not, though the others have them.' }),
  })
  .openapi('AssignSkills');
export type AssignSkills = z.infer<typeof AssignSkills>;

export const AgentSkillsAnswer = z
  .object({
    agent: z.string(),
    enabled: z.array(z.string()),
    disabled: z.array(z.string()),
    skills: z.array(
      z.object({
        id: z.string(),
        name: z.string(),
        description: z.string(),
        enabled: z.boolean(),
        because: z.enum(['agent', 'all']).openapi({ description: 'Who says so: the agent, or what holds for all.' }),
        requires: Requires,
      }),
    ),
  })
  .openapi('AgentSkills');
export type AgentSkillsAnswer = z.infer<typeof AgentSkillsAnswer>;
