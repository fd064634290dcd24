//! x
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let mut c = std::process::Command::new(&a[2]);
    c.args(&a[3..]);
    let lim: u64 = a[1].parse().unwrap();
    let r = conformance::lockstep::run(c, (lim > 0).then_some(lim)).unwrap();
    eprintln!("{:#?}", r);
}
