//! How long an instruction can be, and its prefixes.

/// The longest an instruction can be, in bytes.
pub(crate) const LONGEST: usize = 15;

/// With how many prefixes bytes begin: of a segment, of a size, LOCK, REP or REX.
pub(crate) fn prefix_count(bytes: &[u8]) -> usize {
    let is_prefix = |byte: &u8| matches!(byte, 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x64..=0x67 | 0xf0 | 0xf2 | 0xf3);
    bytes.iter().take_while(|byte| is_prefix(byte)).count()
}
