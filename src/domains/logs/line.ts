import type { LogLine as RuntimeLine } from '../../runtime/runtime.js';
import type { LogLine } from './logs.schema.js';
import { type Redact, redact } from './redact.js';

const LINE_LIMIT_CHARS = 16_384;
const FIELD_LIMIT_CHARS = 100;

/** The gateway's JSON lines are taken apart; whatever else is printed is a message as it is. `hide` takes the tenant's own secrets out. */
export function lineOf(raw: RuntimeLine, deploymentId: string, hide: Redact = (text) => text): LogLine {
  const fields = parseJson(raw.text);
  const text = typeof fields?.['msg'] === 'string' ? messageWithFields(fields) : raw.text;
  return {
    time: raw.time,
    stream: raw.stream,
    level: shortText(fields?.['level'], hide),
    agent: shortText(fields?.['agent'], hide),
    deployment_id: deploymentId,
    // Redacted before it is cut: half a key is no key to the patterns.
    message: redact(hide(text.slice(0, LINE_LIMIT_CHARS + 1_000))).slice(0, LINE_LIMIT_CHARS),
  };
}

function shortText(value: unknown, hide: Redact): string | null {
  return typeof value === 'string' ? hide(value.slice(0, FIELD_LIMIT_CHARS + 1_000)).slice(0, FIELD_LIMIT_CHARS) : null;
}

function parseJson(text: string): Record<string, unknown> | undefined {
  if (!text.startsWith('{')) return undefined;
  try {
    return JSON.parse(text) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function messageWithFields({ msg, time: _time, level: _level, agent: _agent, ...rest }: Record<string, unknown>): string {
  return Object.keys(rest).length === 0 ? String(msg) : `${String(msg)} ${JSON.stringify(rest)}`;
}

/** The last lines of an instance, as many as asked for and no more than a few megabytes of them. */
export class LastLines {
  readonly #most: number;
  readonly #mostChars: number;
  #lines: LogLine[] = [];
  #chars = 0;
  #first = 0;

  constructor(most: number, mostChars = 4_000_000) {
    this.#most = most;
    this.#mostChars = mostChars;
  }

  add(line: LogLine): void {
    this.#lines.push(line);
    this.#chars += line.message.length;
    while (this.#lines.length - this.#first > this.#most || this.#chars > this.#mostChars) {
      this.#chars -= this.#lines[this.#first]?.message.length ?? 0;
      this.#first += 1;
    }
    // In big steps: one shift a line would cost the square of it.
    if (this.#first > this.#most + 1_000) {
      this.#lines = this.lines;
      this.#first = 0;
    }
  }

  get lines(): LogLine[] {
    return this.#lines.slice(this.#first);
  }
}

/** How far the lines of an instance were read: so that a second look at them begins after the last one seen, and not at its time. */
export class Mark {
  #time = '';
  /** Lines of that very time. */
  #count = 0;

  /** Milliseconds since the epoch of the last line; undefined before the first. */
  get sinceMs(): number | undefined {
    return this.#time === '' ? undefined : Date.parse(this.#time);
  }

  note({ time }: RuntimeLine): void {
    if (time === this.#time) this.#count += 1;
    else {
      this.#time = time;
      this.#count = 1;
    }
  }

  /** Says of the lines of one more look, each in turn, whether they are new; those that are move the mark. */
  newOnes(): (raw: RuntimeLine) => boolean {
    const [time, count] = [this.#time, this.#count];
    let again = 0;
    let passed = false;
    return (raw) => {
      // Within one look lines come as they were written: nothing after the first new one is old.
      if (!passed && (raw.time < time || (raw.time === time && ++again <= count))) return false;
      passed = true;
      this.note(raw);
      return true;
    };
  }
}
