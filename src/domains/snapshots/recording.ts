import { createHash, type Hash } from 'node:crypto';
import type { JournalLine } from '../chat/journal.schema.js';
import type { Contents } from './archive.schema.js';
import { JournalCheck } from './journal-check.js';
import { StateCheck } from './state-check.js';

/** A tar with nothing in it. */
const EMPTY_TAR = Buffer.alloc(1024);

/** One part of a snapshot as it passes by: how much it was, and its digest. */
class Part {
  bytes = 0;
  readonly #hash: Hash = createHash('sha256');

  add(piece: Uint8Array): void {
    this.bytes += piece.length;
    this.#hash.update(piece);
  }

  get sha256(): string {
    return this.#hash.copy().digest('hex');
  }
}

/** What becomes a snapshot's plain bytes: the journal, then the state. Both are checked on their way, whoever they come from. */
export class Recording {
  readonly #journal = new Part();
  readonly #state = new Part();
  readonly #lines = new JournalCheck();
  #files = 0;

  async *journal(source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
    for await (const piece of source) {
      for (const _ of this.#lines.add(piece)) {
        // Each is checked as it is read.
      }
      this.#journal.add(piece);
      yield piece;
    }
    this.#lines.finish();
  }

  /** undefined: there is none, as of an agent that never ran. */
  async *state(source: AsyncIterable<Uint8Array> | undefined): AsyncGenerator<Uint8Array> {
    const check = new StateCheck();
    try {
      for await (const piece of source ?? [EMPTY_TAR]) {
        await check.add(piece);
        this.#state.add(piece);
        yield piece;
      }
      await check.finish();
      this.#files = check.files;
    } finally {
      await check.stop();
    }
  }

  get bytes(): number {
    return this.#journal.bytes + this.#state.bytes;
  }

  /** What passed by. */
  contents(): Contents {
    return {
      conversations: this.#lines.conversations,
      turns: this.#lines.turns,
      journal_bytes: this.#journal.bytes,
      journal_sha256: this.#journal.sha256,
      files: this.#files,
      state_bytes: this.#state.bytes,
      state_sha256: this.#state.sha256,
    };
  }
}

export async function* bytesOfJournal(lines: AsyncIterable<JournalLine>): AsyncGenerator<Buffer> {
  for await (const line of lines) yield Buffer.from(`${JSON.stringify(line)}\n`);
}

/** The bytes from there on, so many of them. Those before are read and passed over. */
export async function* section(source: AsyncIterable<Uint8Array>, from: number, length: number): AsyncGenerator<Uint8Array> {
  let at = 0;
  const end = from + length;
  if (length === 0) return;
  for await (const piece of source) {
    const wanted = piece.subarray(Math.max(0, from - at), Math.max(0, end - at));
    if (wanted.length > 0) yield wanted;
    at += piece.length;
    if (at >= end) return;
  }
}
