const NAME = /^[A-Za-z_][A-Za-z0-9_]{0,127}$/;

/** Names that mean something to the gateway, to a shell or to an interpreter before the agent's own program runs. */
const RESERVED = new Set(
  `PATH HOME PWD OLDPWD USER LOGNAME SHELL HOSTNAME TMPDIR IFS ENV BASH_ENV _ SHELLOPTS BASHOPTS PS4 PROMPT_COMMAND
  CDPATH GLOBIGNORE SHLVL UID EUID PPID BASH NODE_OPTIONS NODE_PATH NODE_EXTRA_CA_CERTS NODE_USE_ENV_PROXY
  NODE_TLS_REJECT_UNAUTHORIZED PYTHONSTARTUP PYTHONPATH PYTHONHOME PYTHONINSPECT PYTHONUSERBASE PYTHONBREAKPOINT
  PYTHONEXECUTABLE PERL5OPT PERL5LIB PERL5DB RUBYOPT RUBYLIB JAVA_TOOL_OPTIONS _JAVA_OPTIONS JDK_JAVA_OPTIONS GCONV_PATH
  GLIBC_TUNABLES HOSTALIASES LOCALDOMAIN RES_OPTIONS __proto__`.split(/\s+/),
);
const RESERVED_PREFIXES = ['LD_', 'BERTH_', 'BASH_FUNC_'];
/** Programs read these in both cases. */
const PROXIES = new Set(['http_proxy', 'https_proxy', 'ftp_proxy', 'all_proxy', 'no_proxy']);

/** What is wrong with the name of an environment variable that a caller chooses; undefined when nothing is. */
export function problemOfVariable(name: string): string | undefined {
  if (!NAME.test(name)) return 'must be 1 to 128 of A-Z, a-z, 0-9 and _, not beginning with a digit';
  if (PROXIES.has(name.toLowerCase())) return 'is reserved: the proxy of an agent is set by its network policy';
  const prefix = RESERVED_PREFIXES.find((one) => name.startsWith(one));
  if (prefix !== undefined) return `is reserved: names that begin with ${prefix} are not free`;
  if (RESERVED.has(name)) return 'is reserved: it would change how the programs of the agent are run';
  return undefined;
}
