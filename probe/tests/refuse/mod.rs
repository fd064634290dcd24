//! Makes system calls of the calling thread fail, as some containers and kernels do.

#![allow(dead_code, reason = "each test uses a part of it")]
#![allow(unsafe_code, reason = "seccomp has no safe wrapper")]

use libc::{c_long, sock_filter, sock_fprog};

/// From now on system call `call` fails with `errno` in this thread, and in what it starts, if its first
/// argument is `first`, where that is given.
pub(crate) fn refuse(call: c_long, first: Option<u32>, errno: i32) {
    const NUMBER: u32 = 0;
    const FIRST_ARGUMENT: u32 = 16;
    let statement = |code: u32, k: u32| sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let give_back = |result| statement(libc::BPF_RET | libc::BPF_K, result);
    let unless = |value, skipped| sock_filter {
        code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
        jt: 0,
        jf: skipped,
        k: value,
    };
    let fails = give_back(libc::SECCOMP_RET_ERRNO | u32::try_from(errno).unwrap());
    let allowed = give_back(libc::SECCOMP_RET_ALLOW);
    let call = u32::try_from(call).unwrap();
    let mut filter = match first {
        None => vec![load(NUMBER), unless(call, 1), fails, allowed],
        Some(first) => {
            vec![load(NUMBER), unless(call, 3), load(FIRST_ARGUMENT), unless(first, 1), fails, allowed]
        }
    };
    let program = sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: numbers only.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `program` and the filter that it points to live through the call.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}
