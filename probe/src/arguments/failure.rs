//! How functions of C fail: what they return, and where the thread's `errno` is.

use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register as Name};
use nix::errno::Errno;

use crate::language::types::{Type, TypeId, Types};
use crate::language::{Binary, Expression, Register, Unary, Width};

/// The largest number of an error that the kernel returns.
const MOST: i32 = 4095;

/// The number of an error by its name, or as a number.
pub(crate) fn errno_named(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=MOST).contains(&number).then_some(number);
    }
    // Those that have two.
    let name = match name {
        "EWOULDBLOCK" => "EAGAIN",
        "EDEADLOCK" => "EDEADLK",
        "ENOTSUP" => "EOPNOTSUPP",
        name => name,
    };
    all().find(|(known, _)| known == name).map(|(_, number)| number)
}

/// All errors with names.
fn all() -> impl Iterator<Item = (String, i32)> {
    /// More than Linux has.
    const LAST: i32 = 200;
    let known = (1..LAST).map(|number| (Errno::from_raw(number), number));
    known
        .filter(|(errno, _)| *errno != Errno::UnknownErrno)
        .map(|(errno, number)| (format!("{errno:?}"), number))
}

/// The type of `errno`: a number that has a name.
pub(crate) fn errno_type(types: &mut Types) -> TypeId {
    let enumerators = all().map(|(name, number)| (name, i128::from(number))).collect();
    types.add(Type::Enumeration { name: Some("errno".to_owned()), bytes: 4, signed: true, enumerators })
}

/// What a function returns when it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// This.
    Returns(i64),
    /// The number of the error, and `errno` is left alone.
    Number,
}

/// Those whose type does not say what they return when they fail, or that are well known though nothing tells their type.
/// Where that is the end of the file, EOF or 0, they return that.
const KNOWN: [(&[&str], Failure); 5] = [
    // (void *)-1, MAP_FAILED, SIG_ERR; (iconv_t)-1
    (
        &["mmap", "mmap64", "mremap", "shmat", "sbrk", "signal", "bsd_signal", "sysv_signal", "iconv_open"],
        Failure::Returns(-1),
    ),
    // How much was done; a process that is there without a name.
    (&["fread", "fwrite", "fread_unlocked", "fwrite_unlocked"], Failure::Returns(0)),
    // EAI_SYSTEM: errno says it.
    (&["getaddrinfo", "getnameinfo"], Failure::Returns(-11)),
    (
        &[
            "malloc",
            "calloc",
            "realloc",
            "reallocarray",
            "memalign",
            "aligned_alloc",
            "valloc",
            "pvalloc",
            "strdup",
            "strndup",
            "wcsdup",
            "realpath",
            "canonicalize_file_name",
            "getcwd",
            "get_current_dir_name",
            "fopen",
            "fopen64",
            "fdopen",
            "freopen",
            "freopen64",
            "popen",
            "tmpfile",
            "tmpfile64",
            "fmemopen",
            "open_memstream",
            "fgets",
            "fgetws",
            "opendir",
            "fdopendir",
            "readdir",
            "readdir64",
            "sem_open",
            "ttyname",
            "ctime",
            "localtime",
            "gmtime",
            "getpwnam",
            "getpwuid",
            "getgrnam",
            "getgrgid",
            "setlocale",
            "newlocale",
            "duplocale",
        ],
        Failure::Returns(0),
    ),
    (
        &[
            "posix_memalign",
            "posix_fallocate",
            "posix_fallocate64",
            "posix_fadvise",
            "posix_fadvise64",
            "posix_spawn",
            "posix_spawnp",
            "clock_nanosleep",
            "readdir_r",
            "readdir64_r",
            "ttyname_r",
            "getpwnam_r",
            "getpwuid_r",
            "getgrnam_r",
            "getgrgid_r",
            "getlogin_r",
            "sigwait",
        ],
        Failure::Number,
    ),
];

/// How the function of one of these names fails, if it is known.
pub(crate) fn of_names<'a>(names: impl Iterator<Item = &'a str>) -> Option<Failure> {
    names.map(plain).find_map(|name| {
        let listed = KNOWN.iter().find(|(known, _)| known.contains(&name)).map(|(_, failure)| *failure);
        // Those that return an error's number say so in POSIX, one by one; of these names it is all.
        listed.or_else(|| name.starts_with("pthread_").then_some(Failure::Number))
    })
}

