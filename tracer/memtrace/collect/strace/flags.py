# SPDX-License-Identifier: GPL-2.0-or-later
"""The names that strace prints for the bits of an argument, with their values on x86.

Values: the kernel's include/uapi headers; which name is printed for which argument: strace's xlat
tables. A name that is not here makes its line unreadable: it is never taken for 0.
"""

from __future__ import annotations

import errno
import re

Table = dict[bytes, int]


class UnclearError(ValueError):
    """What is printed cannot be read; the text is the sentence that says why.

    `lost`: the call may have changed an address space.
    """

    def __init__(self, why: str, *, lost: bool = True) -> None:
        super().__init__(why)
        self.lost = lost


def _table(prefix: str, **names: int) -> Table:
    return {(prefix + name).encode(): value for name, value in names.items()}


NONE: Table = {}

PROT = _table(
    "PROT_", NONE=0, READ=1, WRITE=2, EXEC=4, SEM=8, GROWSDOWN=0x01000000, GROWSUP=0x02000000
)  # fmt: skip

MAP = _table(
    "MAP_", FILE=0, SHARED=1, PRIVATE=2, SHARED_VALIDATE=3, DROPPABLE=8, FIXED=0x10,
    ANONYMOUS=0x20, ANON=0x20, ABOVE4G=0x80, GROWSDOWN=0x100, DENYWRITE=0x800, EXECUTABLE=0x1000,
    LOCKED=0x2000, NORESERVE=0x4000, POPULATE=0x8000, NONBLOCK=0x10000, STACK=0x20000,
    HUGETLB=0x40000, SYNC=0x80000, FIXED_NOREPLACE=0x100000, UNINITIALIZED=0x4000000,
    HUGE_SHIFT=26,
) | {b"MAP_32BIT": 0x40}  # fmt: skip

MREMAP = _table("MREMAP_", MAYMOVE=1, FIXED=2, DONTUNMAP=4)

MADV = _table(
    "MADV_", NORMAL=0, RANDOM=1, SEQUENTIAL=2, WILLNEED=3, DONTNEED=4, FREE=8, REMOVE=9,
    DONTFORK=10, DOFORK=11, MERGEABLE=12, UNMERGEABLE=13, HUGEPAGE=14, NOHUGEPAGE=15, DONTDUMP=16,
    DODUMP=17, WIPEONFORK=18, KEEPONFORK=19, COLD=20, PAGEOUT=21, POPULATE_READ=22,
    POPULATE_WRITE=23, DONTNEED_LOCKED=24, COLLAPSE=25, HWPOISON=100, SOFT_OFFLINE=101,
    GUARD_INSTALL=102, GUARD_REMOVE=103,
)  # fmt: skip

MLOCK = _table("MLOCK_", ONFAULT=1)
MCL = _table("MCL_", CURRENT=1, FUTURE=2, ONFAULT=4)
SHM = _table("SHM_", RDONLY=0o10000, RND=0o20000, REMAP=0o40000, EXEC=0o100000)
PERSONALITY = _table(
    "PER_", LINUX=0, SVR4=1, SVR3=2, SCOSVR3=3, OSR5=3, WYSEV386=4, ISCR4=5, BSD=6, SUNOS=6,
    XENIX=7, LINUX32=8, LINUX32_3GB=8, IRIX32=9, IRIXN32=10, IRIX64=11, RISCOS=12, SOLARIS=13,
    UW7=14, OSF4=15, HPUX=16,
) | _table(
    "", UNAME26=0x20000, ADDR_NO_RANDOMIZE=0x40000, FDPIC_FUNCPTRS=0x80000,
    MMAP_PAGE_ZERO=0x100000, ADDR_COMPAT_LAYOUT=0x200000, READ_IMPLIES_EXEC=0x400000,
    ADDR_LIMIT_32BIT=0x800000, SHORT_INODE=0x1000000, WHOLE_SECONDS=0x2000000,
    STICKY_TIMEOUTS=0x4000000, ADDR_LIMIT_3GB=0x8000000,
)  # fmt: skip
SHADOW_STACK = _table("SHADOW_STACK_", SET_TOKEN=1, SET_MARKER=2)

#: Options of prctl and arch_prctl that are recorded; every other name is read as OTHER.
PRCTL = _table("PR_", SET_MM=35, SET_THP_DISABLE=41, SET_VMA=0x53564D41)
ARCH = _table("ARCH_", MAP_VDSO_X32=0x2001, MAP_VDSO_32=0x2002, MAP_VDSO_64=0x2003)
OTHER = -1
PR_MM = _table(
    "PR_SET_MM_", START_CODE=1, END_CODE=2, START_DATA=3, END_DATA=4, START_STACK=5, START_BRK=6,
    BRK=7, ARG_START=8, ARG_END=9, ENV_START=10, ENV_END=11, AUXV=12, EXE_FILE=13, MAP=14,
    MAP_SIZE=15,
)  # fmt: skip
PR_VMA = _table("PR_SET_VMA_", ANON_NAME=0)

