/** What collecting, keeping and reading logs may take. */
export interface LogLimits {
  /** A segment is sealed at this size, or at this age. */
  segmentBytes: number;
  segmentAgeMs: number;
  /** What is kept of a deployment's lines: bytes a second, and how much at once. The rest is counted. */
  keepBytesPerS: number;
  keepBurstBytes: number;
  /** What is read of an instance's lines; one that prints more is left alone for a while, and read again from its end. */
  readBytesPerS: number;
  readBurstBytes: number;
  /** Lines that wait to be written; reading waits where there are more. */
  pendingBytes: number;
  /** How long the rest of an instance that has ended may take to come. */
  lastWordsMs: number;
  /** How soon what could not be read or written is tried again: first, and at most. */
  retryFirstMs: number;
  retryMaxMs: number;
}

export const LOG_LIMITS: LogLimits = {
  segmentBytes: 4 * 1024 * 1024,
  segmentAgeMs: 24 * 3_600_000,
  keepBytesPerS: 256 * 1024,
  keepBurstBytes: 4 * 1024 * 1024,
  readBytesPerS: 2 * 1024 * 1024,
  readBurstBytes: 16 * 1024 * 1024,
  pendingBytes: 1024 * 1024,
  lastWordsMs: 2_000,
  retryFirstMs: 500,
  retryMaxMs: 30_000,
};
