import { validationError } from '../../http/validate.js';
import { wrongField } from '../../lib/errors.js';
import type { ContainerLimits, NetworkPolicy } from '../deployments/deployments.table.js';
import { ConfigDocument, type ConfigPatch } from './configs.schema.js';
import { mergePatch } from './merge.js';

/** The document after the patch (RFC 7396); `invalid_request` naming the fields where the two together say nothing sensible. */
export function patchDocument(document: ConfigDocument, patch: ConfigPatch): ConfigDocument {
  const merged = mergePatch(document, patch);
  refuseUnheardHosts(patch, merged['network']);
  const parsed = ConfigDocument.safeParse({ ...merged, ...networkOf(merged['network']) });
  if (!parsed.success) throw validationError('json', parsed.error);
  return parsed.data;
}

/** What an agent's config and container were: the version of the one, and what counts above it. */
export interface Return {
  /** 0: none was written yet. */
  version: number;
  model: string;
  network: NetworkPolicy;
  image: string | undefined;
  limits: ContainerLimits | undefined;
}

/** The document that brings it back. A container of its own is kept whatever was before it. */
export function returned(
  written: ConfigDocument,
  { model, network, image, limits }: Return,
  { isolation, defaultModel }: { isolation: ConfigDocument['isolation']; defaultModel: string },
): ConfigDocument {
  const { model: _, network: __, image: ___, limits: ____, isolation: _____, ...rest } = written;
  return {
    ...rest,
    ...(model === defaultModel ? {} : { model }),
    ...(network.mode === 'none' ? {} : { network }),
    ...(image === undefined ? {} : { image }),
    ...(limits === undefined ? {} : { limits }),
    ...(isolation === undefined ? {} : { isolation }),
  };
}

/** A list of hosts beside a mode that has none would be taken for a limit that nobody keeps. */
function refuseUnheardHosts({ network }: ConfigPatch, merged: unknown): void {
  const mode = (merged as { mode?: unknown } | undefined)?.mode;
  if (!network?.hosts || (mode !== 'open' && mode !== 'none')) return;
  const message = `must not be there: the mode is ${mode}, and hosts are of the mode allowlist`;
  throw wrongField('network.hosts', message);
}

/** Another mode leaves behind what only the mode before it had: nobody should have to name that to be rid of it. */
function networkOf(merged: unknown): { network?: unknown } {
  if (typeof merged !== 'object' || merged === null || !('mode' in merged)) return {};
  const { mode, hosts, ports } = merged as { mode: unknown; hosts?: unknown; ports?: unknown };
  if (mode === 'none') return { network: { mode } };
  const withPorts = ports === undefined ? {} : { ports };
  return { network: mode === 'open' ? { mode, ...withPorts } : { mode, hosts, ...withPorts } };
}
