/**
 * What is wrong with `path` as a place within a workspace, or undefined when it may be used: relative, no `..`, no NUL, no
 * backslash tricks to worry about on Linux. The words complete a sentence ("the path …") and never repeat the path.
 */
export function checkRelativePath(path: string): string | undefined {
  if (path === '') return 'must not be empty';
  if (path.includes('\0')) return 'must not hold a NUL character';
  if (path.startsWith('/')) return 'must be relative to the workspace';
  if (path.length > 1024) return 'is too long';
  const segments = path.split('/');
  if (segments.includes('..')) return 'must not hold ".."';
  if (segments.some((segment) => Buffer.byteLength(segment) > 255)) return 'has a segment that is too long';
  return undefined;
}
