import { DELIVERED_AS, MOST_CHARS_IN_ALL, capOf, TEMPLATE_FILES, type TemplateFile } from './files.js';
import { sourceOf, totalLength } from './delivery.js';
import type { Layers } from './layers.js';
import { render, withDate } from './render.js';
import type { AgentTemplatesAnswer, UserTemplatesAnswer } from './templates.schema.js';

type Templates<T extends { templates: object }> = T['templates'];

/** The user's defaults as they stand. */
export function userAnswer(layers: Layers): UserTemplatesAnswer {
  const someone = { id: '', name: '' };
  const entries = TEMPLATE_FILES.map((file) => [file, fileAnswer(layers, null, someone, file)]);
  return {
    user_id: layers.owner.id,
    version: layers.version(null),
    templates: Object.fromEntries(entries) as Templates<UserTemplatesAnswer>,
  };
}

/** What holds for the agent, and what it would get today. */
export function agentAnswer(layers: Layers, agent: { id: string; name: string }, now: Date): AgentTemplatesAnswer {
  const texts = layers.texts(agent.id);
  const values = layers.values(agent);
  const entries = TEMPLATE_FILES.map((file) => {
    const rendered = withDate(render(sourceOf(texts, file), values).text, now);
    return [file, { ...fileAnswer(layers, agent.id, agent, file), rendered, rendered_size: rendered.length }];
  });
  return {
    agent_id: agent.id,
    agent: agent.name,
    version: layers.version(agent.id),
    templates: Object.fromEntries(entries) as Templates<AgentTemplatesAnswer>,
    total_size: totalLength(texts, values),
    total_cap: MOST_CHARS_IN_ALL,
  };
}

function fileAnswer(layers: Layers, agentId: string | null, agent: { id: string; name: string }, file: TemplateFile) {
  const { source, version, text, at } = layers.holding(agentId, file);
  return {
    source,
    version,
    text,
    size: text.length,
    cap: capOf(file),
    delivered_as: DELIVERED_AS[file],
    unknown_variables: render(text, layers.values(agent)).unknown,
    updated_at: at?.toISOString() ?? null,
  };
}
