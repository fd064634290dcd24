//! Files of cases; `vectors/README.md` is the definition.

use std::fmt;
use std::io::{self, Read};
use std::sync::Arc;

use probe::recorded::{self, MAGIC, StartError, WITH_HEADER};

use super::layout::Layout;
use super::state::Fill;

/// The most bytes that a file has uncompressed: reading ends there, whatever a few compressed ones stand for.
pub(super) const LONGEST: u64 = 1 << 26;
/// The longest instruction in bytes.
const INSTRUCTION: usize = 15;
/// The most patches and the most changes that a case has.
pub(super) const MOST_RUNS: usize = u8::MAX as usize;
/// The longest run in bytes.
const RUN: usize = 256;

/// Why a file is not read.
#[derive(Debug)]
pub enum Error {
    /// It cannot be read, or is not compressed as it should be.
    Io(io::Error),
    /// It does not begin as these files do.
    NoVectors,
    /// It has a version that is not known here.
    Version(u8),
    /// Its header is not as it should be.
    Header(String),
    /// It ends in the middle of something.
    Truncated,
    /// It goes on beyond what is read of a file.
    TooLong,
    /// A case is not as it should be: its number in the file, counted from zero.
    Case(u64, &'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io(error) => write!(f, "{error}"),
            Error::NoVectors => write!(f, "this is no file of recorded cases"),
            Error::Version(version) => write!(f, "version {version} of the format is not known"),
            Error::Header(what) => write!(f, "its header: {what}"),
            Error::Truncated => write!(f, "it ends in the middle of a case"),
            Error::TooLong => write!(f, "it is longer than {LONGEST} bytes uncompressed"),
            Error::Case(number, what) => write!(f, "case {number}: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<StartError> for Error {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Io(error) => error.into(),
            StartError::Other => Error::NoVectors,
            StartError::Version(version) => Error::Version(version),
            StartError::Truncated => Error::Truncated,
            StartError::NotText => Error::Header("it is not UTF-8".to_string()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Error::Truncated } else { Error::Io(error) }
    }
}

/// Bytes at an offset of the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Where in the image.
    pub offset: u16,
    /// 1 to 256 bytes.
    pub bytes: Vec<u8>,
}

impl Run {
    /// The offset in the image after the last byte.
    #[must_use]
    pub fn end(&self) -> usize {
        usize::from(self.offset) + self.bytes.len()
    }
}

/// The exception that an instruction raised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The vector.
    pub vector: u8,
    /// The error code, zero for vectors without.
    pub error_code: u16,
    /// CR2; zero unless the vector is 14.
    pub address: u64,
    /// The signal that Linux sent; zero if that was not recorded.
    pub signal: u8,
    /// Its `si_code`, of which these are the low bits.
    pub si_code: i8,
}

/// One instruction in one state, and what came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The instruction.
    pub bytes: Vec<u8>,
    /// What the state is generated from.
    pub seed: u32,
    /// What lanes and memory are filled with.
    pub fill: Fill,
    /// Bits of RFLAGS that the manual leaves undefined after it, or that could not be seen.
    pub undefined: u16,
    /// What is put over the generated image.
    pub patches: Vec<Run>,
    /// `None` if it completed.
    pub raised: Option<Raised>,
    /// What the image holds afterwards where it differs from before; of RIP only what is not obvious.
    pub changes: Vec<Run>,
}

/// What a run of cases have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// iced-x86's name of the encoding.
    pub code: Arc<str>,
    /// r register, m memory, b broadcast, e embedded rounding, s suppress all exceptions; ? where that was not
    /// told.
    pub form: u8,
}

/// Reads a file that has been decompressed.
pub struct Reader<R> {
    input: io::Take<R>,
    header: Option<String>,
    layout: Arc<Layout>,
    form: Form,
    left: u16,
    number: u64,
}

impl<R: Read> Reader<R> {
    /// Reads what comes before the cases.
    ///
    /// # Errors
    /// The input cannot be read, or is no such file, or one that is not understood here.
    pub fn new(input: R) -> Result<Reader<R>, Error> {
        let mut input = input.take(LONGEST);
        let header = recorded::header(&mut input)?;
        let layout = match &header {
            None => Layout::without_header(),
            Some(header) => Layout::parse(header).map_err(Error::Header)?,
        };
        let form = Form { code: "".into(), form: b'?' };
        Ok(Reader { input, header, layout: Arc::new(layout), form, left: 0, number: 0 })
    }

