import { applyPatch } from 'diff';
import { describe, expect, test } from 'vitest';
import { deliver, heartbeat, overflows, type Texts, totalLength } from '../../src/domains/templates/delivery.js';
import { unifiedDiff } from '../../src/domains/templates/diff.js';
import { BUILT_IN, TEMPLATE_FILES } from '../../src/domains/templates/files.js';
import { ownValues, render, renderedLength, withDate } from '../../src/domains/templates/render.js';
import { tasksIn, withTools } from '../../src/domains/templates/sections.js';

const VALUES = new Map([
  ...ownValues({ id: 'agt_1', name: 'manager' }, { id: 'usr_1', name: 'ada' }),
  ['team', 'Research'],
  ['empty', ''],
  ['nested', 'a {{team}} b'],
  ['money', '$& $1 $$'],
]);
const NOW = new Date('2026-03-04T23:59:59Z');
const texts = (more: Partial<Texts> = {}): Texts => ({ ...BUILT_IN, ...more });

describe('variables', () => {
  test.each<[what: string, template: string, text: string, unknown: string[]]>([
    ['the agent and its user', '{{agent.name}} {{agent.id}} {{user.name}} {{user.id}}', 'manager agt_1 ada usr_1', []],
    ['one of the user, spaces inside the braces', 'We are {{ team }}.', 'We are Research.', []],
    ['an empty value', '[{{empty}}]', '[]', []],
    ['a value with braces is text', '{{nested}}', 'a {{team}} b', []],
    ['a value with signs of a replacement', '{{money}}', '$& $1 $$', []],
    ['the date waits for the turn', 'It is {{ date }}, {{date}}', 'It is {{date}}, {{date}}', []],
    [
      'unknown ones stay and are told once',
      '{{nope}} {{ nope }} {{agent.nmae}}',
      '{{nope}} {{ nope }} {{agent.nmae}}',
      ['nope', 'agent.nmae'],
    ],
    ['what cannot be a name is told as well', '{{agent name}} {{#if x}}', '{{agent name}} {{#if x}}', ['agent name', '#if x']],
    [
      'names of objects are no variables',
      '{{constructor}} {{__proto__}}',
      '{{constructor}} {{__proto__}}',
      ['constructor', '__proto__'],
    ],
    ['a third brace stays', '{{{team}}}', '{Research}', []],
    ['braces that do not close', '{{team} }} {{', '{{team} }} {{', []],
    ['nothing between the braces', '{{}} {{\n}}', '{{}} {{\n}}', []],
    ['none at all', 'plain', 'plain', []],
  ])('%s', (_, template, text, unknown) => {
    expect(render(template, VALUES)).toEqual({ text, unknown });
    expect(renderedLength(template, VALUES)).toBe(withDate(text, NOW).length);
  });

  test('the day is that of UTC', () => {
    expect(withDate('{{date}}', NOW)).toBe('2026-03-04');
  });

  test('a name of a hundred characters is told shortened', () => {
    expect(render(`{{${'x'.repeat(100)}}}`, VALUES).unknown).toEqual(['x'.repeat(64)]);
  });

  test('measuring what would be 80 MB makes none of it', () => {
    const values = new Map([['a', 'x'.repeat(20_000)]]);
    expect(renderedLength('{{a}}'.repeat(4_000), values)).toBe(80_000_000);
  });
});

