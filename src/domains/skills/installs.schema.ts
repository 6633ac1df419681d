import { z } from '@hono/zod-openapi';
import { EnabledFor, SkillAnswer } from './skills.schema.js';

const Version = z
  .string()
  .max(100, 'must have at most 100 characters')
  .regex(/^[\w.+-]+$/, 'must be a version such as 1.2.3');

export const InstallSkill = z
  .strictObject({
    version: Version.optional().openapi({ example: '1.2.3', description: 'The newest unless told.' }),
    tag: Version.optional().openapi({ example: 'latest' }),
    owner: z
      .string()
      .max(64, 'must have at most 64 characters')
      .optional()
      .openapi({ description: 'The publisher, where several have a skill of that slug.' }),
    force: z.boolean().optional().openapi({
      description:
        'Takes the place of a skill that came from elsewhere, or is pinned. It changes nothing about the security verdict.',
    }),
    enabled_for: EnabledFor.optional(),
  })
  .openapi('InstallSkill');
export type InstallSkill = z.infer<typeof InstallSkill>;

export const UpdateFromRegistry = z
  .strictObject({ force: z.boolean().optional().openapi({ description: 'Also where the skill is pinned.' }) })
  .openapi('UpdateFromRegistry');

export const InstalledSkill = SkillAnswer.extend({
  outcome: z.enum(['created', 'updated', 'unchanged']),
}).openapi('InstalledSkill');

export const SearchQuery = z.object({
  q: z.string().min(1, 'must not be empty').max(200, 'must have at most 200 characters'),
  limit: z.coerce.number().int().min(1).max(100).optional().openapi({ description: '25 unless told.' }),
});

export const FoundSkills = z
  .object({
    data: z.array(
      z.object({
        slug: z.string(),
        reference: z.string().openapi({ description: 'As it can be installed.' }),
        owner: z.string().nullable(),
        name: z.string(),
        summary: z.string().nullable(),
        version: z.string().nullable(),
        downloads: z.number().nullable(),
        updated_at: z.string().nullable(),
      }),
    ),
  })
  .openapi('FoundSkills');
