import { createHash } from 'node:crypto';
import { mkdir, open, appendFile, rm } from 'node:fs/promises';
import { constants } from 'node:fs';
import { dirname, join } from 'node:path';
import { errorCode, type Log } from './log.js';
import { isResult, shrink, type TurnRecord } from './turn-record.js';

export interface ConversationsOptions {
  /** The folder of an agent's conversations. */
  dirOf(agentId: string): string;
  /** Most that one conversation sends along as history. */
  historyBytes: number;
  /** Most history kept in memory over all conversations at rest; the rest is read from disk when it goes on. */
  cacheBytes: number;
  log: Log;
}

/**
 * The working memory of conversations: a file of JSON lines each, one line a turn, of which the end is sent along with the next
 * message. Turns of one conversation run one after the other, in the order they were asked for.
 */
export class Conversations {
  readonly #options: ConversationsOptions;
  readonly #tails = new Map<string, Promise<void>>();
  /** Least lately used first. Those in use are not here, so that nothing evicts them. */
  readonly #atRest = new Map<string, Conversation>();
  #restBytes = 0;

  constructor(options: ConversationsOptions) {
    this.#options = options;
  }

  /** Runs `work` once every earlier turn of the conversation has ended. Rejects with the signal's reason if that aborts before. */
  async inTurn<T>(
    agentId: string,
    user: string,
    signal: AbortSignal,
    work: (conversation: Conversation) => Promise<T>,
  ): Promise<T> {
    const key = `${agentId}/${fileName(user)}`;
    const leave = await this.#enter(key, signal);
    try {
      const conversation = this.#take(key) ?? (await this.#load(agentId, user));
      try {
        return await work(conversation);
      } finally {
        this.#rest(key, conversation);
      }
    } finally {
      leave();
    }
  }

