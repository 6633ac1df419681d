import { z } from '@hono/zod-openapi';

const text = (limit: number) => z.string().min(1).max(limit, `must have at most ${limit} characters`);
const names = z.array(text(200)).max(50);

/** The rule of AgentSkills for names; the folder of a skill has the same one. */
export const SkillName = z
  .string()
  .min(1, 'must not be empty')
  .max(64, 'must have at most 64 characters')
  .regex(/^[a-z0-9]+(?:-[a-z0-9]+)*$/, 'must be a-z, 0-9 and single hyphens, none at the ends')
  .openapi({ example: 'weather' });

/** What a skill needs before it is shown to an agent. */
export const Requires = z
  .looseObject({
    bins: names.optional().openapi({ description: 'Programs that must all be there.' }),
    anyBins: names.optional().openapi({ description: 'Programs of which one must be there.' }),
    env: names.optional().openapi({ description: 'Variables that must all be set: secrets, or plain environment.' }),
    config: names.optional().openapi({ description: "Paths in OpenClaw's own config. Berth's image has none." }),
  })
  .openapi('SkillRequires');
export type Requires = z.infer<typeof Requires>;

/** `metadata.openclaw`, or `metadata.clawdbot` as it was called once. */
const OpenClaw = z.looseObject({
  requires: Requires.optional(),
  os: z
    .array(z.enum(['darwin', 'linux', 'win32'], { error: 'must be darwin, linux or win32' }))
    .max(10)
    .optional(),
  always: z.boolean().optional(),
  primaryEnv: text(200).optional(),
  skillKey: text(200).optional(),
  emoji: text(50).optional(),
  homepage: text(2_000).optional(),
  install: z.array(z.looseObject({})).max(50).optional(),
});

/** The frontmatter of a SKILL.md: https://agentskills.io/specification, and what OpenClaw adds. */
export const Frontmatter = z.looseObject({
  name: SkillName,
  description: z
    .string()
    .max(1024, 'must have at most 1024 characters')
    .refine((words) => words.trim() !== '', 'must not be empty'),
  license: text(500).optional(),
  compatibility: text(500).optional(),
  metadata: z.looseObject({ openclaw: OpenClaw.optional(), clawdbot: OpenClaw.optional() }).optional(),
  'allowed-tools': z
    .union([text(2_000), z.array(text(200)).max(100)], { error: 'must be words separated by spaces, or a list of words' })
    .optional(),
  homepage: text(2_000).optional(),
  'user-invocable': z.boolean().optional(),
  'disable-model-invocation': z.boolean().optional(),
  'command-dispatch': text(200).optional(),
  'command-tool': text(200).optional(),
  'command-arg-mode': text(200).optional(),
});
export type Frontmatter = z.infer<typeof Frontmatter>;

export const KNOWN_FIELDS: ReadonlySet<string> = new Set([...Object.keys(Frontmatter.shape), 'version', 'author', 'tags']);