/// A name without what C libraries put before those that they use themselves, and the version behind it.
fn plain(name: &str) -> &str {
    let name = name.split('@').next().unwrap_or(name);
    let name = name.strip_prefix("__GI_").unwrap_or(name);
    let name = name.strip_prefix("__libc_").unwrap_or(name);
    name.trim_start_matches('_')
}

/// The functions that return the address of the thread's `errno`.
pub(crate) const ERRNO_LOCATION: [&str; 2] = ["__errno_location", "__errno"];

/// What a function returns that begins with `code` at `address` and only computes: the address of the thread's `errno`.
/// Without a call or a jump, it is followed as it stands: registers hold expressions.
pub(crate) fn returned(code: &[u8], address: u64) -> Option<Expression> {
    const MOST_INSTRUCTIONS: usize = 32;
    let mut followed = Followed::default();
    let decoder = Decoder::with_ip(64, code, address, DecoderOptions::NONE);
    for instruction in decoder.into_iter().take(MOST_INSTRUCTIONS) {
        if instruction.mnemonic() == Mnemonic::Ret {
            return followed.get(Name::RAX).filter(Expression::is_valid);
        }
        followed.follow(&instruction)?;
    }
    None
}

/// Registers as expressions, and what was pushed.
#[derive(Default)]
struct Followed {
    known: Vec<(Name, Expression)>,
    pushed: Vec<Option<Expression>>,
}

impl Followed {
    fn get(&self, register: Name) -> Option<Expression> {
        self.known.iter().find(|(known, _)| *known == register).map(|(_, value)| value.clone())
    }

    fn set(&mut self, register: Name, value: Option<Expression>) {
        self.known.retain(|(known, _)| *known != register);
        self.known.extend(value.map(|value| (register, value)));
    }

    /// `None` for an instruction that is not understood.
    fn follow(&mut self, instruction: &Instruction) -> Option<()> {
        let is_wide = |index| {
            instruction.op_kind(index) != OpKind::Register || instruction.op_register(index).size() == 8
        };
        match instruction.mnemonic() {
            Mnemonic::Endbr64 | Mnemonic::Nop => {}
            Mnemonic::Push => {
                let value = self.get(instruction.op0_register());
                self.pushed.push(value);
            }
            Mnemonic::Pop => {
                let value = self.pushed.pop()?;
                self.set(instruction.op0_register(), value);
            }
            Mnemonic::Mov | Mnemonic::Add | Mnemonic::Sub | Mnemonic::Lea
                if instruction.op0_kind() == OpKind::Register && is_wide(0) && is_wide(1) =>
            {
                let to = instruction.op0_register();
                let value = match instruction.mnemonic() {
                    Mnemonic::Lea => self.address(instruction),
                    _ => self.operand(instruction),
                };
                let value = match instruction.mnemonic() {
                    Mnemonic::Add => self.get(to).zip(value).map(|(a, b)| a.binary(Binary::Add, b)),
                    Mnemonic::Sub => self.get(to).zip(value).map(|(a, b)| a.binary(Binary::Subtract, b)),
                    _ => value,
                };
                self.set(to, value);
            }
            _ => return None,
        }
        Some(())
    }

    /// The second operand of an instruction, a quadword.
    fn operand(&self, instruction: &Instruction) -> Option<Expression> {
        match instruction.op1_kind() {
            OpKind::Register => self.get(instruction.op1_register()),
            OpKind::Memory => Some(self.address(instruction)?.unary(Unary::Load(Width::Quadword))),
            _ => instruction.try_immediate(1).ok().map(Expression::from),
        }
    }

