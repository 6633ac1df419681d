import { AppError, type FieldError } from '../../lib/errors.js';
import type { RevisionDocument } from '../deployments/deployments.table.js';

/** What there is to be had now. */
export interface Offer {
  images: readonly string[];
  tier: { name: string } & RevisionDocument['limits'];
}

const LIMITS = ['memory_mib', 'cpu_millis', 'pids'] as const;

/** Why a deployment cannot run again what it ran at a revision, as far as its container goes. */
export function obstacles({ image, image_from: from, limits }: RevisionDocument, { images, tier }: Offer): FieldError[] {
  const fields = LIMITS.filter((name) => limits[name] > tier[name]).map((name) => ({
    path: `limits.${name}`,
    message: `was ${limits[name]}, and the tier ${tier.name} has ${tier[name]} at most`,
  }));
  if (from !== 'config' || images.includes(image)) return fields;
  return [...fields, { path: 'image', message: `was ${image}, which the operator offers no more` }];
}

/** What `work` finds wrong with its part of a request, told with where that part is. */
export async function within<T>(place: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!(error instanceof AppError) || (error.code !== 'invalid_request' && error.code !== 'conflict')) throw error;
    const { code, message, fields = [{ path: '', message }] } = error;
    const placed = fields.map((field) => ({ ...field, path: [place, field.path].filter((part) => part !== '').join('.') }));
    throw new AppError(code, message, { cause: error, fields: placed });
  }
}
