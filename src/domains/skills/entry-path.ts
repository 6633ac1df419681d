/** What registries, editors and systems leave in a folder: no part of a skill. */
const LEFT_ASIDE = /^(?:__MACOSX|\.git|\.clawhub|\.clawdhub)(?:\/|$)|(?:^|\/)(?:\.DS_Store|\._[^/]*)$/;

const LONGEST_PATH = 200;
/** A gateway takes 16 parts. */
const MOST_PARTS = 16;

/** Why a name in an archive cannot become a file of a skill, or undefined. */
export function pathFault(name: string): string | undefined {
  if (name === '') return 'has no name';
  if (name.includes('\ufffd')) return 'has a name that is not UTF-8';
  if (/[\u0000-\u001f\u007f]/.test(name)) return 'has a name with control characters';
  if (name.includes('\\')) return 'has a name with a backslash';
  if (name.startsWith('/') || /^[A-Za-z]:/.test(name)) return 'has an absolute name';
  const segments = name.replace(/\/$/, '').split('/');
  if (segments.includes('..')) return 'has a name that leads out of the archive (..)';
  if (segments.includes('') || segments.includes('.')) return 'has a name with an empty segment';
  if (segments.length > MOST_PARTS) return `lies more than ${MOST_PARTS - 1} folders deep`;
  return fitsTar(name) ? undefined : `has a name that is too long (${LONGEST_PATH} bytes, 100 a segment)`;
}

/** The name without the `./` that tar puts before it; empty for the folder itself. */
export function withoutDot(name: string): string {
  return name.replace(/^(?:\.\/)+/, '').replace(/^\.$/, '');
}

export function isLeftAside(path: string): boolean {
  return LEFT_ASIDE.test(path);
}

/** An entry's name as it may be shown: short, and without anything that a terminal would obey. */
export function shownName(name: string): string {
  return name.replaceAll(/[^\u0020-\u007e\u00a1-\ud7ff\ue000-\ufffc]/g, '?').slice(0, 100) || '(no name)';
}

/** Whether the plain header of a tar holds it: 100 bytes, and 155 before a slash. What does not fit there, few programs read alike. */
function fitsTar(path: string): boolean {
  const bytes = Buffer.from(path);
  if (bytes.length > LONGEST_PATH) return false;
  if (bytes.length <= 100) return true;
  for (let at = bytes.indexOf(47); at !== -1; at = bytes.indexOf(47, at + 1)) {
    if (at <= 155 && bytes.length - at - 1 <= 100) return true;
  }
  return false;
}