    fn address(&self, instruction: &Instruction) -> Option<Expression> {
        if instruction.memory_index() != Name::None {
            return None;
        }
        let displacement = Expression::from(instruction.memory_displacement64());
        let address = match instruction.memory_base() {
            // The displacement is the address already.
            Name::RIP | Name::None => displacement,
            base => self.get(base)?.binary(Binary::Add, displacement),
        };
        Some(match instruction.segment_prefix() {
            Name::FS => Expression::register(Register::FsBase).binary(Binary::Add, address),
            Name::None => address,
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::language::{Circumstance, ExtendedRegister, Machine};

    struct Thread;

    impl Machine for Thread {
        fn register(&mut self, register: Register) -> u64 {
            if register == Register::FsBase { 0x7000 } else { 0 }
        }

        fn extended(&mut self, _: ExtendedRegister, _: u8) -> Option<u64> {
            None
        }

        fn circumstance(&mut self, _: Circumstance) -> Option<u64> {
            None
        }

        /// A thread pointer that points to itself, and a distance of -0x80 at 0x2000.
        fn read_up_to(&mut self, address: u64, bytes: &mut [u8]) -> usize {
            let value: u64 = match address {
                0x7000 => 0x7000,
                0x2000 => 0x80u64.wrapping_neg(),
                _ => return 0,
            };
            bytes.copy_from_slice(&value.to_le_bytes()[..bytes.len()]);
            bytes.len()
        }
    }

    #[test]
    fn every_way_to_errno_is_followed() {
        let cases: [(&[u8], u64); 4] = [
            // endbr64; mov 0xff5(%rip),%rax; add %fs:0,%rax; ret: a shared glibc.
            (
                &[
                    0xf3, 0x0f, 0x1e, 0xfa, 0x48, 0x8b, 0x05, 0xf5, 0x0f, 0, 0, 0x64, 0x48, 0x03, 0x04, 0x25,
                    0, 0, 0, 0, 0xc3,
                ],
                0x6f80,
            ),
            // mov $-0x40,%rax; add %fs:0,%rax; ret: a static one.
            (
                &[0x48, 0xc7, 0xc0, 0xc0, 0xff, 0xff, 0xff, 0x64, 0x48, 0x03, 0x04, 0x25, 0, 0, 0, 0, 0xc3],
                0x6fc0,
            ),
            // mov %fs:0,%rax; add $0x34,%rax; ret: musl.
            (&[0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x83, 0xc0, 0x34, 0xc3], 0x7034),
            // push %rbp; mov %rsp,%rbp; mov %fs:0,%rax; lea -8(%rax),%rax; pop %rbp; ret: not optimized.
            (
                &[
                    0x55, 0x48, 0x89, 0xe5, 0x64, 0x48, 0x8b, 0x04, 0x25, 0, 0, 0, 0, 0x48, 0x8d, 0x40, 0xf8,
                    0x5d, 0xc3,
                ],
                0x6ff8,
            ),
        ];
        for (code, expected) in cases {
            let address = returned(code, 0x1000).unwrap();
            assert_eq!(address.evaluate(&mut Thread), Ok(expected));
        }
        // call; and one without an end.
        assert_eq!(returned(&[0xe8, 0, 0, 0, 0, 0xc3], 0), None);
        assert_eq!(returned(&[0x90; 100], 0), None);
        // ret alone: nothing is known of RAX.
        assert_eq!(returned(&[0xc3], 0), None);
    }

    #[test]
    fn errors_have_names() {
        for (name, number) in [("ENOSPC", 28), ("ENOMEM", 12), ("EWOULDBLOCK", 11), ("ENOTSUP", 95), ("7", 7)]
        {
            assert_eq!(errno_named(name), Some(number), "{name}");
        }
        for name in ["", "ENOSUCH", "0", "-1", "4096", "enospc", "UnknownErrno"] {
            assert_eq!(errno_named(name), None, "{name}");
        }
    }

    #[test]
    fn names_say_how_functions_fail() {
        let of = |name: &'static str| of_names([name].into_iter());
        assert_eq!(of("__libc_malloc"), Some(Failure::Returns(0)));
        assert_eq!(of("__GI___libc_malloc"), Some(Failure::Returns(0)));
        assert_eq!(of("mmap64@@GLIBC_2.2.5"), Some(Failure::Returns(-1)));
        assert_eq!(of("pthread_create"), Some(Failure::Number));
        assert_eq!(of("posix_memalign"), Some(Failure::Number));
        assert_eq!(of("write"), None);
    }
}
