/** Kernel calls by what they are for. None of them is for another architecture than the machine's own. */
const CALLS = {
  files: `
    access chdir chmod chown close close_range copy_file_range creat dup dup2 dup3 faccessat faccessat2 fadvise64 fallocate fchdir
    fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync flock fstat fstatfs fsync ftruncate futimesat getcwd getdents getdents64
    ioctl lchown link linkat lseek lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 pread64 preadv preadv2 pwrite64
    pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile splice stat statfs statx symlink
    symlinkat sync sync_file_range syncfs tee truncate umask unlink unlinkat utime utimensat utimes vmsplice write writev`,
  attributes: `
    fgetxattr flistxattr fremovexattr fsetxattr getxattr lgetxattr listxattr llistxattr lremovexattr lsetxattr removexattr setxattr`,
  watches: `
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch poll ppoll pselect6 select`,
  memory: `
    brk madvise membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap mseal msync munlock munlockall munmap
    pkey_alloc pkey_free pkey_mprotect remap_file_pages`,
  processes: `
    arch_prctl execve execveat exit exit_group fork getpgid getpgrp getpid getppid getpriority getrlimit getrusage getsid
    get_robust_list get_thread_area gettid kill pause pidfd_open pidfd_send_signal pipe pipe2 prctl prlimit64 process_mrelease
    restart_syscall rseq seccomp set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid tgkill tkill
    vfork wait4 waitid`,
  scheduling: `
    getcpu ioprio_get ioprio_set sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield`,
  locks: 'futex futex_requeue futex_wait futex_waitv futex_wake semctl semget semop semtimedop shmat shmctl shmdt shmget',
  signals: `
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack
    signalfd signalfd4`,
  sockets: `
    accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto
    setsockopt shutdown`,
  time: `
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time timer_create timer_delete
    timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime times`,
  // Who it is, and becoming what it is already: programs that drop privileges ask. Without capabilities they gain nothing.
  identity: `
    capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid setgid setgroups setregid setresgid
    setresuid setreuid setuid`,
  rest: 'getrandom landlock_add_rule landlock_create_ruleset landlock_restrict_self sysinfo uname',
};

/** Unix, IPv4, IPv6 and netlink (which lists interfaces). Of the others some know no network namespace: vsock leads to the hypervisor. */
const SOCKET_FAMILIES = [1, 2, 10, 16];

/** CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET: the flags of `clone` that make namespaces. */
const NAMESPACE_FLAGS = 0x7e020000;
const ENOSYS = 38;
/** The personality that every program has, and the question for it. */
const PERSONALITIES = [0, 0xffffffff];

/**
 * The engine's own profile differs by its version (vsock and io_uring, which gets round such filters, are open in some), so instances bring
 * theirs. What is not named is refused, without io_uring, ptrace, keyrings, BPF and new namespaces; programs for 32 bits do not run at all, since
 * their one call for all sockets hides which it is.
 */
export const SECCOMP_PROFILE = JSON.stringify({
  defaultAction: 'SCMP_ACT_ERRNO',
  archMap: ['SCMP_ARCH_X86_64', 'SCMP_ARCH_AARCH64'].map((architecture) => ({ architecture, subArchitectures: [] })),
  syscalls: [
    { names: Object.values(CALLS).flatMap((calls) => calls.trim().split(/\s+/)), action: 'SCMP_ACT_ALLOW' },
    ...SOCKET_FAMILIES.map((family) => allowWhere('socket', 0, 'SCMP_CMP_EQ', family)),
    allowWhere('socketpair', 0, 'SCMP_CMP_EQ', 1),
    ...PERSONALITIES.map((value) => allowWhere('personality', 0, 'SCMP_CMP_EQ', value)),
    allowWhere('clone', 0, 'SCMP_CMP_MASKED_EQ', NAMESPACE_FLAGS),
    // Its flags lie in memory, where no filter sees them. This answer makes the C library use `clone`.
    { names: ['clone3'], action: 'SCMP_ACT_ERRNO', errnoRet: ENOSYS },
  ],
});

function allowWhere(name: string, index: number, op: 'SCMP_CMP_EQ' | 'SCMP_CMP_MASKED_EQ', value: number): object {
  return { names: [name], action: 'SCMP_ACT_ALLOW', args: [{ index, value, valueTwo: 0, op }] };
}
