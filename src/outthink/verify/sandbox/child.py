"""The process between Outthink and a program that it runs: it shuts itself in, then becomes the program.

Run as a script, by the standard library alone. It takes limits as JSON in its argument and the program on stdin. Where
it cannot keep what `Sandbox` promises it writes why into the file ``refused`` and ends.

First it takes namespaces of its own, then two more processes: the first process of the new process namespace, whose end
is the end of all in there, and below it the program.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import resource
import signal
import sys

REFUSED = 125
NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 0x40000, 0x2, 0x4
MOUNT_SETATTR, AT_FDCWD, AT_RECURSIVE, ATTR_RDONLY_NOSUID = 442, -100, 0x8000, 0x3
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, CLONE_THREAD = 1, 22, 38, 0x10000
INSIDE = 1000  # the user id inside: not 0, so that becoming the program gives all capabilities up
LIBRARIES = ("/usr/lib", "/usr/lib64", "/usr/lib32", "/usr/local/lib", "/lib", "/lib64", "/nix/store", "/gnu/store")
# Numbers of the system calls that start a process: (architecture, clone, clone3, fork, vfork).
CALLS = {"x86_64": (0xC000003E, 56, 435, 57, 58), "aarch64": (0xC00000B7, 220, 435, 220, 220)}


def libc() -> ctypes.CDLL:
    """The C library, which keeps errno."""
    return ctypes.CDLL(None, use_errno=True)


def must(result: int, what: str) -> None:
    """Raise OSError where a call of the C library failed."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def die_with_parent(parent: int) -> None:
    """Have the kernel end this process when its parent does."""
    must(libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
    if os.getppid() != parent:
        os._exit(REFUSED)


def take_namespaces() -> None:
    """Users, mounts, processes, network and so on of our own."""
    user, group = os.geteuid(), os.getegid()
    must(libc().unshare(NEWUSER | NEWNS | NEWPID | NEWNET | NEWIPC | NEWUTS), "user namespaces are not permitted")
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{INSIDE} {user} 1"),
        ("gid_map", f"{INSIDE} {group} 1"),
    ):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    """mount(2). Raises OSError."""
    texts = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    must(libc().mount(texts[0], texts[1], texts[2], ctypes.c_ulong(flags), texts[3]), f"mounting {target}")


def build_root(root: str, prefix: str, disk_bytes: int) -> None:
    """A root directory at ``root`` with Python and the libraries read-only, and one small directory to write to."""
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=64k,mode=755")
    for path in (prefix, *LIBRARIES, "/etc/ld.so.cache", "/dev/null", "/dev/urandom"):
        inside = root + path
        if not os.path.exists(path) or os.path.lexists(inside):
            continue
        os.makedirs(os.path.dirname(inside), exist_ok=True)
        if os.path.islink(path) and path in LIBRARIES:
            os.symlink(os.readlink(path), inside)
        elif os.path.isdir(path):
            os.makedirs(inside)
            mount(path, inside, None, MS_BIND | MS_REC)
        else:
            os.close(os.open(inside, os.O_CREAT | os.O_WRONLY))
            mount(path, inside, None, MS_BIND)
    os.makedirs(root + "/work")
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY_NOSUID, 0, 0, 0)
    result = libc().syscall(
        MOUNT_SETATTR, AT_FDCWD, os.fsencode(root), AT_RECURSIVE, ctypes.byref(attributes), ctypes.sizeof(attributes)
    )
    must(int(result), "making the file system read-only")
    mount("tmpfs", root + "/work", "tmpfs", MS_NOSUID | MS_NODEV, f"size={disk_bytes},nr_inodes=1024,mode=700")
    os.chroot(root)
    os.chdir("/work")