describe('TOOLS.md as the section of AGENTS.md', () => {
  test.each<[what: string, agents: string, tools: string, text: string]>([
    ['is added to the end', '# A\n\nRules.\n', 'Use git.\n', '# A\n\nRules.\n\n## Tools\n\nUse git.\n'],
    ['is all there is', '', 'Use git.', '## Tools\n\nUse git.\n'],
    ['is not there where it is empty', '# A\n', ' \n', '# A\n'],
    [
      'goes to the end of a section that is there',
      '# A\n\n## Tools\n\nOld.\n\n## Last\n\nX\n',
      'New.',
      '# A\n\n## Tools\n\nOld.\n\nNew.\n\n## Last\n\nX\n',
    ],
    ['goes to a section that is the last', '## tools\nOld.', 'New.', '## tools\nOld.\n\nNew.\n'],
    [
      'keeps what is below a heading of a lower level',
      '## Tools\n\n### Git\n\nOld.\n\n# B\n',
      'New.',
      '## Tools\n\n### Git\n\nOld.\n\nNew.\n\n# B\n',
    ],
    [
      'takes no heading of another level or a longer name for it',
      '# Tools\n\n## Tools of mine\n',
      'New.',
      '# Tools\n\n## Tools of mine\n\n## Tools\n\nNew.\n',
    ],
    [
      'takes no heading inside of a code block for it',
      '```md\n## Tools\n```\n',
      'New.',
      '```md\n## Tools\n```\n\n## Tools\n\nNew.\n',
    ],
    ['loses its own title', '', '# TOOLS.md\n\nUse git.', '## Tools\n\nUse git.\n'],
    [
      'has its headings below that of the section',
      '',
      '# Mine\n\n## Git\n\n# Two',
      '## Tools\n\n### Mine\n\n#### Git\n\n### Two\n',
    ],
    [
      'keeps headings that are deep enough, and code as it is',
      '',
      '### Git\n\n```sh\n# a comment\n```',
      '## Tools\n\n### Git\n\n```sh\n# a comment\n```\n',
    ],
    [
      'survives line ends of another kind',
      '# A\r\n\r\n## Tools\r\n\r\nOld.\r\n',
      'New.\r\n',
      '# A\n\n## Tools\n\nOld.\n\nNew.\n',
    ],
  ])('%s', (_, agents, tools, text) => {
    expect(withTools(agents, tools)).toBe(text);
  });

  test('an AGENTS.md without notes is left as it is, byte for byte', () => {
    expect(withTools('# A\r\n  \r\n', '')).toBe('# A\r\n  \r\n');
  });
});

describe('HEARTBEAT.md', () => {
  test.each<[what: string, text: string, tasks: string]>([
    ['nothing', '', ''],
    ['blank lines', ' \n\t\n', ''],
    ['headings and comments alone', '# Heartbeat\n\n<!-- add\ntasks -->\n## More\n', ''],
    ['empty list items', '- \n* [ ]\n-\n', ''],
    ['a comment that never ends', '# H\n<!-- Check the mail', ''],
    ['Berth’s own text', BUILT_IN['HEARTBEAT.md'], ''],
    ['a task', '# H\n\n<!-- c -->\n- Check the mail\n', '# H\n\n\n- Check the mail'],
    ['a task between two comments', '<!-- a -->Check<!-- b -->', 'Check'],
  ])('%s', (_, text, tasks) => {
    expect(tasksIn(text)).toBe(tasks);
  });

  test('thousands of comments that never end are read in no time', () => {
    const began = performance.now();
    tasksIn('<!--'.repeat(5_000));
    expect(performance.now() - began).toBeLessThan(1_000);
  });

  test('has its variables filled in', () => {
    expect(heartbeat(texts({ 'HEARTBEAT.md': 'Look after {{team}} on {{date}}.' }), VALUES)).toBe(
      'Look after Research on {{date}}.',
    );
  });
});

