import { AppError } from '../../lib/errors.js';
import { archiveKind, readArchive } from './archive.js';
import { readSkill, type ReadSkill } from './frontmatter.js';
import { SkillName } from './frontmatter.schema.js';
import { archiveFault, type SkillFile } from './intake.js';
import { packageOf, type SkillPackage } from './package.js';

interface Body {
  bytes: Buffer;
  contentType: string;
}

/** Reads what was uploaded as the skill `name`: a SKILL.md, a zip, a tar, a tar.gz, or a form with one such file. */
export async function readUpload(name: string, body: Body): Promise<{ package: SkillPackage; read: ReadSkill }> {
  const checked = SkillName.safeParse(name);
  if (!checked.success) {
    const fields = checked.error.issues.map(({ message }) => ({ path: 'path.id', message }));
    throw new AppError('invalid_request', 'invalid request', { fields });
  }
  const files = await filesOf(body.contentType.startsWith('multipart/form-data') ? await fileOfForm(body) : body);
  const main = files.find(({ path }) => path === 'SKILL.md')!;
  return { read: readSkill(main.bytes, name), package: await packageOf(files) };
}

async function filesOf({ bytes, contentType }: Body): Promise<SkillFile[]> {
  if (bytes.length === 0) throw archiveFault('is empty');
  const kind = archiveKind(bytes);
  if (kind) return readArchive(bytes, kind);
  if (/zip|tar\b/.test(contentType))
    throw archiveFault(`is no ${contentType.split(';')[0]!.slice(0, 60)}, nor any other archive known here`);
  return [{ path: 'SKILL.md', bytes, executable: false }];
}

async function fileOfForm({ bytes, contentType }: Body): Promise<Body> {
  let form: FormData;
  try {
    form = await new Response(new Uint8Array(bytes), { headers: { 'content-type': contentType } }).formData();
  } catch (error) {
    throw archiveFault('is not a well-formed form', error);
  }
  const files = [...form.values()].filter((value) => typeof value !== 'string');
  const [file] = files;
  if (!file || files.length > 1) throw archiveFault('must be a form with one file');
  return { bytes: Buffer.from(await file.arrayBuffer()), contentType: file.type };
}
