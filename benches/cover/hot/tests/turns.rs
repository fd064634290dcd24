//! HOT calls each: of what is counted, too, and so near; of hundreds of instructions that are not; and in four threads.

use std::hint::black_box;

fn times() -> u64 {
    std::env::var("HOT").map_or(10, |times| times.parse().unwrap())
}

fn turns(it: fn()) {
    for _ in 0..times() {
        hot::call(it);
    }
}

fn far() {
    black_box((0..20).fold(1u64, |x, k| x ^ (x << 3) ^ k));
}

#[test]
fn near() {
    turns(hot::nothing);
}

#[test]
fn isolated() {
    turns(far);
}

#[test]
fn threads() {
    let all = [(); 4].map(|()| std::thread::spawn(|| turns(far)));
    all.into_iter().for_each(|one| assert!(one.join().is_ok()));
}
