import { messageOf } from '../lib/errors.js';
import type { Log } from '../lib/log.js';
import type { LinkIdentity } from './link.js';
import { checkPolicy, type EgressPolicy, type Target } from './policy.js';

/** Something that an instance has open to the internet, or is about to. */
export interface LiveConnection {
  identity: LinkIdentity;
  target: Target;
  /** Whether the policy it was let through by looks at names within TLS; undefined until one was. */
  isNameStrict?: boolean;
  cut(): void;
}

/** What is open to the internet, by deployment, so that a stricter policy reaches it too. */
export class LiveConnections {
  readonly #byDeployment = new Map<string, Set<LiveConnection>>();

  /** Before its policy is asked for: one that changes in between finds it here. Returns the function that takes it out. */
  add(connection: LiveConnection): () => void {
    const { deploymentId } = connection.identity;
    const all = this.#byDeployment.get(deploymentId) ?? new Set();
    this.#byDeployment.set(deploymentId, all.add(connection));
    return () => {
      all.delete(connection);
      if (all.size === 0 && this.#byDeployment.get(deploymentId) === all) this.#byDeployment.delete(deploymentId);
    };
  }

  deployments(): string[] {
    return [...this.#byDeployment.keys()];
  }

  /** Cuts what the policy, as it is now, would not let through. */
  async recheck(
    deploymentId: string,
    policyOf: (identity: LinkIdentity) => EgressPolicy | Promise<EgressPolicy>,
    log: Log,
  ): Promise<void> {
    const [first] = this.#byDeployment.get(deploymentId) ?? [];
    if (!first) return;
    const policy = await policyOf(first.identity);
    for (const connection of this.#byDeployment.get(deploymentId) ?? []) {
      const reason = refusalOf(policy, connection);
      if (reason === undefined) continue;
      log.info({ ...connection.identity, target: connection.target.host, reason }, 'egress cut by a new policy');
      connection.cut();
    }
  }
}

function refusalOf(policy: EgressPolicy, { target, isNameStrict }: LiveConnection): string | undefined {
  try {
    checkPolicy(policy, target);
  } catch (error) {
    return messageOf(error);
  }
  return policy.mode === 'allowlist' && isNameStrict === false ? 'it may hide the name it is for' : undefined;
}