CLONE = _table(
    "CLONE_", VM=0x100, FS=0x200, FILES=0x400, SIGHAND=0x800, PIDFD=0x1000, PTRACE=0x2000,
    VFORK=0x4000, PARENT=0x8000, THREAD=0x10000, NEWNS=0x20000, SYSVSEM=0x40000, SETTLS=0x80000,
    PARENT_SETTID=0x100000, CHILD_CLEARTID=0x200000, DETACHED=0x400000, UNTRACED=0x800000,
    CHILD_SETTID=0x1000000, NEWCGROUP=0x2000000, NEWUTS=0x4000000, NEWIPC=0x8000000,
    NEWUSER=0x10000000, NEWPID=0x20000000, NEWNET=0x40000000, IO=0x80000000,
    NEWTIME=0x80, CLEAR_SIGHAND=1 << 32, INTO_CGROUP=1 << 33, AUTOREAP=1 << 34, NNP=1 << 35,
    PIDFD_AUTOKILL=1 << 36, EMPTY_MNTNS=1 << 37,
)  # fmt: skip
CSIGNAL = 0xFF

#: open(2)'s flags: only the one that matters has its value.
O_CLOEXEC, FD_CLOEXEC, MFD_CLOEXEC = 0o2000000, 1, 1
CLOSE_RANGE = _table("CLOSE_RANGE_", UNSHARE=2, CLOEXEC=4)
FCNTL = _table("F_", DUPFD=0, SETFD=2, DUPFD_CLOEXEC=1030)

_SIGNALS = (
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
)  # fmt: skip
#: strace calls real-time signals SIGRT_n, counted from the kernel's SIGRTMIN, 32.
SIGNALS: Table = (
    {f"SIG{name}".encode(): n for n, name in enumerate(_SIGNALS, 1)}
    | {b"SIGIOT": 6, b"SIGPOLL": 29, b"SIGCLD": 17, b"SIGUNUSED": 31, b"SIGRTMIN": 32}
    | {f"SIGRT_{n}".encode(): 32 + n for n in range(33)}
)
CLONE_OR_SIGNAL = CLONE | SIGNALS

#: Error names; the last six never reach a program (include/linux/errno.h).
ERRORS: Table = {
    name.encode(): number for name, number in vars(errno).items() if name.startswith("E")
} | {
    b"ENOTSUPP": 524, b"ENOIOCTLCMD": 515, b"ERESTARTSYS": 512, b"ERESTARTNOINTR": 513,
    b"ERESTARTNOHAND": 514, b"ERESTART_RESTARTBLOCK": 516,
}  # fmt: skip

_NUMBER = re.compile(rb"-?[1-9][0-9]{0,19}+|0x[0-9a-f]{1,16}+|0")
#: With -X verbose a comment may hold another one: `0x204 /* 0x4 /* MAP_??? */|0x200 */`.
COMMENT = rb"/\*(?:[^*/]++|\*(?!/)|/(?!\*)|/\*(?:[^*]++|\*(?!/))*+\*/)*+\*/"
_COMMENT = re.compile(rb" ?" + COMMENT, re.DOTALL)


def number(text: bytes, what: str = "a number") -> int:
    """A number as strace prints it: decimal, 0x..., or NULL."""
    if text == b"NULL":
        return 0
    if _NUMBER.fullmatch(text) is None:
        raise UnclearError(f"{_quote(text)} is not {what}")
    return int(text, 16) if text.startswith(b"0x") else int(text)


def value(text: bytes, table: Table, what: str) -> int:
    """An argument made of names, numbers or both: `A|B|0x8`, `0x3 /* A|B */`, `21<<MAP_HUGE_SHIFT`.

    Errors: UnclearError for a name that the table lacks.
    """
    if b"/*" in text:
        text = _COMMENT.sub(b"", text)
    total = 0
    for piece in text.split(b"|"):
        known = table.get(piece)
        if known is None:
            left, shift, right = piece.partition(b"<<")
            if not shift:
                known = number(piece, what)
            elif right == b"MAP_HUGE_SHIFT" and right in table:
                known = (number(left, what) & 0x3F) << table[right]
            else:
                raise UnclearError(f"{_quote(piece)} is not {what}")
        total |= known
    return total


def option(text: bytes, table: Table, prefix: bytes) -> int:
    """The number of an option; of one that the table lacks, OTHER."""
    text = without_comments(text)
    if text in table:
        return table[text]
    return OTHER if text.startswith(prefix) else number(text, "an option")


def without_comments(text: bytes) -> bytes:
    """The text without `/* ... */`."""
    return _COMMENT.sub(b"", text) if b"/*" in text else text


def _quote(text: bytes) -> str:
    shown = text[:40].decode("utf-8", "backslashreplace")
    return f"'{shown}'" if shown else "nothing"
