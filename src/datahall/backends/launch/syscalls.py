"""The numbers of the system calls that a confined process has no use for, on each processor.

Sources: Linux arch/x86/entry/syscalls/syscall_64.tbl; include/uapi/asm-generic/unistd.h, which aarch64 uses; from 424
on a number is the same everywhere. None: the processor has no such call.
"""

from __future__ import annotations

from typing import Final

Numbers = dict[str, tuple[int | None, int | None]]

PROCESSORS: Final = ("x86_64", "aarch64")
AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""What the kernel calls each processor when it asks a filter (AUDIT_ARCH)."""

METADATA: Final[Numbers] = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "fchown": (93, 55),
    "lchown": (94, None),
    "fchownat": (260, 54),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "setxattrat": (463, 463),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "removexattrat": (466, 466),
    "file_setattr": (469, 469),
}
"""Who may read or write a file, and what is said about it: Landlock leaves these open for every file of the user."""

PROCESSES: Final[Numbers] = {
    "setsid": (112, 157),
    "setpgid": (109, 154),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
}
"""Leaving the group; reading, changing or slowing another process."""

OWN_ONLY: Final[Numbers] = {
    "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122),
    "sched_setparam": (142, 118),
    "sched_setscheduler": (144, 119),
    "sched_setattr": (314, 274),
}
"""What a process may do to itself: the first argument names whose limits or turns are set, 0 is the caller."""

SHARED: Final[Numbers] = {
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "semget": (64, 190),
    "semop": (65, 193),
    "semtimedop": (220, 192),
    "semctl": (66, 191),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
}
"""System V memory, semaphores and queues, POSIX queues, and the kernel's keyrings: shared by all of one user."""

KERNEL: Final[Numbers] = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
}
"""Namespaces, mounts, and parts of the kernel that are seldom used and often broken."""

ABSENT: Final[Numbers] = {
    "io_uring_setup": (425, 425),
    "clone3": (435, 435),
}
"""What says that it is not there, so that libraries take the older way, which a filter can look into."""

LOOKED_INTO: Final[Numbers] = {
    "clone": (56, 220),
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
}


def of_processor(machine: str, calls: Numbers) -> dict[str, int]:
    """Return the numbers of those `calls` that a processor has."""
    place = PROCESSORS.index(machine)
    return {name: number for name, numbers in calls.items() if (number := numbers[place]) is not None}
