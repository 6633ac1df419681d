/** The kinds of key that every route is tried with. "Other agent" is of the same user, "foreign agent" of another. */
export const KEY_KINDS = [
  'none',
  'garbage',
  'revoked',
  'expired',
  'other user',
  'other agent',
  'foreign agent',
  'agent',
  'user',
  'admin',
] as const;
export type KeyKind = (typeof KEY_KINDS)[number];

/** What the route must answer to that key. `allowed`: anything but 401, 403 or "user not found": the request got past authorization. */
export type Expected = 'allowed' | { status: 401 | 403; code: string } | { status: 404; code: 'not_found'; error: string };

export interface Case {
  method: string;
  /** As in the document, with `{user}` and the like. */
  path: string;
  access: string;
  kind: KeyKind;
  expected: Expected;
}

type Answer = { status: number; body: unknown };
export type Send = (method: string, path: string, kind: KeyKind) => Promise<Answer>;

const UNKNOWN_KEYS: readonly KeyKind[] = ['none', 'garbage', 'revoked', 'expired'];
const NO_KEY: Expected = { status: 401, code: 'unauthorized' };
const FORBIDDEN: Expected = { status: 403, code: 'forbidden' };
const NO_USER: Expected = { status: 404, code: 'not_found', error: 'user not found' };
const NO_AGENT: Expected = { status: 404, code: 'not_found', error: 'agent not found' };

/** What each kind of valid key is answered, by the access that the route declares; kinds not named are allowed. */
const REFUSALS: Record<string, Partial<Record<KeyKind, Expected>>> = {
  any: {},
  admin: { 'other user': FORBIDDEN, 'other agent': FORBIDDEN, 'foreign agent': FORBIDDEN, agent: FORBIDDEN, user: FORBIDDEN },
  user: { 'other user': NO_USER, 'foreign agent': NO_USER, 'other agent': FORBIDDEN, agent: FORBIDDEN },
  agent: { 'other user': NO_USER, 'foreign agent': NO_USER, 'other agent': NO_AGENT },
};

/**
 * Every route of an OpenAPI document with every kind of key. Throws for a route that does not declare who may call it. Refused
 * cases come first and allowed deletions last (deepest path first), so that one fixture lasts for all.
 */
export function authorizationCases(document: object): Case[] {
  const { paths = {} } = document as { paths?: Record<string, Record<string, { 'x-access'?: string }>> };
  const cases = Object.entries(paths).flatMap(([path, item]) =>
    Object.entries(item).flatMap(([method, operation]) => {
      const access = operation['x-access'];
      if (access !== 'public' && (access === undefined || !REFUSALS[access]))
        throw new Error(`${method.toUpperCase()} ${path} does not declare who may call it`);
      return KEY_KINDS.map((kind) => ({ method: method.toUpperCase(), path, access, kind, expected: expectedOf(access, kind) }));
    }),
  );
  return cases.toSorted((a, b) => orderOf(a) - orderOf(b));
}

/** Sends the case; the answer is what is wrong with what came back, or undefined. */
export async function checkCase(tried: Case, params: Record<string, string>, send: Send): Promise<string | undefined> {
  const answer = await send(tried.method, fill(tried.path, params), tried.kind);
  const said = `${tried.method} ${tried.path} (${tried.access}) with key "${tried.kind}" answered ${answer.status} ${JSON.stringify(answer.body)}`;
  if (tried.expected === 'allowed') return isAllowed(answer) ? undefined : `${said}; it should be allowed`;
  if (answer.status !== tried.expected.status || codeOf(answer.body, tried.expected.code) === undefined)
    return `${said}; expected ${JSON.stringify(tried.expected)}`;
  if (tried.expected.status !== 404) return undefined;
  if ((answer.body as { error?: unknown }).error !== tried.expected.error)
    return `${said}; expected the error "${tried.expected.error}"`;
  const twin = await send(tried.method, fill(tried.path, strangersOf(tried, params)), tried.kind);
  return sameButForId(answer, twin)
    ? undefined
    : `${said}, but for one that never was ${twin.status} ${JSON.stringify(twin.body)}`;
}

function expectedOf(access: string, kind: KeyKind): Expected {
  if (access === 'public') return 'allowed';
  if (UNKNOWN_KEYS.includes(kind)) return NO_KEY;
  return REFUSALS[access]?.[kind] ?? 'allowed';
}

function orderOf({ expected, method, path }: Case): number {
  if (expected !== 'allowed') return 0;
  return method === 'DELETE' ? 1000 - path.split('/').length : 1;
}

function fill(path: string, params: Record<string, string>): string {
  return path.replaceAll(/\{(\w+)\}/g, (_, name: string) => encodeURIComponent(params[name] ?? 'nothing-here'));
}

/** The same path for a user, or an agent of the user, that never existed. */
function strangersOf(tried: Case, params: Record<string, string>): Record<string, string> {
  return tried.expected === NO_USER ? { ...params, user: 'never-was', agent: 'never-was' } : { ...params, agent: 'never-was' };
}

function isAllowed({ status, body }: Answer): boolean {
  if (status === 401 || status >= 500 || codeOf(body, 'forbidden') !== undefined) return false;
  const code = (body as { code?: string } | undefined)?.code;
  return (
    code !== 'no_route' && code !== 'method_not_allowed' && (body as { error?: unknown } | undefined)?.error !== 'user not found'
  );
}

/** The code of an error answer in Berth's shape, or in OpenAI's, if it is that one. */
function codeOf(body: unknown, wanted: string): string | undefined {
  const said = body as { code?: string; error?: { code?: string } } | undefined;
  const code = said?.code ?? said?.error?.code;
  return code === wanted || (wanted === 'unauthorized' && code === 'invalid_api_key') ? code : undefined;
}

function sameButForId(one: Answer, other: Answer): boolean {
  const without = ({ status, body }: Answer) => JSON.stringify([status, { ...(body as object), request_id: undefined }]);
  return without(one) === without(other);
}
