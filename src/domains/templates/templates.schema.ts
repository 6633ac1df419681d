import { z } from '@hono/zod-openapi';
import { capOf, TEMPLATE_FILES, type TemplateFile } from './files.js';

/** Texts of one kind for each file. */
function eachFile<T extends z.ZodType>(of: (file: TemplateFile) => T): Record<TemplateFile, T> {
  return Object.fromEntries(TEMPLATE_FILES.map((file) => [file, of(file)])) as Record<TemplateFile, T>;
}

const text = (limit: number) =>
  z
    .string()
    .max(limit, `must have at most ${limit} characters`)
    .refine((value) => !value.includes('\0'), 'must not contain NUL');

export const WriteTemplates = z
  .strictObject(eachFile((file) => text(capOf(file)).nullable().optional()))
  .openapi('WriteTemplates', {
    description:
      'Texts by file: what is not named stays, `null` removes what this layer says, so that the one below holds again. `{{agent.name}}`, ' +
      '`{{agent.id}}`, `{{user.name}}`, `{{user.id}}`, `{{date}}` (UTC, at the beginning of the turn) and the variables of the user are filled ' +
      'in; others stay as they are and are reported. AGENTS.md, SOUL.md, IDENTITY.md and USER.md are files of the workspace that are put back ' +
      'at every turn; TOOLS.md becomes the section `## Tools` of AGENTS.md; HEARTBEAT.md is what the agent is told when it is woken on schedule, ' +
      'and no part of the prompt. MEMORY.md belongs to the agent: a text given here is written only where the workspace has no such file, ' +
      'and an existing one is never overwritten. At most 20,000 characters a file (USER.md 4,000; AGENTS.md with its section), 60,000 together, ' +
      'variables filled in.',
    example: { 'SOUL.md': 'You are {{agent.name}}. Be brief.', 'USER.md': null },
  });
export type WriteTemplates = z.infer<typeof WriteTemplates>;

const TemplateAnswer = z
  .object({
    source: z.enum(['built_in', 'user', 'agent']).openapi({ description: 'The layer whose text holds.' }),
    version: z.number().int().openapi({ description: "Of the file in that layer; 0: Berth's built-in text." }),
    text: z.string().openapi({ description: 'As it was written.' }),
    size: z.number().int().openapi({ description: 'Characters (UTF-16 units) of `text`.' }),
    cap: z.number().int(),
    delivered_as: z.string(),
    unknown_variables: z
      .array(z.string())
      .openapi({ description: 'Names in `{{…}}` that have no value: they stay as they are.' }),
    updated_at: z.string().nullable(),
  })
  .openapi('Template');

const AgentTemplateAnswer = TemplateAnswer.extend({
  rendered: z
    .string()
    .openapi({ description: 'As the agent would get it today: variables filled in, AGENTS.md with its section `## Tools`.' }),
  rendered_size: z.number().int(),
}).openapi('AgentTemplate');

const Version = z
  .number()
  .int()
  .openapi({ description: 'Of this layer as a whole, for `If-Match`; every change of a file raises it.' });

export const UserTemplatesAnswer = z
  .object({ user_id: z.string(), version: Version, templates: z.object(eachFile(() => TemplateAnswer)) })
  .openapi('UserTemplates');
export type UserTemplatesAnswer = z.infer<typeof UserTemplatesAnswer>;

export const AgentTemplatesAnswer = z
  .object({
    agent_id: z.string(),
    agent: z.string(),
    version: Version,
    templates: z.object(eachFile(() => AgentTemplateAnswer)),
    total_size: z.number().int().openapi({ description: 'Characters of all that reach the prompt, rendered.' }),
    total_cap: z.number().int(),
  })
  .openapi('AgentTemplates');
export type AgentTemplatesAnswer = z.infer<typeof AgentTemplatesAnswer>;

export const FileParam = z
  .enum(TEMPLATE_FILES, { error: `must be one of ${TEMPLATE_FILES.join(', ')}` })
  .openapi({ param: { name: 'file', in: 'path' }, example: 'SOUL.md' });
export const VersionParam = z.coerce
  .number({ error: 'must be a version, from 1' })
  .int('must be a whole number')
  .min(1, 'must be at least 1')
  .max(1_000_000_000, 'must be at most 1000000000')
  .openapi({ param: { name: 'version', in: 'path' }, example: 3 });

const side = (description: string) =>
  z.coerce.number().int('must be a whole number').min(0).max(1_000_000_000).optional().openapi({ description });
export const DiffQuery = z.object({
  from: side('A version; 0 is the built-in text. Unless told, the one before `to`.'),
  to: side('A version; the newest unless told.'),
});
export const ForgetQuery = z.object({
  before: z.coerce
    .number({ error: 'must be a version' })
    .int('must be a whole number')
    .min(1, 'must be at least 1')
    .max(1_000_000_000)
    .openapi({ description: 'Versions older than this one are removed; the newest never is.' }),
});

export const VersionAnswer = z
  .object({
    id: z.string(),
    file: z.enum(TEMPLATE_FILES),
    version: z.number().int(),
    current: z.boolean(),
    removed: z.boolean().openapi({ description: 'This version took the text of this layer away.' }),
    bytes: z.number().int(),
    by: z.string().openapi({ description: 'Kind and id of the key that made it.' }),
    created_at: z.string(),
  })
  .openapi('TemplateVersion');
export type VersionAnswer = z.infer<typeof VersionAnswer>;

export const VersionTextAnswer = VersionAnswer.extend({ text: z.string().nullable() }).openapi('TemplateVersionText');
export type VersionTextAnswer = z.infer<typeof VersionTextAnswer>;

export const DiffAnswer = z
  .object({
    file: z.enum(TEMPLATE_FILES),
    from: z.number().int(),
    to: z.number().int(),
    diff: z
      .string()
      .openapi({ description: 'Unified; empty where the texts are equal. A version that removed the text counts as empty.' }),
  })
  .openapi('TemplateDiff');
export type DiffAnswer = z.infer<typeof DiffAnswer>;

export const ForgottenAnswer = z.object({ removed: z.number().int() }).openapi('ForgottenVersions');

const VARIABLE_NAME = /^[A-Za-z][A-Za-z0-9_]{0,63}$/;
export const WriteVariables = z
  .record(z.string(), text(2_000).nullable())
  .superRefine((values, context) => {
    for (const name of Object.keys(values)) {
      const fault = name === 'date' ? 'is given by Berth' : 'must be named by a letter, then letters, digits and _, at most 64';
      if (name === 'date' || !VARIABLE_NAME.test(name)) context.addIssue({ code: 'custom', path: [name], message: fault });
    }
  })
  .openapi('WriteTemplateVariables', {
    description:
      'Values by name, for `{{name}}` in templates: what is not named stays, `null` removes. Names have no dot: those with one are Berth’s own. ' +
      'A value is put in as it is, braces and all, but for `{{date}}`. Not for secrets: values are shown to whoever reads the templates.',
    example: { team: 'Research', tone: 'formal' },
  });
export type WriteVariables = z.infer<typeof WriteVariables>;

export const VariablesAnswer = z
  .object({
    variables: z.record(z.string(), z.string()),
    version: z.number().int(),
    updated_at: z.string().nullable(),
    unknown_variables: z
      .array(z.string())
      .openapi({ description: 'Names that templates of the user or of its agents use and that have no value.' }),
  })
  .openapi('TemplateVariables');
export type VariablesAnswer = z.infer<typeof VariablesAnswer>;
