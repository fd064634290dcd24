use super::*;

fn parsed(text: &str) -> ProbeSpec {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

fn function(object: &str, name: Name, offset: u64) -> ProbeSpec {
    ProbeSpec::at(PlaceSpec::Function { object: object.into(), name, offset })
}

fn line(object: Option<&str>, within: &str, line: u64) -> ProbeSpec {
    ProbeSpec::at(PlaceSpec::Line { object: object.map(str::to_owned), within: within.into(), line })
}

fn usdt(object: &str, provider: Name, name: Name) -> ProbeSpec {
    ProbeSpec::at(PlaceSpec::Usdt { object: object.into(), provider, name })
}

#[test]
fn every_form_is_parsed_and_printed_again() {
    let plain = |object: &str, name: &str| function(object, Name::plain(name), 0);
    let each =
        |object: &str, name: Name| ProbeSpec::at(PlaceSpec::EachInstruction { object: object.into(), name });
    for (text, spec) in [
        ("libc.so.6:malloc", plain("libc.so.6", "malloc")),
        ("libc.so.6:malloc+0x10", function("libc.so.6", Name::plain("malloc"), 16)),
        ("libc.so.6:memcpy@@GLIBC_2.14", plain("libc.so.6", "memcpy@@GLIBC_2.14")),
        ("libc.so.6:mem*", plain("libc.so.6", "mem*")),
        ("./p:main.(*Counter).Add", plain("./p", "main.(*Counter).Add")),
        ("./p:github.com/a/b.(*T).F", plain("./p", "github.com/a/b.(*T).F")),
        ("./p:type:.eq.main.T", plain("./p", "type:.eq.main.T")),
        ("./p:shop::Cart::total(int, char)", plain("./p", "shop::Cart::total(int, char)")),
        (
            "./p:<alloc::vec::Vec<T> as core::fmt::Debug>::fmt",
            plain("./p", "<alloc::vec::Vec<T> as core::fmt::Debug>::fmt"),
        ),
        ("./p:operator+", plain("./p", "operator+")),
        ("./p:::f", plain("./p", "::f")),
        (
            "./p:f()::'lambda'(int)::operator()(int) const",
            plain("./p", "f()::'lambda'(int)::operator()(int) const"),
        ),
        ("'/a:b/c':main", plain("/a:b/c", "main")),
        ("[vdso]:clock_gettime", plain("[vdso]", "clock_gettime")),
        ("./p:'a+1'", function("./p", Name::literal("a+1"), 0)),
        ("./p:'it''s'+0x2", function("./p", Name::literal("it's"), 2)),
        ("./p:'main.(*T)'/*", each("./p", Name::literal("main.(*T)"))),
        ("libc.so.6:qsort*/*", each("libc.so.6", Name::plain("qsort*"))),
        ("./p:operator+/*", each("./p", Name::plain("operator+"))),
        ("libc.so.6:0x28000", ProbeSpec::number("libc.so.6", 0x28000)),
        ("0x7fff0000", ProbeSpec::at(PlaceSpec::Address(0x7fff_0000))),
        ("main.c:12", line(None, "main.c", 12)),
        ("src/main.rs:7", line(None, "src/main.rs", 7)),
        ("shop::total:3", line(None, "shop::total", 3)),
        ("./p:main.c:12", line(Some("./p"), "main.c", 12)),
        ("./p:shop::Cart::total(int):3", line(Some("./p"), "shop::Cart::total(int)", 3)),
        ("usdt:libc.so.6:libc:setjmp", usdt("libc.so.6", Name::plain("libc"), Name::plain("setjmp"))),
        ("usdt:/a:b/c:*:gc__*", usdt("/a:b/c", Name::plain("*"), Name::plain("gc__*"))),
        ("usdt:./p:'*':x", usdt("./p", Name::literal("*"), Name::plain("x"))),
        (
            "p:grp/name /bin/ls:0x4000",
            ProbeSpec::at(PlaceSpec::UprobeEvent(UprobeEvent {
                group: "grp".into(),
                event: "name".into(),
                path: "/bin/ls".into(),
                offset: 0x4000,
                counter: None,
            })),
        ),
    ] {
        assert_eq!(parsed(text), spec, "{text}");
        assert_eq!(spec.to_string(), text);
    }
    for (text, place) in [
        ("libc.so.6:malloc%return", "libc.so.6:malloc"),
        ("./p:'f%return'%return", "./p:'f%return'"),
        ("libc.so.6:str*%return", "libc.so.6:str*"),
        ("./p:0x1234%return", "./p:0x1234"),
    ] {
        assert_eq!(parsed(text), ProbeSpec { on_return: true, ..parsed(place) }, "{text}");
        assert_eq!(parsed(text).to_string(), text);
    }
    assert_eq!(parsed("libc.so.6:malloc+16").to_string(), "libc.so.6:malloc+0x10");
    assert_eq!(parsed("\"./p\":\"f\"").to_string(), "./p:'f'");
    // Found by fuzzing: names that look like something else.
    for text in ["a:1+0x0", "a:b+1+0x0", "a:b%return+0x0", "'a':1+0x0", "'a:b':'c:d':1"] {
        assert_eq!(parsed(&parsed(text).to_string()), parsed(text), "{text}");
    }
}

#[test]
fn what_stands_behind_a_probe_is_handed_on() {
    for (text, probe, rest) in [
        ("./p:f", "./p:f", ""),
        (" ./p:f  ", "./p:f", ""),
        ("./p:f x=%di", "./p:f", "x=%di"),
        ("./p:f(int, char) x=%di y=+8(%si):u32 if x > 1", "./p:f(int, char)", "x=%di y=+8(%si):u32 if x > 1"),
        ("./p:f if(x)", "./p:f", "if(x)"),
        ("./p:f if!x", "./p:f", "if!x"),
        ("./p:f iffy=%di if iffy", "./p:f", "iffy=%di if iffy"),
        ("./p:operator new(unsigned long)  if x == y ", "./p:operator new(unsigned long)", "if x == y"),
        ("./p:f == g", "./p:f == g", ""),
        ("./p:Fn<Item = u32>::f a=%di", "./p:Fn<Item = u32>::f", "a=%di"),
        ("./p:'a x=1 b'+4 n=%di", "./p:'a x=1 b'+4", "n=%di"),
        ("libc.so.6:malloc%return size=$retval", "libc.so.6:malloc%return", "size=$retval"),
        ("a.c:12 x=n if n", "a.c:12", "x=n if n"),
        ("0x1000 x=%di", "0x1000", "x=%di"),
        // A program may be called `p`.
        ("p:main x=a:0x1", "p:main", "x=a:0x1"),
        ("p:main if x", "p:main", "if x"),
        ("p:f(int, std::string)", "p:f(int, std::string)", ""),
        ("p:n /bin/ls:0x10 a=%di", "p:n /bin/ls:0x10", "a=%di"),
    ] {
        let (spec, found) = ProbeSpec::parse_with_rest(text).unwrap();
        assert_eq!((spec, found.text), (parsed(probe), rest), "{text}");
        assert_eq!(&text[found.offset..found.offset + rest.len()], rest, "{text}");
    }
}

#[test]
fn what_is_no_probe_is_refused_with_its_place() {
    for (text, column, part) in [
        ("", 1, "colon"),
        (":", 1, "object"),
        ("malloc", 7, "colon"),
        (":malloc", 1, "object"),
        ("libc:", 6, "behind the colon"),
        ("libc:+4", 6, "plus"),
        ("libc:/*", 6, "before /*"),
        ("libc:malloc+4/*", 12, "no offset"),
        ("libc:0x", 8, "digits"),
        ("libc:0xg", 8, "quote"),
        ("libc:0x10/*", 8, "digits"),
        ("main.c:0", 8, "from 1"),
        ("main.c:99999999999999999999", 8, "from 1"),
        ("0x", 3, "digits"),
        ("0x+1", 3, "digits"),
        ("0x11111111111111111", 3, "digits"),
        ("libc:'f", 6, "not closed"),
        ("libc:'f'g", 9, "behind the quote"),
        ("libc:''", 6, "in the quotes"),
        ("'libc'x:f", 7, "colon"),
        ("libc:f+4%return", 9, "offset"),
        ("libc:f/*%return", 9, "/*"),
        ("f.c:1%return", 6, "line"),
        ("usdt:libc.so.6:setjmp", 22, "PROVIDER"),
        ("usdt:libc.so.6::setjmp", 23, "PROVIDER"),
        ("usdt:a:b:c%return", 11, "USDT"),
        ("libc:f x=1", 8, "nothing behind"),
    ] {
        let error = text.parse::<ProbeSpec>().unwrap_err();
        let message = error.to_string();
        assert_eq!(error.column, column, "{message}");
        assert!(message.contains(text) && message.contains(part) && !message.contains('\n'), "{message}");
    }
}