    /// The header, if the file has one.
    #[must_use]
    pub fn header(&self) -> Option<&str> {
        self.header.as_deref()
    }

    /// Where memory lies in the image and in the address space.
    #[must_use]
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The next case and the form that it belongs to; `None` at the end.
    ///
    /// # Errors
    /// The file does not go on as it should.
    pub fn next_case(&mut self) -> Result<Option<(Form, Case)>, Error> {
        match self.read_case() {
            // What is longer ends for us where the limit is.
            Err(Error::Truncated) if self.input.limit() == 0 => Err(Error::TooLong),
            result => result,
        }
    }

    fn read_case(&mut self) -> Result<Option<(Form, Case)>, Error> {
        while self.left == 0 {
            let mut length = [0];
            if self.input.read(&mut length)? == 0 {
                return if self.input.limit() == 0 { Err(Error::TooLong) } else { Ok(None) };
            }
            let number = self.number;
            let code = text(&mut self.input, usize::from(length[0]))
                .map_err(|error| error.unwrap_or(Error::Case(number, "a name that is not UTF-8")))?;
            let [form] = array(&mut self.input)?;
            self.form = Form { code: code.into(), form };
            self.left = u16::from_le_bytes(array(&mut self.input)?);
        }
        self.left -= 1;
        let case = self.case()?;
        self.number += 1;
        Ok(Some((self.form.clone(), case)))
    }

    fn case(&mut self) -> Result<Case, Error> {
        let number = self.number;
        let wrong = |what| Error::Case(number, what);
        let input = &mut self.input;
        let [length] = array(input)?;
        if !(1..=INSTRUCTION).contains(&usize::from(length)) {
            return Err(wrong("an instruction of a length that there is not"));
        }
        let bytes = vector(input, usize::from(length))?;
        let seed = u32::from_le_bytes(array(input)?);
        let [fill] = array(input)?;
        let fill = Fill::of(fill).ok_or(wrong("a fill that there is not"))?;
        let undefined = u16::from_le_bytes(array(input)?);
        let patches = runs(input)?;
        let raised = match array(input)? {
            [0] => None,
            [1] => Some(raised(input)?),
            _ => return Err(wrong("it neither completed nor raised")),
        };
        let changes = runs(input)?;
        if patches.iter().chain(&changes).any(|run| !self.layout.holds(run)) {
            return Err(wrong("a run outside of the image"));
        }
        Ok(Case { bytes, seed, fill, undefined, patches, raised, changes })
    }
}

impl<R: Read> Iterator for Reader<R> {
    type Item = Result<(Form, Case), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_case().transpose()
    }
}

