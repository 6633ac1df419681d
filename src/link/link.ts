import type { Readable } from 'node:stream';
import type { IncomingMessage, ServerResponse } from 'node:http';

/** Who is at the other end of a link: what the database says of the instance whose socket was dialled. */
export interface LinkIdentity {
  instanceId: string;
  deploymentId: string;
  /** Empty as long as the instance is nobody's. */
  userId: string;
}

export interface LinkRequest {
  method: string;
  path: string;
  headers?: Record<string, string>;
  body?: string | Buffer | Readable;
  /** Aborting resets the stream, which the gateway sees as a disconnect. */
  signal?: AbortSignal;
  /** Time to the response headers. */
  timeoutMs: number;
  /** Berth's own business with the instance, such as its configuration: it does not keep an idle one awake. */
  isUpkeep?: boolean;
}

export interface LinkResponse {
  status: number;
  headers: Record<string, string>;
  /** Emits `error` when the link is lost in the midst of it. Flow control reaches the instance: an unread body stops its writer. */
  body: Readable;
}

/** A live connection to an instance over which Berth makes requests. */
export interface Link extends LinkIdentity {
  readonly closed: boolean;
  /** Throws `NotSent` when the link is down, `unavailable` when it is lost meanwhile, `timeout` when no headers come in time. */
  request(request: LinkRequest): Promise<LinkResponse>;
  close(reason: string): void;
}

/** An instance's own folder, listener and credentials on this Berth process. */
export interface LinkListener extends LinkIdentity {
  /** The host folder to mount at /run/berth: holds `token` and one `<process>.sock` per Berth process. */
  dir: string;
}

/** Why a link was cut by Berth, for the deployment's status. */
export interface LinkAbuse {
  identity: LinkIdentity;
  reason: string;
}

/**
 * Handles the plain HTTP calls that an instance makes on its socket (everything but the upgrade and CONNECT): the LLM gateway.
 * The caller is proven: socket path and token agree.
 */
export type InstanceSideHandler = (identity: LinkIdentity, request: IncomingMessage, response: ServerResponse) => void;
