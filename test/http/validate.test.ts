import { z } from '@hono/zod-openapi';
import { expect, test } from 'vitest';
import { validationError } from '../../src/http/validate.js';

function told(schema: z.ZodType, value: unknown) {
  const { error } = schema.safeParse(value);
  return error && validationError('json', error).fields;
}

const either = z.union([z.string(), z.array(z.string())]);

test.each([
  ['a text', z.string()],
  ['a number', z.number()],
  ['an array', z.array(z.string()).min(1, 'must hold at least one')],
  ['an object', z.strictObject({ mode: z.string() })],
  ['one of two types', either],
])('%s that is missing is required', (_, schema) => {
  expect(told(z.strictObject({ field: schema }), {})).toEqual([{ path: 'field', message: 'is required' }]);
});

test.each([
  [z.number().min(1), 0, 'must be at least 1'],
  [z.number().gt(1), 1, 'must be more than 1'],
  [z.number().int().max(200), 201, 'must be at most 200'],
  [z.coerce.number().lt(5), '5', 'must be less than 5'],
  [z.string().min(1), '', 'must not be empty'],
  [z.string().min(3), 'ab', 'must have at least 3 characters'],
  [z.string().max(1), 'ab', 'must have at most 1 character'],
  [z.array(z.string()).min(1), [], 'must hold at least 1 entry'],
  [z.array(z.string()).max(2), ['a', 'b', 'c'], 'must hold at most 2 entries'],
  [z.number().min(1, 'must be one or more'), 0, 'must be one or more'],
  [either, 7, 'has none of the forms that are allowed here'],
])('%# a limit is told in plain words', (schema, value, message) => {
  expect(told(schema, value)).toEqual([{ path: 'body', message }]);
});

test('a name that a map does not take is told by what is wrong with it', () => {
  const Name = z.string().refine((name) => name !== 'PATH', 'is reserved');
  expect(told(z.record(Name, z.string()), { PATH: 'x', FOO: 'y' })).toEqual([{ path: 'PATH', message: 'is reserved' }]);
});