def forbid_processes() -> None:
    """Have the kernel refuse every call that starts a process; threads are allowed. Raises OSError."""
    if platform.machine() not in CALLS or sys.byteorder != "little":
        raise OSError(errno.ENOSYS, f"no filter of system calls is known for {platform.machine()}")
    arch, clone, clone3, fork, vfork = CALLS[platform.machine()]
    load, equal, at_least, has_bit, give = 0x20, 0x15, 0x35, 0x45, 0x06
    # (operation, operand, where to if so, where to if not); without a place, on to the next.
    program = [
        (load, 4, "", ""),  # the architecture
        (equal, arch, "", "kill"),
        (load, 0, "", ""),  # the number of the call
        (at_least, 0x40000000, "refuse", ""),  # another interface to the same calls
        (equal, fork, "refuse", "") if fork != clone else (load, 0, "", ""),
        (equal, vfork, "refuse", "") if vfork != clone else (load, 0, "", ""),
        (equal, clone3, "missing", ""),  # so that threads are made by clone, whose flags can be read
        (equal, clone, "", "allow"),
        (load, 16, "", ""),  # its first argument
        (has_bit, CLONE_THREAD, "allow", "refuse"),
    ]
    ends = {"allow": 0x7FFF0000, "refuse": 0x50000 | errno.EPERM, "missing": 0x50000 | errno.ENOSYS, "kill": 0x80000000}
    places = {end: len(program) + number for number, end in enumerate(ends)}
    jumps = [
        (code, places[true] - at - 1 if true else 0, places[false] - at - 1 if false else 0, operand)
        for at, (code, operand, true, false) in enumerate(program)
    ]
    _install([*jumps, *((give, 0, 0, value) for value in ends.values())])


def _install(program: list[tuple[int, int, int, int]]) -> None:
    class Instruction(ctypes.Structure):
        _fields_ = (("code", ctypes.c_uint16), ("jt", ctypes.c_uint8), ("jf", ctypes.c_uint8), ("k", ctypes.c_uint32))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_uint16), ("start", ctypes.POINTER(Instruction)))

    array = (Instruction * len(program))(*[Instruction(*each) for each in program])
    must(libc().prctl(PR_SET_SECCOMP, 2, ctypes.byref(Program(len(program), array)), 0, 0), "seccomp")


def limit(limits: dict[str, object]) -> None:
    """Set the limits that the kernel keeps for one process."""
    sizes = {
        resource.RLIMIT_AS: limits["memory_bytes"],
        resource.RLIMIT_CPU: limits["cpu_seconds"],
        resource.RLIMIT_FSIZE: limits["disk_bytes"],
        resource.RLIMIT_NPROC: limits["threads"],
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for which, size in sizes.items():
        most = resource.getrlimit(which)[1]
        size = int(str(size)) if most == resource.RLIM_INFINITY else min(int(str(size)), most)
        resource.setrlimit(which, (size, size))


def become(program: str, limits: dict[str, object]) -> None:
    """Turn into Python running ``program``, without environment or open files but the standard ones."""
    with open("main.py", "w") as file:
        file.write(program)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.closerange(3, 1 << 16)
    limit(limits)
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-B", "-X", "utf8", "main.py"], {})  # noqa: S606  (no shell)


def wait_for(child: int) -> int:
    """The exit code of ``child``, 128 and the number for a signal; others are reaped meanwhile."""
    while True:
        ended, status = os.wait()
        if ended == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def inside(program: str, limits: dict[str, object], note: int) -> int:
    """Be the first process of the namespaces: prepare them, and have the program run below."""
    try:
        must(libc().prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "prctl")
        build_root(f"{limits['place']}/root", str(limits["prefix"]), int(str(limits["disk_bytes"])))
        child = os.fork()
        if child == 0:
            must(libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
            forbid_processes()
            become(program, limits)
        return wait_for(child)
    except OSError as error:
        os.write(note, str(error).encode())
        return REFUSED


def main() -> int:
    """Run the program on stdin within the limits of the argument."""
    limits = json.loads(sys.argv[1])
    program = sys.stdin.read()
    if limits["unprotected"]:
        os.chdir(limits["place"])
        become(program, limits)
    note = os.open(f"{limits['place']}/refused", os.O_CREAT | os.O_WRONLY)
    try:
        if sys.platform != "linux":
            raise OSError(f"{sys.platform} has no namespaces")
        die_with_parent(limits["parent"])
        os.mkdir(f"{limits['place']}/root")
        take_namespaces()
    except OSError as error:
        os.write(note, str(error).encode())
        return REFUSED
    first = os.fork()
    if first == 0:
        os._exit(inside(program, limits, note))
    # Asked to end, it ends the first process, and with it all that is inside; then it waits as always.
    signal.signal(signal.SIGTERM, lambda *_: os.kill(first, signal.SIGKILL))
    return wait_for(first)


if __name__ == "__main__":
    sys.exit(main())
