import { isDeepStrictEqual } from 'node:util';
import { createTarDecoder, type ParsedTarEntry, type TarHeader } from 'modern-tar';
import { AppError } from '../../lib/errors.js';
import { Manifest } from './archive.schema.js';
import { MEMBERS, sha256, sumsOf } from './export.js';
import { Recording } from './recording.js';

const MANIFEST_BYTES = 4 * 1024 * 1024;
const SUMS_BYTES = 4 * 1024;

type Member = { header: TarHeader; body: AsyncIterable<Uint8Array> };

/**
 * An export on its way in, and hostile whatever its checksums say: four members of known names in a known order, each checked as it comes, and
 * nothing else. Nothing of it may be used before `plain` has ended without an error.
 */
export class Importing {
  readonly #recording = new Recording();
  readonly #members: AsyncGenerator<Member>;
  #manifestSha256 = '';
  manifest: Manifest | undefined;

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#members = membersOf(source);
  }

  /** What it says of itself, before the rest is read. */
  async begin(): Promise<Manifest> {
    const { body } = await this.#next(0);
    const bytes = await readAll(body, MANIFEST_BYTES);
    this.#manifestSha256 = sha256(bytes);
    this.manifest = manifestIn(bytes);
    return this.manifest;
  }

  /** The journal and then the state; ends in `unprocessable` where anything is not as it must be. */
  async *plain(manifest: Manifest): AsyncGenerator<Uint8Array> {
    const { contents } = manifest;
    const journal = await this.#next(1, contents.journal_bytes);
    yield* this.#recording.journal(journal.body);
    const state = await this.#next(2, contents.state_bytes);
    yield* this.#recording.state(state.body);
    const sums = await readAll((await this.#next(3)).body, SUMS_BYTES);
    const found = this.#recording.contents();
    if (sums.toString('latin1') !== sumsOf(this.#manifestSha256, found)) throw fault('is not what its checksums say');
    if (!isDeepStrictEqual(found, contents)) throw fault('does not hold what its manifest says');
    if (!(await this.#members.next()).done) throw fault('has more in it than it may');
  }

  async #next(at: number, bytes?: number): Promise<Member> {
    const { value, done } = await this.#members.next();
    if (done) throw fault(`ends before ${MEMBERS[at]}`);
    const { name, type = 'file', size } = value.header;
    if (name !== MEMBERS[at] || type !== 'file') throw fault(`must hold ${MEMBERS.join(', ')}, in this order, and nothing else`);
    if (bytes !== undefined && size !== bytes) throw fault(`has another length of ${name} than its manifest says`);
    return value;
  }
}

async function* membersOf(source: AsyncIterable<Uint8Array>): AsyncGenerator<Member> {
  const { readable, writable } = createTarDecoder({ strict: true });
  const writer = writable.getWriter();
  writer.closed.catch(() => undefined);
  let failure: Error | undefined;
  void feed(
    noting(source, (error) => (failure = error instanceof Error ? error : new Error('the source failed'))),
    writer,
  );
  try {
    for await (const { header, body } of readable as unknown as AsyncIterable<ParsedTarEntry>) yield { header, body: body };
  } catch (error) {
    throw failure ?? fault('is no tar, is damaged or ends too early', error);
  } finally {
    await writer.abort(new Error('given up')).catch(() => undefined);
  }
}

/** What is read; what it fails by is said too, since the decoder would tell it as a failure of its own. */
async function* noting(source: AsyncIterable<Uint8Array>, onFailure: (error: unknown) => void): AsyncGenerator<Uint8Array> {
  try {
    yield* source;
  } catch (error) {
    onFailure(error);
    throw error;
  }
}

async function feed(source: AsyncIterable<Uint8Array>, writer: WritableStreamDefaultWriter<Uint8Array>): Promise<void> {
  try {
    for await (const piece of source) await writer.write(piece);
    await writer.close();
  } catch (error) {
    // Told at the decoder's other end.
    await writer.abort(error).catch(() => undefined);
  }
}

async function readAll(body: AsyncIterable<Uint8Array>, limitBytes: number): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of body) {
    bytes += piece.length;
    if (bytes > limitBytes) throw fault(`has more than ${limitBytes} bytes where its manifest or its checksums are meant`);
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

/** Field by field where it is JSON at least; never with a value. */
function manifestIn(bytes: Buffer): Manifest {
  let value: unknown;
  try {
    value = JSON.parse(bytes.toString('utf8'));
  } catch (cause) {
    throw fault('has a manifest that is not JSON', cause);
  }
  const parsed = Manifest.safeParse(value);
  if (parsed.success) return parsed.data;
  const fields = parsed.error.issues.slice(0, 20).map(({ path, code, message }) => ({
    path: ['manifest', ...path].join('.').slice(0, 200),
    message: code === 'unrecognized_keys' ? 'has fields that may not be there' : message,
  }));
  throw new AppError('unprocessable', 'the export has a manifest that cannot be taken', { fields });
}

function fault(what: string, cause?: unknown): AppError {
  return new AppError('unprocessable', `the export ${what}`, { cause });
}
