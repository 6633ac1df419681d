/** Shorter values are words like others: taking them out would make a log unreadable and hide nothing. */
const LEAST_CHARS = 4;
const MARK = '[redacted]';

/** Every form in which one of the values may stand in a text: as it is, escaped, percent-encoded, or within base64. The longest first. */
export function spellings(values: Iterable<string>): string[] {
  const forms = new Set<string>();
  for (const value of values) {
    if (value.trim().length < LEAST_CHARS) continue;
    const encoded = encodeURIComponent(Buffer.from(value).toString());
    const strictly = encoded.replace(/[!'()*]/g, (sign) => `%${sign.charCodeAt(0).toString(16).toUpperCase()}`);
    const urls = [encoded, strictly, ...[encoded, strictly].map((form) => form.replaceAll('%20', '+'))];
    const lower = urls.map((form) => form.replace(/%[0-9A-F]{2}/g, (escape) => escape.toLowerCase()));
    const all = [value, value.trim(), JSON.stringify(value).slice(1, -1), ...urls, ...lower, ...inBase64(value)];
    for (const form of all) if (form.length >= LEAST_CHARS) forms.add(form);
  }
  return [...forms].sort((a, b) => b.length - a.length);
}

/** The text with all of those forms taken out. */
export function hidden(text: string, forms: readonly string[]): string {
  let clean = text;
  for (const form of forms) if (form.length <= clean.length && clean.includes(form)) clean = clean.replaceAll(form, MARK);
  return clean;
}

/**
 * Base64 packs three bytes into four characters, so what a value looks like in it depends on how many bytes stand before it. Of each of the
 * three ways these are the characters that belong to the value alone.
 */
function inBase64(value: string): string[] {
  const bytes = Buffer.from(value, 'utf8');
  return [0, 1, 2].flatMap((before) => {
    const packed = Buffer.concat([Buffer.alloc(before), bytes]);
    const from = before === 0 ? 0 : before + 1;
    const to = Math.floor((packed.length * 8) / 6);
    const texts = [packed.toString('base64'), packed.toString('base64url')];
    return [...texts.map((text) => text.slice(from, to)), ...(before === 0 ? texts : [])];
  });
}
