import { z } from '@hono/zod-openapi';

const Digest = z.string().nullable();

export const ActAnswer = z
  .object({
    id: z.string(),
    at: z.string(),
    actor: z.string().openapi({ description: '`kind:key`, `anonymous`, or `berth`.' }),
    person: z.string().nullable().openapi({ description: 'The name of the user that acted, while that user is there.' }),
    address: z.string().nullable(),
    operation: z.string().openapi({ description: 'An operation id of this document; `*` for refusals of many kinds.' }),
    path: z.string().nullable(),
    user_id: z.string().nullable(),
    resource: z.string().nullable().openapi({ description: 'The id of what it was done to.' }),
    request_id: z.string().nullable(),
    outcome: z.enum(['open', 'done', 'failed', 'refused', 'cut_off', 'erased']).openapi({
      description:
        '`open`: it runs. `cut_off`: the process died in its midst; what it was about to do may have been done. `refused`: it was not begun.',
    }),
    status: z.number().int().nullable(),
    code: z.string().nullable(),
    count: z.number().int().openapi({ description: 'How often; refusals of one kind are added up by the minute.' }),
    request_digest: Digest,
    before_digest: Digest,
    after_digest: Digest,
    ended_at: z.string().nullable(),
    seq: z.number().int().nullable().openapi({ description: 'Its place in the chain; null for the moment before it has one.' }),
  })
  .openapi('AuditAct');
export type ActAnswer = z.infer<typeof ActAnswer>;

export const HeadAnswer = z
  .object({
    installation: z.string(),
    seq: z.number().int(),
    hash: z.string(),
    at: z.string(),
    signature: z
      .string()
      .openapi({ description: 'Ed25519, base64, of the lines `berth audit head 1`, installation, seq, hash, at.' }),
    public_key: z.string().openapi({ description: 'Ed25519, base64. Keep it elsewhere: an export is checked against it.' }),
  })
  .openapi('AuditHead');
export type HeadAnswer = z.infer<typeof HeadAnswer>;

export const FindingAnswer = z
  .object({
    problem: z.enum([
      'changed',
      'removed',
      'inserted',
      'out_of_place',
      'taken_out',
      'head_forged',
      'head_mismatch',
      'not_the_earlier_chain',
    ]),
    seq: z.number().int().nullable(),
    id: z.string().nullable(),
    detail: z.string(),
  })
  .openapi('AuditFinding');

export const VerifyAnswer = z
  .object({
    ok: z.boolean(),
    checked: z.number().int(),
    unsealed: z.number().int().openapi({ description: 'Entries of the last moments, which are not in the chain yet.' }),
    next: z.number().int().nullable().openapi({ description: 'There is more: ask again with `after` set to this.' }),
    findings: z.array(FindingAnswer).openapi({ description: '100 at most.' }),
    head: HeadAnswer,
  })
  .openapi('AuditVerification');
export type VerifyAnswer = z.infer<typeof VerifyAnswer>;

export const ReceiptAnswer = z
  .object({
    installation: z.string(),
    user_digest: z.string().openapi({ description: "SHA-256 of the user's id." }),
    entry: z.string().openapi({ description: 'The entry of the chain that says the same.' }),
    at: z.string(),
    signature: z.string(),
    public_key: z.string(),
  })
  .openapi('DeletionReceipt');
export type ReceiptAnswer = z.infer<typeof ReceiptAnswer>;
