"""The system calls that code in a sandbox may make, as one table and as the engine's JSON.

Deny by default.  The table is a list of what CPython, glibc, numpy and the OCI runtime's last
steps need, by subject; whatever is not in it answers EPERM.  Named here because they were left
out on purpose: io_uring, keyrings, bpf, perf events, userfaultfd, ptrace, process_vm_*, mounts,
namespaces, file handles, fanotify, modules, clocks, reboot, quotas, personality.
"""

from __future__ import annotations

from typing import Any

EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
AF_UNIX = 1
NEW_NAMESPACES = 0x7E020080
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME."""
IOCTLS = (
    *range(0x5401, 0x5408),  # TCGETS, TCSETS*, TCGETA …: isatty() and friends
    *range(0x540E, 0x5412),  # TIOCSCTTY, TIOCGPGRP, TIOCSPGRP, TIOCOUTQ
    *(0x5413, 0x5414),  # window size
    *(
        0x541B,
        0x5421,
        0x5429,
        0x5450,
        0x5451,
        0x5452,
    ),  # FIONREAD FIONBIO … FIOASYNC
    *(0x80045430, 0x40045431, 0x5441),  # pseudo-terminals
)
"""Requests on descriptors.  TIOCSTI and TIOCLINUX, which type into terminals, are left out."""
PERSONALITY_QUERY = 0xFFFFFFFF

ALLOWED: dict[str, str] = {
    "processes": """
        arch_prctl execve execveat exit exit_group fork vfork getpgid getpgrp getpid getppid
        getsid gettid kill tgkill tkill pidfd_open pidfd_send_signal prctl rseq set_robust_list
        get_robust_list set_tid_address setpgid setsid wait4 waitid restart_syscall
    """,
    "identity": """
        capget capset getegid geteuid getgid getgroups getresgid getresuid getuid setfsgid setfsuid
        setgid setgroups setregid setresgid setresuid setreuid setuid umask
    """,
    "scheduling and limits": """
        getcpu getpriority getrlimit getrusage sched_get_priority_max
        sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
        sched_rr_get_interval sched_setaffinity sched_yield setpriority setrlimit times
        get_mempolicy membarrier
    """,
    "memory": """
        brk madvise mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall
        munmap memfd_create pkey_alloc pkey_free pkey_mprotect
    """,
    "signals": """
        alarm pause rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
        rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sigaltstack signalfd signalfd4
    """,
    "time": """
        clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep setitimer time
        timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create
        timerfd_gettime timerfd_settime
    """,
    "locks and events": """
        epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2
        futex futex_waitv inotify_add_watch inotify_init inotify_init1 inotify_rm_watch poll ppoll
        pselect6 select
    """,
    "descriptors": """
        close close_range dup dup2 dup3 fadvise64 fallocate fcntl fdatasync flock fstat fstatfs
        fsync ftruncate getdents getdents64 lseek pipe pipe2 pread64 preadv preadv2 pwrite64
        pwritev pwritev2 read readahead readv sendfile splice sync_file_range syncfs tee
        copy_file_range vmsplice write writev
    """,
    "paths": """
        access chdir chmod chown creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2
        fchown fchownat fgetxattr flistxattr fremovexattr fsetxattr futimesat getcwd
        getxattr lchown lgetxattr link linkat listxattr llistxattr lremovexattr lsetxattr
        lstat mkdir mkdirat mknod mknodat newfstatat open openat openat2 readlink readlinkat
        removexattr rename renameat renameat2 rmdir setxattr stat statfs statx symlink
        symlinkat sync truncate unlink unlinkat utime utimensat utimes
    """,
    "local sockets": """
        accept accept4 bind connect getpeername getsockname getsockopt listen recvfrom recvmmsg
        recvmsg sendmmsg sendmsg sendto setsockopt shutdown
    """,
    "shared memory and queues": """
        msgctl msgget msgrcv msgsnd semctl semget semop semtimedop shmat shmctl shmdt shmget
        mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink
    """,
    "system": "getrandom sysinfo uname",
    "landlock, which only takes away": """
        landlock_add_rule landlock_create_ruleset landlock_restrict_self seccomp
    """,
}


def _rule(names: str, action: str, **more: Any) -> dict[str, Any]:
    return {"names": names.split(), "action": action, **more}


def _argument(index: int, value: int, op: str, second: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": second, "op": op}


def _conditional() -> list[dict[str, Any]]:
    """Calls of which some arguments are allowed."""
    allow, refuse = "SCMP_ACT_ALLOW", "SCMP_ACT_ERRNO"
    return [
        _rule("socket socketpair", allow, args=[_argument(0, AF_UNIX, "SCMP_CMP_EQ")]),
        _rule(
            "socket socketpair",
            refuse,
            errnoRet=EAFNOSUPPORT,
            args=[_argument(0, AF_UNIX, "SCMP_CMP_NE")],
        ),
        _rule("clone", allow, args=[_argument(0, NEW_NAMESPACES, "SCMP_CMP_MASKED_EQ", 0)]),
        # Its flags are behind a pointer and cannot be looked at; glibc falls back to clone.
        _rule("clone3", refuse, errnoRet=ENOSYS),
        # The kernel looks at the lower 32 bits only, and so does this.
        *(
            _rule("ioctl", allow, args=[_argument(1, 0xFFFFFFFF, "SCMP_CMP_MASKED_EQ", request)])
            for request in IOCTLS
        ),
        # Of the caller itself (a pid has 32 bits), or only to read: the supervisor has the uid that
        # code has, which is all that the kernel asks for.
        _rule("prlimit64", allow, args=[_argument(0, 0xFFFFFFFF, "SCMP_CMP_MASKED_EQ", 0)]),
        _rule("prlimit64", allow, args=[_argument(2, 0, "SCMP_CMP_EQ")]),
        _rule("personality", allow, args=[_argument(0, 0, "SCMP_CMP_EQ")]),
        _rule("personality", allow, args=[_argument(0, PERSONALITY_QUERY, "SCMP_CMP_EQ")]),
    ]


def profile() -> dict[str, Any]:
    """The profile in the engine's JSON shape (that of moby's `profiles/seccomp`).

    Only the native architecture is allowed: 32-bit and x32 calls would go around the arguments
    that are looked at above.
    """
    rules = [_rule(" ".join(names.split()), "SCMP_ACT_ALLOW") for names in ALLOWED.values()]
    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": []},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": []},
        ],
        "syscalls": rules + _conditional(),
    }