fn array<const N: usize>(input: &mut impl Read) -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn vector(input: &mut impl Read, length: usize) -> Result<Vec<u8>, Error> {
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// UTF-8; without an error where it is not.
fn text(input: &mut impl Read, length: usize) -> Result<String, Option<Error>> {
    String::from_utf8(vector(input, length)?).map_err(|_| None)
}

fn runs(input: &mut impl Read) -> Result<Vec<Run>, Error> {
    let [count] = array(input)?;
    let run = |_| {
        let [low, high, length] = array(input)?;
        Ok(Run { offset: u16::from_le_bytes([low, high]), bytes: vector(input, usize::from(length) + 1)? })
    };
    (0..count).map(run).collect()
}

fn raised(input: &mut impl Read) -> Result<Raised, Error> {
    let [vector] = array(input)?;
    let error_code = u16::from_le_bytes(array(input)?);
    let address = u64::from_le_bytes(array(input)?);
    let [signal, si_code] = array(input)?;
    Ok(Raised { vector, error_code, address, signal, si_code: si_code.cast_signed() })
}

/// The bytes of a file before compression.
///
/// # Errors
/// Something is longer than the format allows: a name or an instruction of more than 255 bytes, a case of more
/// than 255 runs, a run of none or more than 256 bytes, a form of more than 65,535 cases.
pub fn write(header: &str, forms: &[(Form, Vec<Case>)]) -> Result<Vec<u8>, Error> {
    let long = |what: &str| Error::Header(format!("{what} is longer than the format allows"));
    let mut out = MAGIC.to_vec();
    out.push(WITH_HEADER);
    out.extend(u16::try_from(header.len()).map_err(|_| long("the header"))?.to_le_bytes());
    out.extend(header.as_bytes());
    let mut number = 0;
    for (form, cases) in forms {
        out.push(u8::try_from(form.code.len()).map_err(|_| long("a name"))?);
        out.extend(form.code.as_bytes());
        out.push(form.form);
        out.extend(u16::try_from(cases.len()).map_err(|_| long("a form"))?.to_le_bytes());
        for case in cases {
            write_case(case, &mut out).map_err(|what| Error::Case(number, what))?;
            number += 1;
        }
    }
    Ok(out)
}

fn write_case(case: &Case, out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.push(u8::try_from(case.bytes.len()).map_err(|_| "a long instruction")?);
    out.extend(&case.bytes);
    out.extend(case.seed.to_le_bytes());
    out.push(case.fill as u8);
    out.extend(case.undefined.to_le_bytes());
    write_runs(&case.patches, out)?;
    out.push(case.raised.is_some().into());
    if let Some(raised) = case.raised {
        out.push(raised.vector);
        out.extend(raised.error_code.to_le_bytes());
        out.extend(raised.address.to_le_bytes());
        out.extend([raised.signal, raised.si_code.cast_unsigned()]);
    }
    write_runs(&case.changes, out)
}

fn write_runs(runs: &[Run], out: &mut Vec<u8>) -> Result<(), &'static str> {
    out.push(u8::try_from(runs.len()).map_err(|_| "too many runs")?);
    for run in runs {
        out.extend(run.offset.to_le_bytes());
        let length = run.bytes.len().checked_sub(1).and_then(|length| u8::try_from(length).ok());
        out.push(length.ok_or("a run of a length that there is not")?);
        out.extend(&run.bytes);
    }
    Ok(())
}