  /** Forgets a conversation, on disk too, once its turns that were asked for before have ended. Whether there is one does not matter. */
  async delete(agentId: string, user: string): Promise<void> {
    await this.inTurn(agentId, user, new AbortController().signal, async () => undefined);
    this.#take(`${agentId}/${fileName(user)}`);
    await rm(join(this.#options.dirOf(agentId), fileName(user)), { force: true });
  }

  /** Drops what memory holds of an agent's conversations. The caller has ended its turns. */
  forget(agentId: string): void {
    for (const key of this.#atRest.keys()) if (key.startsWith(`${agentId}/`)) this.#take(key);
  }

  async #enter(key: string, signal: AbortSignal): Promise<() => void> {
    signal.throwIfAborted();
    const before = this.#tails.get(key) ?? Promise.resolve();
    let leave!: () => void;
    const mine = new Promise<void>((resolve) => (leave = resolve));
    const tail = before.then(() => mine);
    this.#tails.set(key, tail);
    void tail.then(() => this.#tails.get(key) === tail && this.#tails.delete(key));
    try {
      await orAborted(before, signal);
    } catch (error) {
      leave();
      throw error;
    }
    return leave;
  }

  #take(key: string): Conversation | undefined {
    const conversation = this.#atRest.get(key);
    if (!conversation) return undefined;
    this.#atRest.delete(key);
    this.#restBytes -= conversation.bytes;
    return conversation;
  }

  #rest(key: string, conversation: Conversation): void {
    this.#atRest.set(key, conversation);
    this.#restBytes += conversation.bytes;
    for (const oldest of this.#atRest.keys()) {
      if (this.#restBytes <= this.#options.cacheBytes) break;
      this.#take(oldest);
    }
  }

  async #load(agentId: string, user: string): Promise<Conversation> {
    const dir = this.#options.dirOf(agentId);
    const path = join(dir, fileName(user));
    const { records, torn } = await readTail(path, this.#options.historyBytes);
    const conversation = new Conversation(path, this.#options, torn);
    for (const record of records) conversation.take(record);
    return conversation;
  }
}

/** One conversation: the end of it in memory, all of it on disk. */
export class Conversation {
  readonly #path: string;
  readonly #options: ConversationsOptions;
  /**
   * The messages of all turns below, as the inside of a JSON list: bytes outside of the heap, which as strings would be copied
   * into every request and fill the heap with garbage.
   */
  #history = Buffer.alloc(0);
  #turns: { bytes: number; continues: boolean }[] = [];
  #pending: string[] = [];
  /** Whether the file ends in the midst of a line, which a crash had cut. */
  #torn: boolean;

  constructor(path: string, options: ConversationsOptions, torn = false) {
    this.#path = path;
    this.#options = options;
    this.#torn = torn;
  }

  get bytes(): number {
    return this.#history.length;
  }

  /** Messages of the earlier turns that still fit, as the inside of a JSON list. */
  get history(): Buffer {
    return this.#history;
  }

  /** Calls of the client's functions that wait for their results. */
  get pending(): readonly string[] {
    return this.#pending;
  }

  /** Keeps a turn: in memory at once, on disk as far as the disk allows. */
  async add(record: TurnRecord): Promise<void> {
    const small = shrink(record, this.#options.historyBytes / 2);
    this.take(small);
    try {
      await this.#append(`${this.#torn ? '\n' : ''}${lineOf(small)}\n`);
      this.#torn = false;
    } catch (error) {
      // A full disk must not silence the agent: the conversation goes on from memory.
      this.#options.log.warn('conversation not saved', { turn: record.turn, code: errorCode(error) });
    }
  }

  async #append(line: string): Promise<void> {
    try {
      await appendFile(this.#path, line);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
      await mkdir(dirname(this.#path), { recursive: true });
      await appendFile(this.#path, line);
    }
  }

  /** Keeps a turn in memory only. */
  take(record: TurnRecord): void {
    const continues = isResult(record.messages[0]);
    // The head of a file's tail may begin in the midst of an exchange.
    if (continues && this.#turns.length === 0) return;
    const text = Buffer.from(record.messages.join(','));
    this.#history = Buffer.concat(this.#turns.length === 0 ? [text] : [this.#history, COMMA, text]);
    this.#turns.push({ bytes: text.length, continues });
    this.#pending = record.pending ?? [];
    if (this.#history.length > this.#options.historyBytes) this.#dropOldest();
  }

  /** Drops to half at one go: a history that loses its head at every turn can be cached by no provider. */
  #dropOldest(): void {
    let from = 0;
    while (this.#turns.length > 1 && (this.#history.length - from > this.#options.historyBytes / 2 || this.#startsInside())) {
      from += (this.#turns.shift()?.bytes ?? 0) + COMMA.length;
    }
    // A copy, so that what was dropped is freed.
    this.#history = Buffer.from(this.#history.subarray(from));
  }

  /** Whether the history begins with the results of calls that it does not hold: no model takes that. */
  #startsInside(): boolean {
    return this.#turns[0]?.continues ?? false;
  }
}

const COMMA = Buffer.from(',');

/** The messages are JSON already; put together so, they need not be read again. */
function lineOf({ turn, messages, pending }: TurnRecord): string {
  const owed = pending === undefined ? '' : `,"pending":${JSON.stringify(pending)}`;
  return `{"turn":${JSON.stringify(turn)}${owed},"messages":[${messages.join(',')}]}`;
}

function fileName(user: string): string {
  return `${createHash('sha256').update(user).digest('hex').slice(0, 40)}.jsonl`;
}

/** The turns at the end of a file that fit into `mostBytes`; a line that cannot be read (cut by a crash) is passed over. */
async function readTail(path: string, mostBytes: number): Promise<{ records: TurnRecord[]; torn: boolean }> {
  let file;
  try {
    // A shell could have put a pipe or a link in its place: never wait on one, never follow one.
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return { records: [], torn: false };
  }
  try {
    const stat = await file.stat();
    if (!stat.isFile()) return { records: [], torn: false };
    const from = Math.max(0, stat.size - mostBytes);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(stat.size - from), 0, stat.size - from, from);
    const lines = buffer.toString('utf8', 0, bytesRead).split('\n');
    if (from > 0) lines.shift();
    return { records: lines.flatMap(readRecord), torn: lines.at(-1) !== '' };
  } finally {
    await file.close();
  }
}

function readRecord(line: string): TurnRecord[] {
  try {
    const { turn, messages, pending } = JSON.parse(line) as { turn: string; messages: unknown[]; pending?: string[] };
    return [{ turn, messages: messages.map((message) => JSON.stringify(message)), ...(pending ? { pending } : {}) }];
  } catch {
    return [];
  }
}

function orAborted(promise: Promise<void>, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => reject(signal.reason);
    signal.addEventListener('abort', abort, { once: true });
    void promise.then(() => {
      signal.removeEventListener('abort', abort);
      resolve();
    });
  });
}