describe('what is delivered', () => {
  test('the built-in texts are four files, small, with the names filled in, and ask for nothing unknown', () => {
    const { files, seeds } = deliver(texts(), VALUES);
    expect(Object.keys(files)).toEqual(['AGENTS.md', 'SOUL.md', 'IDENTITY.md', 'USER.md']);
    expect(files['IDENTITY.md']).toContain('- **Name:** manager');
    expect(files['USER.md']).toContain('ada');
    expect(seeds).toBeUndefined();
    expect(totalLength(texts(), VALUES)).toBeLessThan(1_000);
    for (const file of TEMPLATE_FILES) expect(render(BUILT_IN[file], VALUES).unknown).toEqual([]);
  });

  test('TOOLS.md and HEARTBEAT.md are no files, MEMORY.md is a seed', () => {
    const { files, seeds } = deliver(
      texts({ 'TOOLS.md': 'Use {{team}}.', 'HEARTBEAT.md': 'Beat.', 'MEMORY.md': 'I am {{agent.name}}.' }),
      VALUES,
    );
    expect(Object.keys(files)).toEqual(['AGENTS.md', 'SOUL.md', 'IDENTITY.md', 'USER.md']);
    expect(files['AGENTS.md']).toMatch(/\n## Tools\n\nUse Research\.\n$/);
    expect(seeds).toEqual({ 'MEMORY.md': 'I am manager.' });
  });

  test.each<[what: string, more: Partial<Texts>, found: object[]]>([
    ['as long as may be', { 'SOUL.md': 'x'.repeat(20_000), 'USER.md': 'x'.repeat(4_000) }, []],
    ['a character more', { 'SOUL.md': 'x'.repeat(20_001) }, [{ file: 'SOUL.md', size: 20_001, cap: 20_000 }]],
    ['USER.md has a cap of its own', { 'USER.md': 'x'.repeat(4_001) }, [{ file: 'USER.md', size: 4_001, cap: 4_000 }]],
    [
      'a variable makes it longer',
      { 'SOUL.md': `${'x'.repeat(19_990)}{{nested}}` },
      [{ file: 'SOUL.md', size: 20_002, cap: 20_000 }],
    ],
    [
      'the date makes it longer',
      { 'SOUL.md': `${'x'.repeat(19_992)}{{date}}` },
      [{ file: 'SOUL.md', size: 20_002, cap: 20_000 }],
    ],
    [
      'AGENTS.md counts with its section',
      { 'AGENTS.md': 'x'.repeat(15_000), 'TOOLS.md': 'y'.repeat(5_000) },
      [{ file: 'AGENTS.md', size: 20_013, cap: 20_000 }],
    ],
    [
      'HEARTBEAT.md has a cap, and no part in the total',
      { 'HEARTBEAT.md': 'x'.repeat(20_001) },
      [{ file: 'HEARTBEAT.md', size: 20_001, cap: 20_000 }],
    ],
    [
      'all together',
      { 'AGENTS.md': 'x'.repeat(20_000), 'SOUL.md': 'x'.repeat(20_000), 'IDENTITY.md': 'x'.repeat(20_000), 'USER.md': 'x' },
      [{ file: 'total', size: 60_001, cap: 60_000 }],
    ],
  ])('%s', (_, more, found) => {
    expect(overflows(texts(more), VALUES)).toEqual(found);
  });
});

describe('a diff', () => {
  const between = (from: string, to: string) =>
    unifiedDiff({ name: 'SOUL.md (version 1)', text: from }, { name: 'SOUL.md (version 2)', text: to });

  test('is unified, names both sides, and is empty for equal texts', () => {
    expect(between('a\nb\n', 'a\nc\n')).toBe('--- SOUL.md (version 1)\n+++ SOUL.md (version 2)\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n');
    expect(between('a', 'a')).toBe('');
  });

  test.each<[string, string, string]>([
    ['a small change', 'a\nb\nc\n', 'a\nB\nc'],
    ['everything new', '', 'a\nb\n'],
    ['everything gone', 'a\nb', ''],
    ['no end of line', 'a', 'b'],
    ['nothing in common, too much to compare', 'a\n'.repeat(3_000), 'b\n'.repeat(3_000)],
    ['the same without ends of line', 'a\n'.repeat(3_000).trimEnd(), `${'b\n'.repeat(3_000)}c`],
  ])('%s: applied to the one it gives the other', (_, from, to) => {
    expect(applyPatch(from, between(from, to))).toBe(to);
  });

  test('the worst of pairs holds nobody up', () => {
    const lines = (seed: number) => Array.from({ length: 10_000 }, (_, i) => ((i * seed) % 7) % 2).join('\n');
    const began = performance.now();
    between(lines(3), lines(5));
    expect(performance.now() - began).toBeLessThan(1_000);
  });
});
