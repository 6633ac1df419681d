import type { TokenUsage } from './provider.js';

/** Who calls: proven by the socket it called on and its token. The shape of a link's identity. */
export interface CallingInstance {
  instanceId: string;
  deploymentId: string;
  userId: string;
}

/** A usage row as it is opened, before the provider is asked. */
export interface UsageEntry extends CallingInstance {
  /** As the instance named it and `AgentDirectory` confirmed it. */
  agentId: string | undefined;
  agentDbId: string | undefined;
  /** As the instance claims; to be trusted only after a look at whose turn it is. */
  turnId: string | undefined;
  /** 1, or more where the same call was made before and was lost with the process that it ran through; as the instance claims. */
  attempt: number;
  provider: string;
  /** With its provider's prefix. */
  model: string;
}

type UsageStatus = 'finished' | 'failed' | 'cut_off';

export interface UsageOutcome {
  status: UsageStatus;
  usage: TokenUsage;
  /** What went wrong, fit for the tenant. */
  error?: string;
}

/** Keeps the usage rows. */
export interface UsageLedger {
  /**
   * Resolves once the row is written; no provider is asked before. An `AppError('limit_exceeded')` refuses the call as over
   * budget.
   */
  open(entry: UsageEntry): Promise<string>;
  /** Called once per row. Tried again a few times when it fails, so it must bear that. */
  settle(usageId: string, outcome: UsageOutcome): Promise<void>;
}

/** Knows which agents and models a deployment has. */
export interface AgentDirectory {
  /** Which agent asks. Throws an `AppError` when the model is not one of the deployment's. */
  allowedModel(
    instance: CallingInstance,
    agentId: string | undefined,
    requestedModel: string,
  ): Promise<{ agentId: string | undefined; agentDbId?: string }>;
  /** Full names for `GET /v1/models`; without it those of the providers are listed. */
  models?(instance: CallingInstance): Promise<string[]>;
}

export interface GatewayLimits {
  /** Largest body of a request. */
  bodyBytes: number;
  bodyTimeoutMs: number;
  /** Calls at once of one instance; more are answered 429. */
  concurrentCalls: number;
  /** Bytes of requests held at once, parsed values included, of one instance and of all; more are answered 429 and 503. */
  heldBytesPerInstance: number;
  heldBytes: number;
  /** Bytes of requests that one instance may send in the long run, and at once; parsing them takes the time of all. More: 429. */
  bytesPerSecond: number;
  burstBytes: number;
  /** Silence after which a comment is sent. */
  keepAliveMs: number;
  /** How long a reader may take nothing before its call is cut off. */
  drainTimeoutMs: number;
  /** Longest answer that is put together for a request without `stream`. */
  wholeAnswerBytes: number;
  /** Pauses between the attempts to settle a row. */
  settleRetryMs: number[];
}
