import type { PluginDocument } from '../plugins/plugins.js';

/** Tier 1: each plugin in a line. */
export function quickReference(plugins: readonly PluginDocument[]): string {
  return plugins.map(lineOf).join('\n');
}

/** Tier 2: all that the plugins bring. */
export function fullReference(plugins: readonly PluginDocument[]): string {
  return plugins.map(sectionOf).join('\n\n');
}

function lineOf({ name, version, description, tools, skills }: PluginDocument): string {
  const brings = [
    ...(tools.length > 0 ? [`tools: ${tools.map((tool) => tool.name).join(', ')}`] : []),
    ...(skills.length > 0 ? [`skills: ${skills.map((skill) => skill.name).join(', ')}`] : []),
  ];
  return `- ${name} ${version}${description ? `: ${description}` : ''} (${brings.join('; ') || 'empty'})`;
}

function sectionOf({ name, version, description, tools, skills }: PluginDocument): string {
  return [
    `## ${name} ${version}`,
    ...(description ? [description] : []),
    ...tools.map((tool) => `### Tool ${tool.name}\n\n${tool.description}\n\nArguments: ${JSON.stringify(tool.parameters)}`),
    ...skills.map(
      (skill) => `### Skill ${skill.name}\n\n${skill.description}\n\nIts instructions: skills/${skill.name}/SKILL.md`,
    ),
  ].join('\n\n');
}
