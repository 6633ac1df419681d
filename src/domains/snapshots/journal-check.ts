import { AppError } from '../../lib/errors.js';
import { JournalLine } from '../chat/journal.schema.js';

const MOST_LINE_BYTES = 16 * 1024 * 1024;
const MOST_CONVERSATIONS = 100_000;
const NEWLINE = 0x0a;

/** Reads a journal's lines as they come, and believes none: `unprocessable` for what no journal of Berth's says. */
export class JournalCheck {
  #rest: Buffer[] = [];
  #restBytes = 0;
  readonly #conversations = new Set<string>();
  readonly #externalUsers = new Set<string>();
  turns = 0;

  get conversations(): number {
    return this.#conversations.size;
  }

  /** The lines that are whole by now. */
  *add(bytes: Uint8Array): Generator<JournalLine> {
    let from = 0;
    for (let at = bytes.indexOf(NEWLINE); at >= 0; at = bytes.indexOf(NEWLINE, from)) {
      this.#keep(bytes.subarray(from, at));
      from = at + 1;
      const text = Buffer.concat(this.#rest.splice(0)).toString('utf8');
      this.#restBytes = 0;
      yield this.#checked(text);
    }
    this.#keep(bytes.subarray(from));
  }

  /** Throws where the last line was cut off. */
  finish(): void {
    if (this.#restBytes > 0) throw fault('ends in the midst of a line');
  }

  #keep(bytes: Uint8Array): void {
    this.#restBytes += bytes.length;
    if (this.#restBytes > MOST_LINE_BYTES) throw fault(`has a line of more than ${MOST_LINE_BYTES} bytes`);
    // A copy: whoever gave it uses its buffer again.
    if (bytes.length > 0) this.#rest.push(Buffer.from(bytes));
  }

  #checked(text: string): JournalLine {
    const parsed = JournalLine.safeParse(jsonOf(text));
    if (!parsed.success) throw fault('has a line that is none of a journal');
    const line = parsed.data;
    if ('conversation' in line) this.#begin(line.conversation);
    else this.#count(line.turn);
    return line;
  }

  #begin({ id, external_user: externalUser }: { id: string; external_user: string | null }): void {
    if (this.turns > 0) throw fault('has a conversation after the turns');
    if (this.#conversations.has(id) || (externalUser !== null && this.#externalUsers.has(externalUser)))
      throw fault('has a conversation twice');
    if (this.conversations >= MOST_CONVERSATIONS) throw fault(`has more than ${MOST_CONVERSATIONS} conversations`);
    this.#conversations.add(id);
    if (externalUser !== null) this.#externalUsers.add(externalUser);
  }

  #count({ conversation_id: id }: { conversation_id: string | null }): void {
    if (id !== null && !this.#conversations.has(id)) throw fault('has a turn of a conversation that is not there');
    this.turns += 1;
  }
}

/** The lines of a journal, each checked. */
export async function* linesOf(bytes: AsyncIterable<Uint8Array>): AsyncGenerator<JournalLine> {
  const check = new JournalCheck();
  for await (const piece of bytes) yield* check.add(piece);
  check.finish();
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function fault(what: string): AppError {
  return new AppError('unprocessable', `the journal ${what}`);
}
