import { describe, expect, test } from 'vitest';
import { checkedContext } from '../../src/gateway/context.js';
import { AppError } from '../../src/lib/errors.js';

const tool = { type: 'function', function: { name: 'shell', description: 'Runs.', parameters: { type: 'object' } } };
const good = {
  agent: 'a',
  model: 'demo/echo',
  system: 'one\n\ntwo',
  parts: [
    { name: 'identity', text: 'one' },
    { name: 'SOUL.md', text: 'two' },
  ],
  tools: [tool],
  sampling: { temperature: 0.5 },
  hidden_skills: [{ name: 's', why: 'needs git' }],
};

describe("a gateway's context", () => {
  test('is taken as it is said', () => {
    const { hidden_skills: hiddenSkills, agent: _, ...rest } = good;
    expect(checkedContext(JSON.stringify(good), 'a')).toEqual({ ...rest, hiddenSkills });
  });

  test('has no skills hidden where it says nothing of them, and hidden ones are cut to what a person reads', () => {
    expect(checkedContext(JSON.stringify({ ...good, hidden_skills: undefined }), 'a').hiddenSkills).toEqual([]);
    const long = [{ name: 'n'.repeat(9_999), why: 'w'.repeat(9_999) }];
    const [skill] = checkedContext(JSON.stringify({ ...good, hidden_skills: long }), 'a').hiddenSkills;
    expect([skill?.name.length, skill?.why.length]).toEqual([300, 1_000]);
  });

  test.each<[string, string]>([
    ['no JSON', '{'],
    ['null', 'null'],
    ['a list', '[]'],
    ['another agent', json({ agent: 'b' })],
    ['no model', json({ model: undefined })],
    ['a prompt that its parts are not', json({ system: 'one\n\nthree' })],
    ['parts that are no list', json({ parts: { length: 2 } })],
    ['a part without text', json({ parts: [{ name: 'x' }], system: '' })],
    [
      'a great many parts',
      json({ parts: Array.from({ length: 201 }, () => ({ name: 'x', text: '' })), system: '\n\n'.repeat(200) }),
    ],
    ['tools that are no list', json({ tools: 'shell' })],
    ['a tool without a name', json({ tools: [{ type: 'function', function: {} }] })],
    ['a great many tools', json({ tools: Array.from({ length: 501 }, () => tool) })],
    [
      'a tool nested without end',
      json({ tools: ['@'] }).replace('"@"', `${'{"function":{"name":"x"},"x":'.repeat(200_000)}1${'}'.repeat(200_000)}`),
    ],
    ['sampling nested without end', json({ sampling: '@' }).replace('"@"', `{"x":${'['.repeat(200_000)}${']'.repeat(200_000)}}`)],
    ['hidden skills that are no list', json({ hidden_skills: 'none' })],
  ])('%s is refused', (_, text) => {
    let thrown: unknown;
    try {
      checkedContext(text, 'a');
    } catch (error) {
      thrown = error;
    }
    expect(thrown).toBeInstanceOf(AppError);
    expect((thrown as AppError).code).toBe('upstream_error');
  });
});

function json(changed: object): string {
  return JSON.stringify({ ...good, ...changed });
}
