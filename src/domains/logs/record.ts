import type { LogLine } from './logs.schema.js';
import type { MarkValue } from './mark.js';

/** A line as it is kept: with the instance that printed it, by its deployment and generation. */
export interface StoredLine extends LogLine {
  kind: 'line';
  generation: number;
}

/** Lines that are missing. */
export interface StoredGap {
  kind: 'gap';
  /** Of the first and the last line that is missing, as far as it is known. */
  time: string;
  until: string;
  deployment_id: string;
  generation: number;
  /** Null where nobody knows. */
  lines: number | null;
  bytes: number | null;
  reason: string;
  /** How far the instance was read with them. */
  mark: MarkValue;
}

/** How far each instance had been read when the segment began, so that one segment suffices to go on. */
export interface StoredMarks {
  kind: 'marks';
  marks: Record<string, MarkValue>;
}

export type StoredRecord = StoredLine | StoredGap | StoredMarks;
/** What readers see. */
export type ShownRecord = StoredLine | StoredGap;

/** Of a JSON text, `{"gap"` can be the beginning alone: inside a string its quotes have backslashes. */
export const GAP_START = '{"gap"';
const MARKS_START = '{"marks"';

/** The key of an instance among marks. */
export function instanceKey({ deployment_id, generation }: { deployment_id: string; generation: number }): string {
  return `${deployment_id}/${generation}`;
}

/** One line of JSON, so that the last newline of a file is the end of its last whole record. */
export function encodeRecord(record: StoredRecord): string {
  if (record.kind === 'line') {
    const { time, stream, level, agent, deployment_id, generation, message } = record;
    return `${JSON.stringify([time, stream, level, agent, deployment_id, generation, message])}\n`;
  }
  const { kind, ...rest } = record;
  return kind === 'gap' ? `${JSON.stringify({ gap: rest })}\n` : `${JSON.stringify(rest)}\n`;
}

/** Undefined where the text is no record, as after a crash of the machine. */
export function decodeRecord(text: string): StoredRecord | undefined {
  try {
    if (text.startsWith(GAP_START)) return { kind: 'gap', ...(JSON.parse(text) as { gap: Omit<StoredGap, 'kind'> }).gap };
    if (text.startsWith(MARKS_START)) return { kind: 'marks', ...(JSON.parse(text) as Omit<StoredMarks, 'kind'>) };
    if (!text.startsWith('[')) return undefined;
    const [time, stream, level, agent, deployment_id, generation, message] = JSON.parse(text) as LineFields;
    return { kind: 'line', time, stream, level, agent, deployment_id, generation, message };
  } catch {
    return undefined;
  }
}

type LineFields = [string, 'stdout' | 'stderr', string | null, string | null, string, number, string];
