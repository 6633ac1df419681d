/** The words of a message's content: a string as it is, of a list of parts those that are text. */
export function textOf(content: unknown): string {
  if (typeof content === 'string') return content;
  if (!Array.isArray(content)) return '';
  return content.map((part: unknown) => textOfPart(part)).join('');
}

function textOfPart(part: unknown): string {
  if (typeof part === 'string') return part;
  const text = typeof part === 'object' && part !== null ? (part as { text?: unknown }).text : undefined;
  return typeof text === 'string' ? text : '';
}
