/** What an instance may take of this process. The defaults are for peers that nobody trusts; tests shorten the times. */
export interface LinkLimits {
  /** Connections to one instance's socket at a time; more are dropped unread. */
  maxConnections: number;
  /** From accept to the end of the request header. */
  headerTimeoutMs: number;
  /** From the first byte of a plain request to the end of its body. */
  bodyTimeoutMs: number;
  /** From the 101 to the peer's first HTTP/2 SETTINGS. */
  handshakeMs: number;
  maxHeaderBytes: number;
  /** Plain requests of one instance being answered at a time. */
  maxPlainInFlight: number;
  /** Requests that Berth has open on one link. */
  maxStreams: number;
  /** HTTP/2 flow-control window of one stream: what an unread response may hold in memory. */
  windowBytes: number;
  pingEveryMs: number;
  pingAnswerMs: number;
  /** How long a link whose peer said GOAWAY may go on with what is open. */
  drainMs: number;
  /** How often bytes read are compared with payload delivered, and pings are looked after. */
  watchEveryMs: number;
  /** Bytes that carry no payload: how many at once, and how many a second for ever. */
  framingBurstBytes: number;
  framingBytesPerS: number;
  /** Pieces of payload on one link (4 KiB count as one more): how many at once, and how many a second; above it streams are held back. */
  pieceBurst: number;
  piecesPerS: number;
  /** Pieces of payload under 64 bytes: how many at once, and how many a second, before the instance is cut. */
  tinyBurst: number;
  tinyPerS: number;
  connectionBurst: number;
  connectionsPerS: number;
  plainBurst: number;
  plainPerS: number;
  linkBurst: number;
  linksPerS: number;
  wrongTokensPerMinute: number;
  /** Refused calls (401, 429, garbage) that are still answered; beyond it the socket vanishes for the time of the penalty. */
  refusalBurst: number;
  refusalsPerS: number;
  penaltyFirstMs: number;
  penaltyMaxMs: number;
  /** After this long without an offence the next penalty is the first one again. */
  penaltyForgetMs: number;
}

export const DEFAULT_LIMITS: LinkLimits = {
  maxConnections: 64,
  headerTimeoutMs: 5_000,
  bodyTimeoutMs: 60_000,
  handshakeMs: 5_000,
  maxHeaderBytes: 16 * 1024,
  maxPlainInFlight: 48,
  maxStreams: 256,
  windowBytes: 64 * 1024,
  pingEveryMs: 15_000,
  pingAnswerMs: 10_000,
  drainMs: 30_000,
  watchEveryMs: 200,
  framingBurstBytes: 256 * 1024,
  framingBytesPerS: 32 * 1024,
  pieceBurst: 20_000,
  piecesPerS: 20_000,
  tinyBurst: 4_000,
  tinyPerS: 1_000,
  connectionBurst: 1_024,
  connectionsPerS: 256,
  plainBurst: 2_000,
  plainPerS: 1_000,
  linkBurst: 20,
  linksPerS: 1,
  wrongTokensPerMinute: 10,
  refusalBurst: 300,
  refusalsPerS: 10,
  penaltyFirstMs: 1_000,
  penaltyMaxMs: 300_000,
  penaltyForgetMs: 600_000,
};
