import { z } from '@hono/zod-openapi';
import { ResourceName } from '../agents/names.js';

/** Tools that every agent has: a plugin may not take their names. */
export const OWN_TOOLS = ['read_file', 'write_file', 'edit_file', 'list_files', 'shell', 'fetch_url', 'keep_awake'];

const TOOLS_OF_A_PLUGIN = 32;
const SKILLS_OF_A_PLUGIN = 32;
const PLUGINS_OF_AN_AGENT = 32;
const PARAMETERS_CHARS = 16_000;
const PARAMETERS_DEPTH = 24;

const freeText = (limit: number) =>
  z
    .string()
    .max(limit, `must have at most ${limit} characters`)
    .refine((text) => !text.includes('\0'), 'must not contain NUL');

const Parameters = z
  .looseObject({
    type: z.literal('object', { error: 'must be "object": arguments are a JSON object' }),
    properties: z.record(z.string(), z.unknown()).optional(),
    required: z.array(z.string()).optional(),
  })
  .superRefine((schema, context) => {
    if (!isShallow(schema, PARAMETERS_DEPTH))
      context.addIssue({ code: 'custom', message: `must not be nested deeper than ${PARAMETERS_DEPTH}` });
    else if (JSON.stringify(schema).length > PARAMETERS_CHARS)
      context.addIssue({ code: 'custom', message: `must have at most ${PARAMETERS_CHARS} characters as JSON` });
  })
  .openapi({ type: 'object', description: 'JSON schema of the arguments: an object.' });

export const PluginTool = z
  .strictObject({
    name: z
      .string()
      .regex(/^[A-Za-z_][A-Za-z0-9_-]{0,63}$/, 'must be 1 to 64 letters, digits, _ and -, beginning with a letter or _')
      .refine((name) => !OWN_TOOLS.includes(name), 'is the name of a tool that every agent has'),
    description: freeText(1_024).min(1, 'must not be empty: it is all that the model knows of the tool'),
    parameters: Parameters,
    command: freeText(20_000)
      .min(1, 'must not be empty')
      .openapi({ description: 'Run with bash in the workspace; the arguments are JSON on standard input and in BERTH_ARGS.' }),
  })
  .openapi('PluginTool');

const Tools = z
  .array(PluginTool)
  .max(TOOLS_OF_A_PLUGIN, `must hold at most ${TOOLS_OF_A_PLUGIN} tools`)
  .superRefine((tools, context) => {
    for (const [i, { name }] of tools.entries())
      if (tools.findIndex((other) => other.name === name) !== i)
        context.addIssue({ code: 'custom', path: [i, 'name'], message: 'is named twice' });
  });

const Skills = z
  .array(z.string().min(1, 'must not be empty').max(64, 'must have at most 64 characters'))
  .max(SKILLS_OF_A_PLUGIN, `must hold at most ${SKILLS_OF_A_PLUGIN} skills`)
  .openapi({ description: "Names of the user's skills; agents with this plugin have them." });

const Version = z.string().regex(/^[\w.+-]{1,64}$/, 'must be 1 to 64 letters, digits, ., +, _ and -');

export const CreatePlugin = z
  .strictObject({
    name: ResourceName,
    description: freeText(1_000).nullable().optional(),
    version: Version.optional().openapi({ description: '1.0.0 unless told.' }),
    enabled: z.boolean().optional(),
    skills: Skills.optional(),
    tools: Tools.optional(),
  })
  .openapi('CreatePlugin');
export type CreatePlugin = z.infer<typeof CreatePlugin>;

export const UpdatePlugin = CreatePlugin.partial().openapi('UpdatePlugin');
export type UpdatePlugin = z.infer<typeof UpdatePlugin>;

export const PluginAnswer = z
  .object({
    id: z.string(),
    scope: z.enum(['user', 'installation']),
    name: z.string(),
    description: z.string().nullable(),
    version: z.string(),
    enabled: z.boolean(),
    skills: z.array(z.string()),
    tools: z.array(
      z.object({ name: z.string(), description: z.string(), parameters: z.record(z.string(), z.unknown()), command: z.string() }),
    ),
    revision: z.number().int().openapi({ description: 'Counts changes; the ETag.' }),
    created_at: z.string(),
    updated_at: z.string(),
  })
  .openapi('Plugin');
export type PluginAnswer = z.infer<typeof PluginAnswer>;

export const AssignPlugins = z
  .strictObject({
    plugin_ids: z
      .array(z.string().min(1, 'must not be empty').max(64, 'must have at most 64 characters'))
      .max(PLUGINS_OF_AN_AGENT, `must hold at most ${PLUGINS_OF_AN_AGENT} plugins`)
      .openapi({ description: 'Ids or names; the order is the priority. Repeated ones count once.' }),
  })
  .openapi('AssignPlugins');

export const AgentPluginsAnswer = z
  .object({
    agent_id: z.string(),
    plugin_ids: z.array(z.string()),
    items: z.array(
      z.object({
        plugin_id: z.string(),
        priority: z.number().int(),
        scope: z.enum(['user', 'installation']),
        name: z.string(),
        description: z.string().nullable(),
        version: z.string(),
        enabled: z.boolean().openapi({ description: 'A disabled plugin stays assigned and brings nothing.' }),
        skills: z.array(z.string()),
        missing_skills: z.array(z.string()).openapi({ description: 'Skills that the user has no longer.' }),
        skills_count: z.number().int(),
        commands: z.array(z.string()),
        commands_count: z.number().int(),
        assigned_at: z.string(),
      }),
    ),
    tools: z
      .array(z.object({ name: z.string(), plugin_id: z.string(), plugin: z.string() }))
      .openapi({ description: 'What the agent has from its plugins, before its own allow and deny.' }),
    left_out: z
      .array(z.object({ name: z.string(), plugin_id: z.string(), plugin: z.string(), reason: z.string() }))
      .openapi({ description: 'Tools that it has not, and why.' }),
  })
  .openapi('AgentPlugins');
export type AgentPluginsAnswer = z.infer<typeof AgentPluginsAnswer>;

/** Walked with a bound of its own: what is too deep must not be walked to its end. */
function isShallow(value: unknown, depth: number): boolean {
  if (typeof value !== 'object' || value === null) return true;
  return depth > 0 && Object.values(value).every((inner) => isShallow(inner, depth - 1));
}