/// What `after` has where it differs from `before`, as runs: where few equal bytes lie between two they are
/// one.
#[must_use]
pub fn differences(before: &[u8], after: &[u8], start: usize) -> Vec<Run> {
    /// A run of its own costs three bytes.
    const GAP: usize = 3;
    let mut runs: Vec<Run> = Vec::new();
    for (at, (_, byte)) in before.iter().zip(after).enumerate().filter(|(_, (a, b))| a != b) {
        let offset = start + at;
        if let Some(last) = runs.last_mut() {
            let end = last.end();
            if offset - end <= GAP && offset + 1 - usize::from(last.offset) <= RUN {
                last.bytes.extend(&after[end - start..=at]);
                continue;
            }
        }
        let Ok(offset) = u16::try_from(offset) else { break };
        runs.push(Run { offset, bytes: vec![*byte] });
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "code: 0x1000\nregion: 0x1000 0x1000 r-x 0x4000\nregion: 0x3000 0x2000 rw- 0x5000\n";

    fn run(offset: u16, bytes: &[u8]) -> Run {
        Run { offset, bytes: bytes.to_vec() }
    }

    /// Forms in which everything occurs that the format has.
    fn forms() -> Vec<(Form, Vec<Case>)> {
        let completed = Case {
            bytes: vec![0x90],
            seed: 0xdead_beef,
            fill: Fill::F64,
            undefined: 0x8d5,
            patches: vec![run(0, &[1, 2, 3]), run(0x6f00, &[7; 256])],
            raised: None,
            changes: Vec::new(),
        };
        let address = 0x7fff_0000_1234;
        let fault = Raised { vector: 14, error_code: 0x8007, address, signal: 11, si_code: -128 };
        let changes = vec![run(0x88, &[9]), run(0x29c0, &[0; 12])];
        let raised = Case { bytes: vec![0x66; 15], raised: Some(fault), changes, ..completed.clone() };
        let form = |code: &str, form| Form { code: code.into(), form };
        vec![
            (form("Nopd", b'r'), vec![completed.clone(), raised.clone()]),
            (form("Add_rm8_r8", b'm'), vec![raised, completed]),
        ]
    }

    fn read(bytes: &[u8]) -> Result<Vec<(Form, Case)>, Error> {
        Reader::new(bytes)?.collect()
    }

    #[test]
    fn what_is_written_is_read() {
        let written = write(HEADER, &forms()).unwrap();
        let expected: Vec<(Form, Case)> = forms()
            .into_iter()
            .flat_map(|(form, cases)| cases.into_iter().map(move |case| (form.clone(), case)))
            .collect();
        assert_eq!(read(&written).unwrap(), expected);
        assert_eq!(Reader::new(&written[..]).unwrap().header(), Some(HEADER));
    }

    #[test]
    fn a_file_that_is_cut_is_an_error_unless_between_forms() {
        let written = write(HEADER, &forms()).unwrap();
        let first = write(HEADER, &forms()[..1]).unwrap().len();
        let none = write(HEADER, &[]).unwrap().len();
        for length in 0..written.len() {
            let result = read(&written[..length]);
            assert_eq!(result.is_ok(), length == none || length == first, "{length}: {result:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_an_error() {
        let expect = |change: &dyn Fn(&mut Case), wrong: &str| {
            let mut forms = forms();
            change(&mut forms[1].1[1]);
            let error = read(&write(HEADER, &forms).unwrap()).unwrap_err().to_string();
            assert!(error.starts_with("case 3: ") && error.contains(wrong), "{error}");
        };
        expect(&|case| case.bytes.clear(), "length");
        expect(&|case| case.bytes = vec![0x66; 16], "length");
        expect(&|case| case.patches[0].offset = 0x29cb, "outside");
        expect(&|case| case.patches[0].offset = 0x3fff, "outside");
        expect(&|case| case.changes.push(run(0x7000, &[0])), "outside");
        // The last byte of the file says that there are no changes, the one before that it completed.
        let mut written = write(HEADER, &forms()).unwrap();
        let length = written.len();
        written[length - 2] = 2;
        assert!(matches!(read(&written), Err(Error::Case(3, _))));
        for (place, byte) in [(0, b'T'), (7, 0), (7, 3)] {
            let mut written = write(HEADER, &forms()).unwrap();
            written[place] = byte;
            assert!(matches!(read(&written), Err(Error::NoVectors | Error::Version(_))));
        }
        assert!(matches!(read(b"# not at all"), Err(Error::NoVectors)));
    }

    #[test]
    fn no_byte_makes_the_reader_panic() {
        let written = write(HEADER, &forms()).unwrap();
        for place in 0..written.len() {
            for flipped in 1..=255 {
                let mut tampered = written.clone();
                tampered[place] ^= flipped;
                if let Ok(cases) = read(&tampered) {
                    assert!(cases.len() <= usize::from(u16::MAX), "{place}: {flipped}");
                }
            }
        }
    }

    #[test]
    fn a_long_file_ends_in_an_error() {
        // Forms without a name and without cases, for ever.
        let endless = io::Cursor::new(*b"SLVEC\0\0\x01").chain(io::repeat(0));
        assert!(matches!(Reader::new(endless).unwrap().next_case(), Err(Error::TooLong)));
    }

    #[test]
    fn what_does_not_fit_is_not_written() {
        let mut forms = forms();
        forms[0].1[0].patches.push(run(0, &[]));
        assert!(write(HEADER, &forms).is_err());
        forms[0].1[0].patches = vec![run(0, &[1]); 256];
        assert!(write(HEADER, &forms).is_err());
        assert!(write(&" ".repeat(1 << 16), &[]).is_err());
    }

    #[test]
    fn differences_put_over_the_one_make_the_other() {
        let mut rng = crate::rng::Rng::new(1);
        for chance in [1, 30, 95] {
            let before: Vec<u8> = (0..2048).map(|_| rng.u64() as u8).collect();
            let after: Vec<u8> =
                before.iter().map(|byte| if rng.chance(chance) { rng.u64() as u8 } else { *byte }).collect();
            let mut made = before.clone();
            for run in differences(&before, &after, 0x4000) {
                assert!((1..=RUN).contains(&run.bytes.len()));
                let start = usize::from(run.offset) - 0x4000;
                made[start..start + run.bytes.len()].copy_from_slice(&run.bytes);
            }
            assert_eq!(made, after, "{chance} %");
        }
    }
}
